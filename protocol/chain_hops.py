"""Where a session is, and what its client knows of one hop: `chain_session.py` has the rules."""

import enum
from dataclasses import dataclass, field

from protocol.chain_actions import Seat, Stretch
from protocol.messages import Leaving


class Phase(enum.Enum):
    ROUTING = enum.auto()
    AGREEING = enum.auto()
    RUNNING = enum.auto()
    DONE = enum.auto()


@dataclass(slots=True)
class Hop:
    """A hop that serves, did, or shall."""

    seat: Seat
    committed: bool = False  # it serves, or served, an epoch of this session
    running: bool = False  # it has a stretch that is not closed yet
    epoch: int = -1  # the last one it was committed to
    agreed_epoch: int = -1  # answered the reserve or raise of this epoch
    reserved_at: float = float("inf")
    length: int = 0
    journal_from: int = 0
    base: int = 0  # rows it had when the epoch was committed
    cached: int = 0  # rows it had before this session: nobody runs them, so nobody is owed them
    is_heir: bool = False  # what it has from the start was run by the hop whose place it takes
    stretches: list[Stretch] = field(default_factory=list)
    rows_in: int = 0
    rows_out: int = 0
    run_us: int = 0
    heard_at: float = 0.0
    leaving: Leaving | None = None  # it goes
    leaves_at: float = 0.0
    tries: int = 0  # to find heirs for it, since nobody was found last
    rests: int = 0  # how often nobody was found
    seek_at: float = 0.0  # not before

    @property
    def peer(self) -> str:
        return self.seat.peer

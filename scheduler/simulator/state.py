"""What changes while a simulation runs: peers and sessions, and the settings of both."""

from dataclasses import dataclass, field
from enum import Enum, auto

from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.simulator.policies import Seat
from scheduler.simulator.stations import Load
from scheduler.simulator.traces import Request
from scheduler.simulator.world import PeerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times as the real parts have them, where they have them."""

    announce_s: float = 10.0  # between a node's records
    gossip_s: float = 2.0  # until a record is everywhere
    lifetime_s: float = 30.0
    drain_s: float = 30.0
    silence_s: float = 3.0  # until a crashed hop is noticed
    dial_s: float = 0.5  # lost on a peer that is gone
    retry_s: float = 1.0
    patience_s: float = 60.0  # how long a session waits for seats
    kept_room: float = 0.125  # of KV, for answers that have begun, as node/sessions.py keeps it
    line_s: float = 10.0  # of prompts: behind more nobody begins, as there
    visit_s: float = 0.0005  # per hop and row beside computing
    chunk_rows: int = 64  # of a prompt
    rates_s: float = 0.25  # speeds are worked out anew at most this often
    precision: float = 1e-3  # of speeds


class PeerState(Enum):
    AWAY = auto()
    WAITING = auto()  # there, without a span
    LOADING = auto()
    SERVING = auto()
    DRAINING = auto()


@dataclass(slots=True, eq=False)
class Peer:
    """A machine during the run."""

    spec: PeerSpec
    index: int
    state: PeerState = PeerState.AWAY
    span: Span | None = None  # what it serves, or loads
    kv_used: int = 0
    sessions: dict[int, "Session"] = field(default_factory=dict)
    on_disk: set[int] = field(default_factory=set)
    visit: int = 0  # how often it came or changed; what was planned before is void
    next_span: Span | None = None  # while it drains in order to move
    is_fetching: bool = False  # the weights of another span, while it serves this one
    since_s: float = 0.0
    n_asked: int = 0  # how often somebody asked how busy it is
    announced: Announcement | None = None

    @property
    def is_there(self) -> bool:
        return self.state is not PeerState.AWAY

    @property
    def is_serving(self) -> bool:
        return self.state is PeerState.SERVING


class Phase(Enum):
    WAITING = auto()  # for seats
    OPENING = auto()
    PREFILL = auto()
    DECODE = auto()
    REPLAY = auto()
    OVER = auto()


@dataclass(slots=True, eq=False)
class Session:
    """One answer under way."""

    id: int
    request: Request
    phase: Phase = Phase.WAITING
    seats: list[Seat] = field(default_factory=list)  # in order; gaps where hops were lost
    prompt_left: float = 0.0
    tokens_left: float = 0.0
    replay_left: float = 0.0
    load: Load | None = None
    row_s: float = 0.0  # seconds per row at present; 0: not worked out yet
    avoid: set[PeerId] = field(default_factory=set)
    waiting_since_s: float = 0.0
    first_token_s: float | None = None
    fresh: set[PeerId] = field(default_factory=set)  # hops that lack what was run before them
    n_recoveries: int = 0
    paused_s: float = 0.0
    lost_at_s: float | None = None  # when a hop went; None while all is well
    ticket: int = 0  # what was planned before it changed is void

    @property
    def rows_left(self) -> float:
        if self.phase is Phase.PREFILL:
            return self.prompt_left
        return self.tokens_left if self.phase is Phase.DECODE else self.replay_left

    def run(self, rows: float) -> None:
        """So many rows went through."""
        if self.phase is Phase.PREFILL:
            self.prompt_left = max(0.0, self.prompt_left - rows)
        elif self.phase is Phase.DECODE:
            self.tokens_left = max(0.0, self.tokens_left - rows)
        elif self.phase is Phase.REPLAY:
            self.replay_left = max(0.0, self.replay_left - rows)

    @property
    def has_begun(self) -> bool:
        """Whether anything of it has been run."""
        return self.length > 0

    @property
    def length(self) -> float:
        """Positions that have been run through the whole chain."""
        done = self.request.n_prompt - self.prompt_left
        return done + (self.request.n_answer - 1 - self.tokens_left)

    def missing(self, n_blocks: int) -> list[Span]:
        """The runs of blocks without a seat."""
        gaps, reached = [], 0
        for seat in [*self.seats, Seat(PeerId(""), Span(n_blocks, n_blocks + 1))]:
            if seat.span.start > reached:
                gaps.append(Span(reached, seat.span.start))
            reached = seat.span.stop
        return gaps

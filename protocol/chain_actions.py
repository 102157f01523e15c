"""What the client's rules ask of the shell around them, and the places and stretches they count in.

Plain values: `chain_session.py` returns them, `scheduler/session.py` carries them out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.actions import Push, Return
from protocol.errors import ManyhandsError
from protocol.messages import Leaving, Span, TokenEvent


@dataclass(frozen=True, slots=True)
class Seat:
    """A hop's place in the route: who runs which blocks, and where it is reached."""

    peer: str
    span: Span
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """Positions `[start, stop)` one hop ran in one epoch; those before `prefill_until` prefill.

    The client derives every hop's meter from these and nothing else (5a.11). Rows from
    `prefill_until - 1` on end in a draw at the last hop.
    """

    start: int
    stop: int
    prefill_until: int

    @property
    def heads(self) -> int:
        return max(0, self.stop - max(self.start, self.prefill_until - 1))


@dataclass(frozen=True, slots=True)
class SendReserve:
    """`leaver`: whose rows this one takes over, with its place."""

    seat: Seat
    epoch: int
    leaver: Seat | None = None


@dataclass(frozen=True, slots=True)
class SendRaise:
    peer: str
    epoch: int


@dataclass(frozen=True, slots=True)
class SendCommit:
    """`ids`: for the first hop. `history`: for a last hop that is new to the chain."""

    peer: str
    epoch: int
    length: int
    next_length: int
    n: int
    previous: str
    next: Seat
    ids: tuple[int, ...] = ()
    history: tuple[int, ...] = ()
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Give up a hop: it never got its commit, or it is lost and may not know. Best effort."""

    peer: str


@dataclass(frozen=True, slots=True)
class FindRoute:
    """Fill these runs of blocks; answer with `routed` or `no_route`.

    avoid: who was lost or refused, and why; the latest comes last.
    """

    epoch: int
    missing: tuple[Span, ...]
    survivors: tuple[Seat, ...]
    avoid: Mapping[str, ManyhandsError]


@dataclass(frozen=True, slots=True)
class FindHeirs:
    """Who takes the blocks of a hop that goes? Answer with `heirs`; the chain runs on meanwhile.

    epoch: in which they would serve. left_s: how long the leaver stays. n_rows: it has by then.
    """

    epoch: int
    leaver: Seat
    leaving: Leaving
    left_s: float
    n_rows: int
    survivors: tuple[Seat, ...]
    avoid: Mapping[str, ManyhandsError]


@dataclass(frozen=True, slots=True)
class Deliver:
    """`begins_round`: it is no draft's that came with the token before it."""

    event: TokenEvent
    begins_round: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    """Close every hop. `error` is None when the answer is complete or was cancelled."""

    finish_reason: str
    error: ManyhandsError | None = None


@dataclass(frozen=True, slots=True)
class Take:
    """Rows that came back to a client that holds the ends, from position `start` on."""

    start: int
    rows: int
    body: bytes | memoryview


ChainAction = (
    SendReserve
    | SendRaise
    | SendCommit
    | Release
    | FindRoute
    | FindHeirs
    | Deliver
    | Done
    # Where the client holds the ends, it is a neighbour of hops, with the actions of one:
    | Push
    | Return
    | Take
)

"""What neighbours in a chain say to each other, as values: rows, and how far they came.

Every value checks itself, as in `messages.py`; `codec.py` turns these into bytes and back, and
`links.py` has the rules of one end.

Data stream (a pair of peers):       Frame · Ask →            ← Ack · Gone
    with a client that holds the ends, its last hop answers with Frames, too
"""

from dataclasses import dataclass

from protocol.messages import MAX_POSITIONS, SessionId, require, require_id

MAX_GROUPS = 4096


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Consecutive rows of one session inside a frame.

    `step` numbers the groups of a session on one link, from 0 in every epoch. `start` is the
    position of the first row; above the receiver's length it is a gap. `fork` counts for whoever
    does not know `branch` yet: rows from there on are others than those of earlier branches, a
    rollback where the receiver has them, even when `start` lies below, in a refill.
    """

    session: SessionId
    epoch: int
    branch: int
    step: int
    start: int
    rows: int
    fork: int = 0

    def __post_init__(self) -> None:
        require_id(self.session, "session")
        lowest = min(self.epoch, self.branch, self.step, self.start, self.fork)
        require(lowest >= 0, "negative row group")
        require(self.rows > 0 and self.start + self.rows <= MAX_POSITIONS, "rows out of range")


@dataclass(frozen=True, slots=True)
class Frame:
    """Row groups and their rows: hidden states, or token ids when `row_bytes` is TOKEN_BYTES.

    body: the rows of all groups, one after the other, `row_bytes` each, in the chain's dtype.
    """

    groups: tuple[RowGroup, ...]
    row_bytes: int
    body: bytes | memoryview

    def __post_init__(self) -> None:
        require(0 < len(self.groups) <= MAX_GROUPS, "a frame carries at least one row group")
        require(0 < self.row_bytes <= 1 << 20, "row size out of range")
        rows = sum([group.rows for group in self.groups])
        if len(self.body) != rows * self.row_bytes:
            told = f"{rows} rows of {self.row_bytes} bytes announced"
            require(False, f"{told}, {len(self.body)} bytes received")


@dataclass(frozen=True, slots=True)
class Ack:
    """Receiver to sender: I have run all rows before `length` (credit for more).

    With `rewind` it is also a request: send again from `length` on (a gap, or a new stream);
    `branch` is the one those rows are of, so that a rollback that was lost on the way is not.
    """

    session: SessionId
    epoch: int
    length: int
    rewind: bool = False
    branch: int = 0

    def __post_init__(self) -> None:
        require_id(self.session, "session")
        require(min(self.epoch, self.length, self.branch) >= 0, "negative acknowledgement")


@dataclass(frozen=True, slots=True)
class Ask:
    """Sender to receiver, on a re-opened stream: how far did you get? Answered by `Ack(rewind)`."""

    session: SessionId
    epoch: int

    def __post_init__(self) -> None:
        require_id(self.session, "session")


@dataclass(frozen=True, slots=True)
class Gone:
    """Receiver to sender: that session is over here; stop sending."""

    session: SessionId

    def __post_init__(self) -> None:
        require_id(self.session, "session")


DataMessage = Frame | Ack | Ask | Gone

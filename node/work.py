"""What the batcher and the sessions of a node hand each other: runs one way, results the other."""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from node.engine import Lease
from protocol.actions import Line, Run
from protocol.draws import Drawn
from protocol.errors import ManyhandsError
from protocol.logprobs import PromptLogprobs
from protocol.wire import WireFormat

if TYPE_CHECKING:
    from node.readout import Readout
    from protocol.sampling import Floats


class Lane(Protocol):
    """A session, as the batcher sees it."""

    def __hash__(self) -> int: ...

    @property
    def lease(self) -> Lease: ...

    @property
    def wire(self) -> WireFormat:
        """What hidden rows come and leave as."""

    @property
    def end_wire(self) -> WireFormat | None:
        """What hidden rows behind which a token is drawn are wanted as; None: not at all."""

    @property
    def deadline(self) -> float:
        """On the monotonic clock; later than that nothing of it is run."""

    @property
    def generation(self) -> int:
        """Goes up when queued work is void: at a raise, a close, a cancel."""

    def is_wanted(self, ticket: int) -> bool:
        """Whether that run is to be run still: rows of a branch that was given up meanwhile are
        not. Any thread may ask.
        """

    @property
    def is_own_ring(self) -> bool:
        """Whether this node is the whole chain, so that a result is at once the next input."""

    @property
    def is_held_up(self) -> bool:
        """Whether its draw would wait for long, for what it may draw; any thread may ask."""

    @property
    def is_guest(self) -> bool:
        """Whether its prompt goes behind everybody else's."""

    @property
    def is_bare(self) -> bool:
        """Whether the client holds the ends: hidden rows in and out, whatever the blocks."""

    def mends(self, position: int) -> bool:
        """Whether the answer had begun beyond this row, which another hop had run and took away."""

    @property
    def readout(self) -> "Readout | None":
        """Where every row is wanted, not only the token behind the last one. Before `draw`."""

    def is_answer(self, position: int) -> bool:
        """Whether rows from there on are of ids that were drawn, or are drafts."""

    def draw(self, logits: "Floats", position: int, line: Line | None = None) -> tuple[Drawn, ...]:
        """The id for `position`, and for those that follow as long as they are as drafted; called
        on the worker thread, a pure function of the session. logits: [rows, vocab_size].
        """

    def ran(self, results: "Done") -> None:
        """Called on the event loop: what others wait for."""

    def afterwards(self) -> None:
        """Called on the event loop, once that is on its way: words to the client, books."""

    def run_failed(self, error: ManyhandsError) -> None:
        """Called on the event loop."""


@dataclass(slots=True)
class Work:
    """A run of one session; `at` rows of it are done."""

    lane: Lane
    run: Run
    generation: int
    at: int = 0
    since_s: float = 0.0  # when what it is of came here, on the performance counter
    found_idle: bool = False  # whether the thread did nothing then, or waited for this

    @property
    def left(self) -> int:
        return self.run.rows - self.at

    @property
    def start(self) -> int:
        """The position of the next row."""
        return self.run.start + self.at

    def payload(self, rows: int) -> bytes | memoryview:
        """The next `rows` rows, as they came; a view where they came as one."""
        width = len(self.run.payload) // self.run.rows
        return self.run.payload[self.at * width : (self.at + rows) * width]


@dataclass(slots=True)  # not frozen: one is made for every row, at three times the price
class Done:
    """Rows of one session that were run. `output` may be empty where the model ends."""

    lane: Lane
    ticket: int
    rows: int
    output: bytes | memoryview
    drawn: tuple[Drawn, ...]
    run_us: int
    read: PromptLogprobs | None = None  # of the piece it ends
    since_s: float = 0.0  # when its work came, and when it began to run
    began_s: float = 0.0


@dataclass(slots=True)
class Seen:
    """A step that ran, for those who keep the announcement honest. Complete once all has left."""

    kind: str  # as the schedule calls it
    n_blocks: int  # that its sessions ran, of the span
    rows: int
    spent_us: float
    waits_us: tuple[float, ...]  # for others, of each work whose first row was in it
    came_us: tuple[float, ...] = ()  # from the arrival of each that waited for nobody to its begin
    left_us: float = 0.0  # from its end until all that others wait for has left


@dataclass(frozen=True, slots=True)
class RowCost:
    """Of one row more in a step. row_s: 0 where nothing is known of it yet. n_decoding: sessions
    that would wait for it, its own included. step_s: of a step without rows.
    """

    row_s: float
    n_decoding: int
    step_s: float = 0.0


@dataclass(slots=True)
class Load:
    """What the worker has done and what waits, for admission, announcements and status."""

    steps: int = 0
    rows: int = 0
    busy_s: float = 0.0
    batch_rows: deque[int] = field(default_factory=lambda: deque(maxlen=256))
    waiting: int = 0  # sessions with rows that are not run yet
    backlog_s: float = 0.0  # what their prompts will take, by the measured step times
    busy_since_s: float | None = None  # when what it does now began; None: it waits for work

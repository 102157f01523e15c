"""What goes into the next step: the policy, without threads, tensors or a clock of its own.

In: the oldest work of each session, longest unserved first, and what steps took so far. Out: which
sessions run how many rows now, and which are too late. Decodes and verify windows go first and all
together. Prompts fill the step up to `SLOWDOWN` times what the decodes take alone, judged by
`step_cost.py`; where nobody decodes they get whole chunks. Of a step's prompt rows a quarter go to
the session that waited longest, so that nobody starves, the rest to the shortest prompt, so that a
short one does not wait behind a long one. Sessions whose blocks overlap share a step, since what
each block costs once is then paid once; others take turns.

A prompt that is run again because a hop was lost has a reader who sees the answer stand still. Such
rows go before all but the quarter, one session after the other, in pieces wide enough to be
efficient.

A prompt whose ids' odds are read needs the head for every row, and logits of a whole vocabulary.
It gets few rows at a time, and such a step says nothing about what others take.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from node.step_cost import Shape, StepCost

DECODE_ROWS = 8  # work of at most these is a decode, wherever it stands
WINDOW_ROWS = 16  # of an answer, so many are a token and drafts, which are verified together
MAX_SESSIONS = 128  # of one step
PREFILL_ROWS = 256  # a step's prompt rows at most: the fastest chunk measured over a chain
READ_ROWS = 64  # of a step's prompts whose odds are read; beside decodes `LEAST_ROWS`
LEAST_ROWS = 16  # prompts get at least these in each step, whatever it does to the decodes
UNKNOWN_ROWS = 64  # beside decodes, as long as no step was measured
SLOWDOWN = 1.8  # of a step with decodes, by prompts in it: p95 stays below two
MENDING_SLOWDOWN = 10.0  # by rows of answers that stand still, for as long as that takes
MAX_STEP_US = 2e6  # cancels and deadlines are heeded between steps
DECODING_S = 1.0  # a session that decoded this lately will do so again, and should not wait long


class Part(NamedTuple):
    """The blocks `[entry, exit)` that a session runs through here, and whether it brings rows that
    were embedded elsewhere.
    """

    entry: int
    exit: int
    is_bare: bool = False

    def meets(self, other: "Part") -> bool:
        """Whether a step of both is cheaper than one of each."""
        overlap = self.entry < other.exit and other.entry < self.exit
        return overlap and self.is_bare == other.is_bare


@dataclass(frozen=True, slots=True)
class Waiting:
    """The oldest work of one session: rows that may run in one piece."""

    session: Hashable
    part: Part
    start: int  # position of the first row
    rows: int
    deadline: float  # on the clock that `next_step` is told
    mends: bool = False  # its answer had begun, and stands still until these rows are run again
    is_read: bool = False  # it needs logits of each row
    is_guest: bool = False  # its prompt gets what others leave
    is_window: bool = False  # it is a token and drafts behind it

    @property
    def decodes(self) -> bool:
        return self.rows <= DECODE_ROWS or self.is_window


@dataclass(frozen=True, slots=True)
class Step:
    """Sessions and how many of their rows run now. Those of `late` never will."""

    pieces: tuple[tuple[Waiting, int], ...] = ()
    late: tuple[Waiting, ...] = ()

    @property
    def shape(self) -> Shape:
        return Shape.of(*((work.start, rows) for work, rows in self.pieces))

    @property
    def kind(self) -> str:
        if any(work.is_read for work, _ in self.pieces):
            return "read"
        kinds = {work.decodes for work, _ in self.pieces}
        return "mixed" if len(kinds) == 2 else "decode" if True in kinds else "prefill"


class Schedule:
    """Remembers whose turn it is and who decodes; everything else is in its arguments."""

    def __init__(self, cost: StepCost | None = None) -> None:
        self.cost = cost or StepCost()
        self._turn = 0
        self._turns: dict[Part, int] = {}  # of each part that somebody waits for: when it last ran
        self._decoders: dict[int, tuple[float, tuple[int, int]]] = {}  # until, (start, rows)

    def next_step(self, waiting: Sequence[Waiting], now: float) -> Step:
        """`waiting`: at most one entry per session, the longest unserved first."""
        late = tuple(work for work in waiting if work.deadline <= now)
        ready = [work for work in waiting if work.deadline > now] if late else waiting
        if not ready:
            return Step((), late)
        first = self._next_part(ready)
        mine = [work for work in ready if work.part.meets(first)]
        self._turns.update((work.part, self._turn) for work in mine)
        decodes = [work for work in mine if work.decodes][:MAX_SESSIONS]
        prompts = [work for work in mine if not work.decodes][: MAX_SESSIONS - len(decodes)]
        self._note_decoders(decodes, now)
        pieces = [(work, work.rows) for work in decodes]
        if prompts:
            pieces += self._shares(prompts, Step(tuple(pieces)).shape)
        return Step(tuple(pieces), late)

    def ran(self, step: Step, spent_s: float) -> None:
        """That step took so long."""
        if step.kind != "read":
            self.cost.saw(step.kind, step.shape, spent_s * 1e6)

    def over(self, session: int) -> None:
        """That session, by its hash, decodes no more: prompts need leave it no room."""
        self._decoders.pop(session, None)

    @property
    def n_decoding(self) -> int:
        """How many sessions decode, or did a moment ago."""
        return len(self._decoders)

    def backlog_s(self, waiting: Sequence[Waiting]) -> float:
        """How long a prompt that comes now could wait for those before it."""
        if not self.cost.is_known:
            return 0.0
        prompts_us = sum(
            work.rows * self.cost.row_us(work.start + work.rows // 2)
            for work in waiting
            if not work.decodes
        )
        is_shared = bool(self._decoders)  # then prompts get the rest of each step
        return prompts_us / 1e6 * (SLOWDOWN / (SLOWDOWN - 1) if is_shared else 1.0)

    def _next_part(self, ready: Sequence[Waiting]) -> Part:
        """The one that ran longest ago; of equals the first."""
        self._turns = {work.part: self._turns.get(work.part, -1) for work in ready}
        self._turn += 1
        return min(self._turns, key=self._turns.__getitem__)

    def _note_decoders(self, decodes: Sequence[Waiting], now: float) -> None:
        """Those of the last second count: on a longer ring their next rows are under way."""
        for work in decodes:
            # By its hash: an idle node keeps no session alive, nor its memory.
            self._decoders[hash(work.session)] = (now + DECODING_S, (work.start, work.rows))
        if any(until <= now for until, _ in self._decoders.values()):
            self._decoders = {
                session: known for session, known in self._decoders.items() if known[0] > now
            }

    def _shares(self, prompts: Sequence[Waiting], decodes: Shape) -> list[tuple[Waiting, int]]:
        """Rows for each prompt that gets any in this step."""
        is_mending = any(work.mends for work in prompts)
        spare_us = self._spare_us(decodes, MENDING_SLOWDOWN if is_mending else SLOWDOWN)
        longest_unserved = next((work for work in prompts if not work.is_guest), prompts[0])
        shares: dict[Waiting, int] = {}
        room, reading_room = PREFILL_ROWS, LEAST_ROWS if self._decoders else READ_ROWS

        def give(work: Waiting, us: float, most: int) -> float:
            nonlocal room, reading_room
            given = shares.get(work, 0)
            row_us = self.cost.row_us(work.start + given)
            most = min(most, room, reading_room if work.is_read else room)
            rows = min(work.rows - given, int(us / row_us + 1e-6), most)
            if rows <= 0:
                return 0.0
            reading_room -= rows if work.is_read else 0
            shares[work] = given + rows
            room -= rows
            return rows * row_us

        shortest_first = sorted(prompts, key=_order)
        least_us = LEAST_ROWS * self.cost.row_us(shortest_first[0].start)
        spare_us = max(spare_us, least_us)
        if len(prompts) > 1 and not longest_unserved.mends:
            fair = max(spare_us / 4, self.cost.row_us(longest_unserved.start) * LEAST_ROWS / 4)
            spare_us -= give(longest_unserved, fair, PREFILL_ROWS // 4)
        for work in shortest_first:
            spare_us -= give(work, spare_us, PREFILL_ROWS)
        return list(shares.items())

    def _spare_us(self, decodes: Shape, slowdown: float) -> float:
        """How much prompts may add to a step that runs `decodes`."""
        alone = Shape.of(*(run for _, run in self._decoders.values()))
        if not self.cost.is_known:
            return UNKNOWN_ROWS * self.cost.row_us(0) if alone.rows else MAX_STEP_US
        ours_us = self.cost.step_us(decodes)
        if not alone.rows:
            return MAX_STEP_US - ours_us
        return min(MAX_STEP_US, slowdown * self.cost.step_us(alone)) - ours_us


def _order(work: Waiting) -> tuple[bool, bool, int]:
    """Of prompts: those whose answers stand still, then short ones, and guests after all others."""
    return work.is_guest, not work.mends, work.rows

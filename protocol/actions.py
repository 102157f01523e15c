"""What a hop's rules ask of the shell around them, and what they need from it.

In: nothing. Out: plain values `HopSession` returns, and two interfaces it is given: the account
that says what may run, and the text state of the last hop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.frames import Ack, Ask, Gone, RowGroup
from protocol.messages import ToClient


class Tab(Protocol):
    """The hop's account in this session: `ledger` keeps it, the rules only ask and tell."""

    def may_run(self, start: int, rows: int, prefill_until: int) -> bool:
        """Whether running these rows stays within the client's credit."""

    def count(
        self,
        start: int,
        rows: int,
        prefill_until: int,
        heads: int,
        output: bytes | memoryview = b"",
    ) -> None:
        """These rows were run; for `heads` of them the head and the sampler ran, too.

        output: what came of them, where the hop makes fingerprints.
        """


class Ending(Protocol):
    """The last hop's text and stop rules: a pure function of (request, ids), `answer.py`."""

    def add(self, token_id: int) -> tuple[str, str]:
        """The text this id adds, and a finish reason or ""."""


class Drafter(Protocol):
    """Who guesses ahead, where tokens are drawn. The text is the same whatever is guessed."""

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        """Up to `most` ids that may follow these; none: no idea, not yet, or it does not pay now.

        Called whenever the next rows are launched, with the same ids as last time and more, and
        again, with the same, when it thought of something meanwhile (`HopSession.guessed`).
        """


class Launcher(Drafter, Protocol):
    """A drafter that says, too, how its guesses leave."""

    @property
    def at_once(self) -> int:
        """Rows in a frame, of the window guessed last; 0: all of them. Hops run small frames one
        behind the other, each while the next hop runs the one before.
        """


@dataclass(frozen=True, slots=True)
class Line:
    """Drafts under way: ids for positions from `start` on, none of which is judged yet."""

    start: int
    ids: tuple[int, ...]

    def at(self, position: int) -> int | None:
        """The draft for a position; None where there is none."""
        index = position - self.start
        return self.ids[index] if 0 <= index < len(self.ids) else None


@dataclass(frozen=True, slots=True)
class Run:
    """Run rows from position `start`: ids at the first hop, else hidden states.

    With `sample` the last hop draws a token after the last row; with a `line` after each one, as
    long as the draw is the draft that was run next.
    """

    ticket: int
    start: int
    rows: int
    payload: bytes | memoryview
    sample: bool
    line: Line | None = None

    @property
    def heads(self) -> int:
        """How many of its last rows need logits."""
        if not self.sample:
            return 0
        return self.rows if self.line is not None else 1


@dataclass(frozen=True, slots=True)
class Push:
    """Send these rows to the successor."""

    peer: str
    group: RowGroup
    row_bytes: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Return:
    """Send this on a data stream: an answer to the predecessor, or a question to the successor."""

    peer: str
    message: Ack | Ask | Gone


@dataclass(frozen=True, slots=True)
class Tell:
    """Send this to the client."""

    message: ToClient


@dataclass(frozen=True, slots=True)
class Settle:
    """Send the final statement, wait for the final voucher, then call `settled`."""


@dataclass(frozen=True, slots=True)
class Over:
    """Free KV and journal, log the receipt, leave a tombstone."""

    reason: str


Action = Run | Push | Return | Tell | Settle | Over

"""What the last hop has drawn in this epoch, as ids, as text, and as events to tell the client.

In: the committed history, then one id after the other. Out: token events, and them again for a
client that lost its stream. All of it is a pure function of (request, ids): a replacement hop
rebuilds it from the ids the client sends (DESIGN 5a.5).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol.actions import Ending
from protocol.codec import ids_from_bytes, ids_to_bytes
from protocol.logprobs import Logprobs
from protocol.messages import Commit, TokenEvent, require


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the sampler gives; `logprobs` and `pooled` where the client asked for them."""

    token_id: int
    logprobs: Logprobs | None = None
    pooled: bytes = b""


class Draws:
    """Empty until the first commit."""

    __slots__ = ("_ending", "_events", "_make_ending", "_rows_told", "finished", "ids")

    def __init__(self, make_ending: Callable[[Sequence[int], int], Ending]) -> None:
        self._make_ending = make_ending
        self._ending: Ending | None = None
        self._events: list[TokenEvent] = []
        self._rows_told = 0
        self.ids: list[int] = []
        self.finished = False

    @property
    def available(self) -> int:
        """How many ids the first hop may have; it never needs the one that ends the answer."""
        return len(self.ids) - 1 if self.finished else len(self.ids)

    def rows(self, start: int, stop: int) -> bytes:
        """Ids `[start, stop)`, as the first hop gets them."""
        return ids_to_bytes(self.ids[start:stop])

    def check(self, commit: Commit) -> None:
        if not commit.history:
            require(len(self.ids) >= commit.n, "the last hop needs the history")

    def begin_epoch(self, commit: Commit) -> None:
        known = ids_from_bytes(commit.history) if commit.history else self.ids
        self.ids = known[: commit.n]
        self._ending = self._make_ending(self.ids, commit.n_prompt)
        self.finished = False
        self._events.clear()
        self._rows_told = commit.length

    def add(self, drawn: Drawn, epoch: int, length: int) -> TokenEvent:
        """An id was drawn; `length` rows have been run."""
        assert self._ending is not None
        text, finish_reason = self._ending.add(drawn.token_id)
        told = drawn.logprobs
        event = TokenEvent(
            epoch=epoch,
            position=len(self.ids),
            token_id=drawn.token_id,
            text=text,
            rows=length - self._rows_told,
            finish_reason=finish_reason,
            logprob=told.drawn if told else 0.0,
            top_ids=told.ids if told else (),
            top_logprobs=told.values if told else (),
            pooled=drawn.pooled,
        )
        self.ids.append(drawn.token_id)
        self.finished = bool(finish_reason)
        self._rows_told = length
        self._events.append(event)
        return event

    def since(self, have: int) -> list[TokenEvent]:
        """The events a client lacks that holds `have` ids."""
        return [event for event in self._events if event.position >= have]

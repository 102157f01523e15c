"""What the last hop has drawn in this epoch, as ids, as text, and as events to tell the client.

In: the committed history, then one id after the other. Out: token events, and them again for a
client that lost its stream. All of it is a pure function of (request, ids): a replacement hop
rebuilds it from the ids the client sends (DESIGN 5a.5).

Behind the ids there may be drafts: ids that were sent ahead, to be run as if they had been drawn.
Each draw judges one. If they are equal the row is there already; if not, all drafts are void, and
what was run of them has to be taken back: `refused_at` says from where on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol.actions import Ending, Launcher, Line
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
    """Empty until the first commit. `most`: ids in all, prompt and answer."""

    __slots__ = (
        *("_drafter", "_drafts", "_ending", "_events", "_make_drafter", "_make_ending"),
        *("_most", "_rows_told", "finished", "ids", "refused_at"),
    )

    def __init__(
        self,
        make_ending: Callable[[Sequence[int], int], Ending],
        make_drafter: Callable[[Commit], Launcher] | None = None,
        most: int = 0,
    ) -> None:
        self._make_ending, self._make_drafter, self._most = make_ending, make_drafter, most
        self._ending: Ending | None = None
        self._drafter: Launcher | None = None
        self._drafts: list[int] = []  # behind `ids`
        self._events: list[TokenEvent] = []
        self._rows_told = 0
        self.ids: list[int] = []
        self.finished = False
        self.refused_at: int | None = None  # the position of the draw that was not as drafted

    @property
    def available(self) -> int:
        """How many ids the first hop may have; it never needs the one that ends the answer."""
        return len(self.ids) - 1 if self.finished else len(self.ids) + len(self._drafts)

    def rows(self, start: int, stop: int) -> bytes:
        """Ids `[start, stop)`, as the first hop gets them."""
        return ids_to_bytes([*self.ids[start:stop], *self._ahead(start, stop)])

    def _ahead(self, start: int, stop: int) -> list[int]:
        n = len(self.ids)
        return self._drafts[max(0, start - n) : max(0, stop - n)] if self._drafts else []

    @property
    def at_once(self) -> int:
        """How many of them go in one frame; 0: all."""
        return self._drafter.at_once if self._drafter is not None else 0

    @property
    def line(self) -> Line | None:
        """The drafts that are not judged yet."""
        return Line(len(self.ids), tuple(self._drafts)) if self._drafts else None

    def check(self, commit: Commit) -> None:
        if not commit.history:
            require(len(self.ids) >= commit.n, "the last hop needs the history")

    def begin_epoch(self, commit: Commit) -> None:
        known = ids_from_bytes(commit.history) if commit.history else self.ids
        self.ids = known[: commit.n]
        self._ending = self._make_ending(self.ids, commit.n_prompt)
        self._drafter = self._make_drafter(commit) if self._make_drafter is not None else None
        self._drafts.clear()
        self.finished, self.refused_at = False, None
        self._events.clear()
        self._rows_told = commit.length

    def draft(self) -> None:
        """Guess ahead behind a token that was drawn in this epoch, unless there are drafts under
        way, or their rows. The last token is never run.
        """
        is_under_way = bool(self._drafts) or self._rows_told >= len(self.ids)
        may = bool(self._events) and not is_under_way and not self.finished
        if self._drafter is not None and may:
            room = self._most - 1 - len(self.ids)
            self._drafts = list(self._drafter.guess(self.ids, room))[: max(0, room)]

    def take(self, drawn: Sequence[Drawn], epoch: int) -> list[TokenEvent]:
        """Ids, in order, up to one that was not as drafted."""
        events: list[TokenEvent] = []
        for each in drawn:
            events.append(self.add(each, epoch))
            if self.finished or self.refused_at is not None:
                break
        return events

    def add(self, drawn: Drawn, epoch: int) -> TokenEvent:
        """An id was drawn. Every hop runs all rows that were sent, so these are told."""
        assert self._ending is not None
        sent = len(self.ids) + len(self._drafts)
        text, finish_reason = self._ending.add(drawn.token_id)
        told = drawn.logprobs
        event = TokenEvent(
            epoch=epoch,
            position=len(self.ids),
            token_id=drawn.token_id,
            text=text,
            rows=sent - self._rows_told,
            finish_reason=finish_reason,
            logprob=told.drawn if told else 0.0,
            top_ids=told.ids if told else (),
            top_logprobs=told.values if told else (),
            pooled=drawn.pooled,
        )
        self._rows_told = sent
        self._judge(drawn.token_id)
        self.ids.append(drawn.token_id)
        self.finished = bool(finish_reason)
        self._events.append(event)
        return event

    def _judge(self, token_id: int) -> None:
        """Whether the next draft is this draw."""
        if not self._drafts:
            return
        if self._drafts[0] == token_id:
            del self._drafts[0]
            return
        self._drafts.clear()
        self.refused_at = self._rows_told = len(self.ids)  # its row is run again, with this id

    def since(self, have: int) -> list[TokenEvent]:
        """The events a client lacks that holds `have` ids."""
        return [event for event in self._events if event.position >= have]

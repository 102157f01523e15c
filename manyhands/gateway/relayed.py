"""An upstream's answer on its way to a caller: the same frames, and the same promises as ours.

In: an answer that is asked for. Out: its frames as they come, for the one loop that sends streams
(`stream.py`); what is ours (who answered, why, at what cost) stands in the last one. It runs as an
answer of the swarm does: counted, waited for at the gateway's end, and over when its caller leaves.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field

from manyhands.gateway.answers import Observer, Running
from manyhands.gateway.asked import Drawn, EmbeddingsAsked
from manyhands.gateway.faults import ApiError
from manyhands.gateway.policy import Upstream
from manyhands.gateway.shapes import DONE, frame
from manyhands.gateway.stream import Telling
from manyhands.gateway.upstream import Json, Opened, Used, n_said
from scheduler.request import Token

log = logging.getLogger(__name__)

MAX_AHEAD = 64  # frames that wait for a caller; then the upstream does


class Relayed(Running[Json]):
    """One answer of an upstream, from the asking to its last frame."""

    def __init__(
        self,
        opening: AbstractAsyncContextManager[Opened],
        upstream: Upstream,
        used: Used,
        n_choices: int,
        observer: Observer | None = None,
        *,
        streams: bool,
        settled: Callable[[Used], None] = lambda used: None,
    ) -> None:
        """used: the most that it can be, which is held."""
        super().__init__(1, n_choices, observer)
        self._streams, self._settled = streams, settled
        self._opening, self._upstream, self.used = opening, upstream, used
        self.could_cost_ncr = used.cost_ncr(upstream)
        self._n_heard = 0
        self.n_due = 0

    async def expected_ncr(self) -> int:
        """The most, since nothing holds an upstream to less."""
        return self.could_cost_ncr

    async def _pump(self, index: int) -> None:
        if self._streams:
            self.used.n_answer = 0  # of what was held, none has come yet
        try:
            async with self._opening as opened:
                for told in opened.begun:
                    self._hear(told)
                while (following := await opened.next()) is not None:
                    self._hear(following)
                    while len(self._told) >= MAX_AHEAD:
                        self._read.clear()
                        await self._read.wait()
            self._endings[index] = "stop", ""
        finally:
            if self.used.is_due:
                self.n_tokens = self.used.n_prompt + self.used.n_answer
                self.cost_ncr, self.n_due = self.used.cost_ncr(self._upstream), 1
                self._settled(self.used)

    def _hear(self, told: Json) -> None:
        self._told.append(told)
        for _ in range(n_said(told) if self._streams else 0):
            self._observer.hear(0, Token(self._n_heard, 0, ""))
            self._n_heard += 1
        self._spoken = True
        self._news.set()


@dataclass(frozen=True, slots=True)
class Guarded:
    """See `stream.Telling`: another one, of which whatever an upstream makes it raise is that
    upstream's failure, and ends as such. name: of the upstream."""

    telling: Telling[Json]
    name: str

    def hear(self, told: Iterable[Json]) -> None:
        with self._translated():
            self.telling.hear(told)

    def whole(self) -> Json:
        with self._translated():
            return self.telling.whole()

    def frames(self, told: Iterable[Json]) -> Iterator[bytes]:
        with self._translated():
            yield from self.telling.frames(told)

    def end(self) -> Iterator[bytes]:
        with self._translated():
            yield from self.telling.end()

    def failed(self, error: ApiError) -> bytes:
        return self.telling.failed(error)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ApiError:
            raise
        except Exception as error:
            kind = type(error).__name__
            log.error(
                "an upstream's answer is not told", extra={"upstream": self.name, "kind": kind}
            )
            why = f"upstream {self.name} says what cannot be told on ({kind})"
            raise ApiError("upstream_failed", why) from error


@dataclass(slots=True)
class Passing:
    """What of an upstream's frames a caller is shown. ours: what stands under `manyhands` at the
    end. id: of the request, for what failed."""

    asked: Drawn | EmbeddingsAsked
    ours: Callable[[], Json]
    id: str
    _whole: Json = field(default_factory=dict)
    _held: Json | None = None  # the last that may be the end

    def hear(self, told: Iterable[Json]) -> None:
        for each in told:
            self._whole = each

    def whole(self) -> Json:
        return {**self._whole, "manyhands": self.ours()}

    def frames(self, told: Iterable[Json]) -> Iterator[bytes]:
        """What is due once these have come."""
        for each in told:
            choices = each.get("choices")
            if not self.asked.usage_in_stream:
                each.pop("usage", None)
                if not choices:
                    continue  # of usage alone, which nobody asked for
            yield from self._flushed()
            if choices and not any(choice.get("finish_reason") for choice in choices):
                yield frame(each)
            else:
                self._held = each

    def end(self) -> Iterator[bytes]:
        held, self._held = self._held or {"choices": []}, None
        yield frame({**held, "manyhands": self.ours()}) + DONE

    def failed(self, error: ApiError) -> bytes:
        body = error.body()
        body["error"]["id"] = self.id
        return b"".join(self._flushed()) + frame(body)

    def _flushed(self) -> Iterator[bytes]:
        held, self._held = self._held, None
        if held is not None:
            yield frame(held)

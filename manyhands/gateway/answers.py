"""The generations of one HTTP request, side by side, as one stream of what they tell.

In: a client of the swarm, requests. Out: events with the index of their choice, in batches: what
has come by the time somebody asks. Each generation runs in a task of the gateway's; a caller that
leaves has them cancelled, which frees their room on every hop, and they still settle.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from manyhands.boundary import innermost
from manyhands.gateway.faults import MISTAKE, ApiError, explained
from protocol.errors import ManyhandsError
from scheduler.request import (
    Event,
    Finished,
    GenerationRequest,
    GenerationResult,
    Routed,
    RouteStep,
    Token,
)

if TYPE_CHECKING:
    from scheduler.client import Client

log = logging.getLogger(__name__)

Told = tuple[int, Event]
Receive = Callable[[], Awaitable[Any]]


class Tasks(Protocol):
    """Who owns the work; a task group is one."""

    def create_task(self, coro: Coroutine[Any, Any, None], /) -> asyncio.Task[None]: ...


class Observer:
    """Hears every event at once, whether or not anybody asks for it; this one tells nobody."""

    def began(self, n_choices: int) -> None:
        pass

    def hear(self, index: int, event: Event) -> None:
        pass

    def ended(self, index: int, reason: str, code: str) -> None:
        """One choice is over: its finish reason, and the code of what failed."""


class Observers(Observer):
    """Several of them."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def began(self, n_choices: int) -> None:
        for each in self._observers:
            each.began(n_choices)

    def hear(self, index: int, event: Event) -> None:
        for each in self._observers:
            each.hear(index, event)

    def ended(self, index: int, reason: str, code: str) -> None:
        for each in self._observers:
            each.ended(index, reason, code)


class CallerLeft(Exception):
    """The connection is gone: there is nobody to answer."""


class Answers:
    """Use `start`, then `ready`, `next` until `is_over`; `leave` in any case."""

    def __init__(
        self,
        client: "Client",
        requests: Sequence[GenerationRequest],
        observer: Observer | None = None,
    ) -> None:
        self.requests = requests
        self._client, self._observer = client, observer or Observer()
        self._endings = [("cancelled", "")] * len(requests)  # unless it is told otherwise
        self._tasks: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._told: list[Told] = []
        self._news = asyncio.Event()
        self._n_left = len(requests)
        self._error: BaseException | None = None
        self._admitted = False
        self._spoken = False
        self.route: tuple[RouteStep, ...] = ()  # the first that stood
        self._counted = set[int]()  # whose prompts are in
        self.n_tokens = 0  # of all choices that were begun, with their prompts
        self.cost_ncr = 0  # of those that are settled; also where nobody waited for the end
        self.over = asyncio.Event()  # every session has been settled

    def start(self, tasks: Tasks, receive: Receive) -> None:
        """Begin; `tasks` owns the work. receive: of the connection, to learn when it goes."""
        self._observer.began(len(self.requests))
        for index, request in enumerate(self.requests):
            task = tasks.create_task(self._pump(index, request))
            task.add_done_callback(partial(self._ended, index))
            self._tasks.append(task)
        self._watching = tasks.create_task(self._watch(receive))

    def leave(self, why: ApiError | None = None) -> None:
        """Cancel what runs. With `why`, that is what `next` raises."""
        if why is not None and self._error is None:
            self._error = why
            self._news.set()
        for task in self._tasks:
            task.cancel()
        if self._watching is not None:
            self._watching.cancel()

    async def ready(self, patience_s: float) -> None:
        """Return once there is something to send: a token or an end; or a chain stands, and
        nothing has come for `patience_s`.

        Raises:
            ApiError, CallerLeft: as `next`.
        """
        while not self._spoken and self._error is None:
            try:
                async with asyncio.timeout(patience_s if self._admitted else None):
                    await self._news.wait()
            except TimeoutError:
                return
            if not self._spoken:
                self._news.clear()
        self._require()

    async def next(self, timeout_s: float | None = None) -> list[Told]:
        """What was told since; empty once all is, and when nothing was within `timeout_s`.

        Raises:
            ApiError: a generation failed, or the gateway ends.
            CallerLeft: nobody listens any more.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._told and self._error is None and self._n_left:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return []
        told, self._told = self._told, []
        if not told:
            self._require()
        return told

    async def results(self) -> list[GenerationResult]:
        """All of them, in order.

        Raises:
            ApiError, CallerLeft: as `next`.
        """
        found: dict[int, GenerationResult] = {}
        while not self.is_over:
            for index, event in await self.next():
                if isinstance(event, Finished):
                    found[index] = event.result
        return [found[index] for index in range(len(self.requests))]

    @property
    def is_over(self) -> bool:
        return not self._n_left and not self._told and self._error is None

    def _require(self) -> None:
        error = self._error
        if isinstance(error, ManyhandsError):
            raise explained(error) from error
        if isinstance(error, ApiError | CallerLeft):
            raise error
        if error is not None:
            raise ApiError("internal_error", MISTAKE) from error

    async def _pump(self, index: int, request: GenerationRequest) -> None:
        try:
            generation = self._client.generate(request)
            try:
                async with generation:
                    async for event in generation:
                        self._hear(index, event)
            finally:
                self.cost_ncr += generation.cost_ncr
            self._n_left -= 1
        except Exception as error:
            cause = innermost(error)
            if not isinstance(cause, ManyhandsError):
                log.error("a generation failed", extra={"kind": type(cause).__name__})
            self._error = self._error or cause
            code = explained(cause).code if isinstance(cause, ManyhandsError) else "internal_error"
            self._endings[index] = "error", code
        self._news.set()

    def _hear(self, index: int, event: Event) -> None:
        self._told.append((index, event))
        self._count(index, event)
        self._observer.hear(index, event)
        if isinstance(event, Finished):
            self._endings[index] = event.result.finish_reason, ""
        if isinstance(event, Routed):
            self._admitted = True
            self.route = self.route or event.route
        self._spoken = self._spoken or isinstance(event, Token | Finished)
        self._news.set()

    def _count(self, index: int, event: Event) -> None:
        if isinstance(event, Routed | Token | Finished) and index not in self._counted:
            self._counted.add(index)  # from the chain on, which prefills before anybody can leave
            self.n_tokens += len(self.requests[index].prompt_ids)
        self.n_tokens += isinstance(event, Token)

    async def _watch(self, receive: Receive) -> None:
        with suppress(OSError, TimeoutError):
            while (await receive())["type"] != "http.disconnect":
                pass
        self._error = self._error or CallerLeft()
        self._news.set()
        for task in self._tasks:
            task.cancel()

    def _ended(self, index: int, ended: asyncio.Task[None]) -> None:
        if ended.cancelled() and self._error is None:  # by its owner; somebody may still wait
            self._error = ApiError("shutting_down", "it was ended before the answer was complete")
            self._news.set()
        if all(task.done() for task in self._tasks):
            self.over.set()
            if self._watching is not None:
                self._watching.cancel()
        self._observer.ended(index, *self._endings[index])

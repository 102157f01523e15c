"""The generations of one HTTP request, side by side, as one stream of what they tell.

In: a client of the swarm, requests. Out: events with the index of their choice, in batches: what
has come by the time somebody asks. Each generation runs in a task of the gateway's; a caller that
leaves has them cancelled, which frees their room on every hop, and they still settle. What of this
holds for an upstream's answer too (`relayed.py`) is `Running`.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

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
    from manyhands.gateway.second_runs import Outcome, Wish
    from scheduler.client import Client

log = logging.getLogger(__name__)

T = TypeVar("T")
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

    def verified(self, index: int, outcome: "Outcome") -> None:
        """A choice was run again; comes after its end, if it was asked for."""


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

    def verified(self, index: int, outcome: "Outcome") -> None:
        for each in self._observers:
            each.verified(index, outcome)


class CallerLeft(Exception):
    """The connection is gone: there is nobody to answer."""


class Running(Generic[T], ABC):
    """What the work for one HTTP request tells, in batches: all that has come when somebody asks.

    Use `start`, then `ready`, `next` until `is_over`; `leave` in any case. Who inherits does the
    work in `_pump`, and says `_hear`.
    """

    def __init__(self, n_tasks: int, n_choices: int, observer: Observer | None) -> None:
        self.n_choices = n_choices
        self._observer = observer or Observer()
        self._endings = [("cancelled", "")] * n_tasks  # unless it is told otherwise
        self._tasks: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._told: list[T] = []
        self._news, self._read = asyncio.Event(), asyncio.Event()
        self._n_left = n_tasks
        self._error: BaseException | None = None
        self._admitted = False
        self._spoken = False
        self.route: tuple[RouteStep, ...] = ()  # the first that stood
        self.n_tokens = 0  # of all choices that were begun, with their prompts
        self.cost_ncr = 0  # of those that are settled; also where nobody waited for the end
        self.n_due = n_choices  # answers that count for the key
        self.over = asyncio.Event()  # all work has ended
        self.secured: asyncio.Future[None] | None = None  # what has to hold before it begins

    async def expected_ncr(self) -> int | None:
        """What the work is expected to cost."""
        return None

    def bind(self, ncr: int) -> None:
        """It may cost no more than this."""

    @abstractmethod
    async def _pump(self, index: int) -> None:
        """Do one task's work to its end."""

    def start(self, tasks: Tasks, receive: Receive) -> None:
        """Begin; `tasks` owns the work. receive: of the connection, to learn when it goes."""
        self._observer.began(self._n_left)
        for index in range(self._n_left):
            task = tasks.create_task(self._run(index))
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

    async def next(self, timeout_s: float | None = None) -> list[T]:
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
        told = self.take()
        if not told:
            self._require()
        return told

    def take(self) -> list[T]:
        """What was told since, without waiting."""
        told, self._told = self._told, []
        self._read.set()
        return told

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

    async def _run(self, index: int) -> None:
        try:
            if self.secured is not None:
                await asyncio.shield(self.secured)
            await self._pump(index)
            self._n_left -= 1
        except Exception as error:
            cause = innermost(error)
            code = cause.code if isinstance(cause, ApiError) else "internal_error"
            if isinstance(cause, ManyhandsError):
                code = explained(cause).code
            elif not isinstance(cause, ApiError):
                log.error("an answer failed", extra={"kind": type(cause).__name__})
            self._error = self._error or cause
            self._endings[index] = "error", code
        self._news.set()

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


class Answers(Running[Told]):
    """Generations of the swarm, side by side."""

    def __init__(
        self,
        client: "Client",
        requests: Sequence[GenerationRequest],
        observer: Observer | None = None,
        wish: "Wish | None" = None,
    ) -> None:
        """wish: what is to be run again when it is complete."""
        super().__init__(len(requests), len(requests), observer)
        self.requests, self.wish = requests, wish
        self._client = client
        self._counted = set[int]()  # whose prompts are in

    async def expected_ncr(self) -> int | None:
        """What all of them are expected to cost; None: nobody can tell."""
        costs = [await self._client.expected_ncr(request) for request in self.requests]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def bind(self, ncr: int) -> None:
        """Together they may cost this much."""
        each = ncr // len(self.requests)
        self.requests = [request.capped(each) for request in self.requests]

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

    async def _pump(self, index: int) -> None:
        request = self.requests[index]
        generation = self._client.generate(request)
        try:
            async with generation:
                async for event in generation:
                    self._hear(index, event)
                    if isinstance(event, Finished) and self.wish is not None:
                        self.wish.begin(self._client, index, request, generation, event.result)
        finally:
            self.cost_ncr += generation.cost_ncr

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

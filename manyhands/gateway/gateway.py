"""What all requests of a gateway share: the models, one client of the swarm, and the answers that
run.

In: a catalogue, limits, and a client for as long as there is one. Out: answers, or the reason why
there is no room for them. When the client goes, the answers that run get `drain_s` to end.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands.gateway.allowances import Allowances, Taken
from manyhands.gateway.answers import Answers, Observer, Receive, Running
from manyhands.gateway.catalogue import Catalogue, Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import ANYBODY, Caller
from manyhands.gateway.pace import Pace
from manyhands.gateway.policy import Policy
from manyhands.gateway.relayed import Relayed
from manyhands.gateway.second_runs import SecondRuns, Wish
from manyhands.gateway.upstream import Upstreams
from protocol.errors import ManyhandsError
from scheduler.request import GenerationRequest

if TYPE_CHECKING:
    from scheduler.client import Client

log = logging.getLogger(__name__)

SETTLE_S = 3.0  # for answers that were cut off, to pay what they owe


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What callers may take. max_tokens: of an answer whose caller names no limit."""

    max_tokens: int = 1024
    timeout_s: float = 600.0
    max_running: int = 256  # answers, over all callers
    max_per_key: int = 64  # of them, for one key
    max_body_bytes: int = 8 << 20
    body_s: float = 30.0  # for a body to arrive
    patience_s: float = 10.0  # a status is held back for the first token; longer, and pings begin
    drain_s: float = 30.0
    policy: Policy = field(default_factory=Policy)  # where data may go


class Gateway:
    """See the module."""

    def __init__(
        self,
        catalogue: Catalogue,
        bounds: Bounds | None = None,
        allowances: Allowances | None = None,
        second_runs: SecondRuns | None = None,
    ) -> None:
        """second_runs: of answers whose callers ask for that; None: there are none."""
        self.second_runs = second_runs
        self.catalogue, self.bounds = catalogue, bounds or Bounds()
        self.allowances = allowances or Allowances()
        self.upstreams, self.pace = Upstreams(self.bounds.policy), Pace()
        self.began_s = int(time.time())
        self.client: Client | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[Running[Any], str] = {}  # the key of whoever asked
        self.is_ending = False

    @property
    def n_running(self) -> int:
        """Answers, upstreams' too, a request's choices counted each."""
        return sum(answers.n_choices for answers in self._running)

    @asynccontextmanager
    async def serving(self, client: "Client") -> AsyncIterator[None]:
        """Answer through this client while the context lasts."""
        async with self.upstreams.serving(), asyncio.TaskGroup() as tasks:
            self.client, self._tasks = client, tasks
            try:
                yield
            finally:
                self.is_ending = True
                await self._drain()
                if self.second_runs is not None:
                    await self.second_runs.end()
                self.client = self._tasks = None

    def require_client(self) -> "Client":
        """
        Raises:
            ApiError: there is none yet, or none any more.
        """
        if self.is_ending:
            raise ApiError("shutting_down", "the gateway is ending; ask another one")
        if self.client is None:
            raise ApiError("starting", "the swarm behind this gateway is still starting")
        return self.client

    def find(self, name: str, caller: Caller = ANYBODY) -> Served:
        """What `caller` means by a model's name.

        Raises:
            ApiError: there is no such model, or the key is for others.
        """
        served = self.catalogue.find(name)
        self.require_permitted(name, caller, served)
        return served

    def require_permitted(self, name: str, caller: Caller, served: Served | None = None) -> None:
        """
        Raises:
            ApiError: the key is for other models.
        """
        if not self.may_use(name, caller, served):
            message = f"this key may use {', '.join(caller.grant.models)}, not {name[:100]!r}"
            raise ApiError("insufficient_permissions", message, param="model")

    def may_use(self, name: str, caller: Caller, served: Served | None = None) -> bool:
        """Whether the key's list names it: as it was asked for, or as it is called itself."""
        models, own = caller.grant.models, {name}
        if served is not None:
            own |= {served.id, served.pinned}
            if served.adapter:
                own.add(f"{served.id}:{served.adapter}")
        return not models or not own.isdisjoint(models)

    def ask(
        self,
        requests: Sequence[GenerationRequest],
        receive: Receive,
        observer: Observer | None = None,
        *,
        caller: Caller = ANYBODY,
        wish: Wish | None = None,
    ) -> Answers:
        """Begin to answer; who asks leaves what it gets. wish: what to run again afterwards.

        Raises:
            ApiError: not now.
        """
        answers = Answers(self.require_client(), requests, observer, wish)
        self._require_room(answers.n_choices, caller)
        if wish is not None:
            wish.require_room(answers.n_choices)
        n_tokens = sum(request.capacity for request in requests)
        taken = self.allowances.take(caller, n_tokens, requests[0].model)
        if wish is not None:
            wish.take(answers.n_choices)
        self._run(answers, receive, caller, taken)
        return answers

    def relay(self, relayed: Relayed, receive: Receive, caller: Caller) -> None:
        """Begin to pass an upstream's answer on.

        Raises:
            ApiError: not now.
        """
        self.require_client()
        self._require_room(relayed.n_choices, caller)
        used = relayed.used
        n_tokens = used.n_prompt + used.n_answer
        taken = self.allowances.take(caller, n_tokens, could_cost_ncr=relayed.could_cost_ncr)
        self._run(relayed, receive, caller, taken)

    def _require_room(self, n: int, caller: Caller) -> None:
        most = self.bounds.max_running
        if caller.id:
            most = min(most, self.bounds.max_per_key)
        if n > most:  # later it would be no better
            message = f"one request gets up to {most} answers here, not {n}"
            raise ApiError("unsupported_value", message, param="n")
        if self.n_running + n > self.bounds.max_running:
            raise ApiError("overloaded", f"{self.n_running} answers are being made already")
        theirs = sum(each.n_choices for each, of in self._running.items() if of == caller.id)
        if caller.id and theirs + n > self.bounds.max_per_key:
            message = f"a key may have up to {self.bounds.max_per_key} answers at a time"
            raise ApiError("rate_limit_exceeded", message)

    def _run(self, answers: Running[Any], receive: Receive, caller: Caller, taken: Taken) -> None:
        assert self._tasks is not None
        self._running[answers] = caller.id
        if caller.grant.budget_ncr is not None:
            answers.secured = asyncio.get_running_loop().create_future()
            self._tasks.create_task(self._secure(answers, taken, answers.secured))
        answers.start(self._tasks, receive)
        self._tasks.create_task(self._forget(answers, taken))

    async def _secure(
        self, answers: Running[Any], taken: Taken, secured: asyncio.Future[None]
    ) -> None:
        """Hold of the key's budget what they may cost, and bind them to it."""
        try:
            ncr = await self.allowances.secure(taken, await answers.expected_ncr())
            answers.bind(ncr or 0)
            secured.set_result(None)
        except (ApiError, ManyhandsError) as error:
            secured.set_exception(error)
            secured.exception()  # all who asked may have left

    async def _forget(self, answers: Running[Any], taken: Taken) -> None:
        await answers.over.wait()
        del self._running[answers]
        if isinstance(answers, Answers) and answers.wish is not None:
            answers.wish.settle()
        taken.settle(answers.n_tokens, answers.cost_ncr, answers.n_due)

    async def _drain(self) -> None:
        """Let answers end; cut off those that take too long."""
        if self._running:
            log.info("waiting for answers that run", extra={"n": self.n_running})
        await self._until_idle(self.bounds.drain_s)
        for answers in tuple(self._running):
            answers.leave(ApiError("shutting_down", "the gateway ended before the answer did"))
        await self._until_idle(SETTLE_S)

    async def _until_idle(self, timeout_s: float) -> None:
        waiting = [asyncio.ensure_future(answers.over.wait()) for answers in self._running]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=timeout_s)
            for task in late:
                task.cancel()

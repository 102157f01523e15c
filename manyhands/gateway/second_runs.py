"""Answers that are run again after they were sent, where their callers ask for that (`verify`).

In: an answer that is complete, and how much of it to look at. Out: what was found of each hop's
work: in the home's findings, by which later chains are chosen; in the log; and to whoever hears of
the answer (metrics, the page). The answer itself waits for nothing. A few are looked at at a time,
callers in turns, each for minutes at most, on this machine where the model is small or else at
other peers, within the limits of its request.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from ledger.findings import Findings
from ledger.sampling import ALL_PPM
from ledger.verdicts import MISMATCH, UNOPENED
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import Caller
from manyhands.gateway.places import Places
from manyhands.gateway.work_limit import WorkLimit
from manyhands.home import Home
from protocol.errors import ManyhandsError

if TYPE_CHECKING:
    from manyhands.auditing.desk import Desk
    from scheduler.client import Client, Generation
    from scheduler.request import GenerationRequest, GenerationResult

log = logging.getLogger(__name__)

DESKS = "manyhands.auditing.desk"
By = Literal["auto", "own", "peers", "nobody"]
OWN_BYTES = 1 << 30  # of weights, up to which a gateway loads a model by itself
LOOK_S = 300.0  # for one answer, without what it waits while others have this machine's thread
AT_ONCE = 4
MAX_DUE = 64  # answers that wait to be run again, or are
MAX_OF_ONE = 48  # of these, of one caller
STATES = ("matches", "deviates", "unopened", "unknown")  # of an answer that was run again
RATES_PPM = {"spot": None, "full": ALL_PPM}  # of windows; None: by what is known of each hop


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one answer. results: one for each window that was looked at, in the words of verdicts.

    why: in words; of what could not be run again, the reason. is_over: False: it still waits, or is
    being run again.
    """

    why: str
    results: tuple[str, ...] = ()
    is_over: bool = True

    @property
    def state(self) -> str:
        """One of `STATES`, of which `unknown`: nothing was looked at; or `pending`."""
        if not self.is_over:
            return "pending"
        if MISMATCH in self.results:
            return "deviates"
        if UNOPENED in self.results:
            return "unopened"
        return "matches" if self.results else "unknown"


Tell = Callable[[int, Outcome], None]
RUNS = Outcome("it is run again now", is_over=False)


class SecondRuns:
    """Of one gateway. by: who runs answers again; auto: this machine what is small, or peers.
    look_s: how long one may take, once it is its turn. due: by caller, answers that wait or run, or
    will when they are complete; n_running: of these, those that are being run again."""

    def __init__(
        self, home: Home, by: By = "auto", look_s: float = LOOK_S, at_once: int = AT_ONCE
    ) -> None:
        self._home, self._by, self._look_s = home, by, look_s
        self._desks: dict[tuple[bytes, str], Desk] = {}
        self._places = Places(at_once)
        self._tasks = set[asyncio.Task[None]]()
        self.due = Counter[str]()
        self.n_running = 0

    @property
    def n_due(self) -> int:
        return self.due.total()

    @property
    def n_waiting(self) -> int:
        """Complete answers whose turn has not come."""
        return len(self._tasks) - self.n_running

    def wish(self, verify: str, served: Served, caller: Caller, id: str, tell: Tell) -> "Wish":
        """What a request asks for. id: of the request. tell: hears what is found of each choice.

        Raises:
            ApiError: it cannot be had here.
        """
        if self._by == "nobody":
            raise refused("this gateway runs no answers again")
        if served.adapter:
            raise refused("answers of an adapter cannot be run again; leave verify out")
        if served.model.store is not None:
            raise refused("this gateway has none of the model's weights, not even its embedding")
        references = self._references(served, caller)
        return Wish(self, served, references, RATES_PPM[verify], id, tell, caller.id)

    def _references(self, served: Served, caller: Caller) -> str:
        files = served.model.manifest.files
        is_small = sum(file.n_bytes for file in files if file.is_weights) <= OWN_BYTES
        has_own = self._by == "own" or (self._by == "auto" and is_small)
        has_budget = caller.grant.budget_ncr is not None
        if has_budget and not has_own:  # nothing of it is held for that
            raise refused("a key with a budget cannot have other peers run its answers again")
        if has_budget or self._by == "own":
            return "own"
        return "auto" if has_own else "peers"

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Cut off what still runs or waits."""
        if self._tasks:
            log.info("answers are not run again, the gateway ends", extra={"n": len(self._tasks)})
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def look(
        self,
        wish: "Wish",
        client: "Client",
        request: "GenerationRequest",
        generation: "Generation",
        result: "GenerationResult",
        began: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Never raises for what others do: the answer is there. began: its turn has come."""
        try:
            async with self._places.place(wish.caller):
                self.n_running += 1
                began()
                try:
                    return await self._look(wish, client, request, generation, result)
                finally:
                    self.n_running -= 1
        except TimeoutError:
            return Outcome(f"not run again: that was not done within {self._look_s:g} s")
        except ManyhandsError as error:
            return Outcome(f"not run again: {error}")

    async def _look(
        self,
        wish: "Wish",
        client: "Client",
        request: "GenerationRequest",
        generation: "Generation",
        result: "GenerationResult",
    ) -> Outcome:
        limits = replace(request.limits, require=())  # as `auditing.shadowing` has it
        desks = await asyncio.to_thread(import_module, DESKS)  # loads torch
        with Findings.open(self._home.client, client.swarm_id) as findings:
            async with WorkLimit(self._look_s) as limit:
                desk = self._desk(desks.Desk, wish, client, findings, limit)
                audit = await desk.look(request, generation, result, limits)
        told = "; ".join((desks.summary(audit), *audit.notes))
        return Outcome(told, tuple(look.result for look in audit.looks))

    def _desk(
        self,
        kind: type["Desk"],
        wish: "Wish",
        client: "Client",
        findings: Findings,
        limit: WorkLimit,
    ) -> "Desk":
        """Of this answer; what it loads it shares with all of its model's."""
        key = wish.served.model.manifest.digest, wish.references
        if (desk := self._desks.get(key)) is None:
            desk = kind(client, wish.served.model, findings, wish.references)
            desk.calibrations = self._home.calibrations
            self._desks[key] = desk
        return desk.beside(findings, wish.rate_ppm, limit.waiting)


@dataclass(slots=True)
class Wish:
    """Of one HTTP request: `require_room`, `take`, `begin` for each answer, at last `settle`."""

    _runs: SecondRuns
    served: Served
    references: str
    rate_ppm: int | None
    id: str
    tell: Tell
    caller: str  # the id of its key
    _n_open: int = 0

    def require_room(self, n: int) -> None:
        """
        Raises:
            ApiError: too many wait already.
        """
        n_all, n_own = self._runs.n_due, self._runs.due[self.caller]
        if n_all + n > MAX_DUE or n_own + n > MAX_OF_ONE:
            message = (
                f"{n_all} answers wait to be run again already, {n_own} of them yours: "
                "later, or no verify"
            )
            raise ApiError("overloaded", message, param="manyhands.verify")

    def take(self, n: int) -> None:
        self._n_open = n
        self._runs.due[self.caller] += n

    def begin(
        self,
        client: "Client",
        index: int,
        request: "GenerationRequest",
        generation: "Generation",
        result: "GenerationResult",
    ) -> None:
        """An answer is complete."""
        self._n_open -= 1
        waits = f"it waits to be run again, behind {self._runs.n_waiting} others"
        self.tell(index, Outcome(waits, is_over=False))

        async def look() -> None:
            try:
                outcome = await self._runs.look(
                    self, client, request, generation, result, lambda: self.tell(index, RUNS)
                )
            except Exception as error:  # a mistake of ours, which must not end the gateway
                log.exception("an answer could not be run again", extra={"request": self.id})
                outcome = Outcome(f"not run again: {type(error).__name__}, see the gateway's log")
            finally:
                self._done(1)
            level = logging.WARNING if outcome.state == "deviates" else logging.INFO
            told = {"request": self.id, "choice": index, "state": outcome.state}
            log.log(level, "an answer was run again", extra={**told, "why": outcome.why})
            self.tell(index, outcome)

        self._runs.begin(look())

    def settle(self) -> None:
        """No answer of the request comes any more."""
        self._done(self._n_open)
        self._n_open = 0

    def _done(self, n: int) -> None:
        self._runs.due -= Counter({self.caller: n})


def refused(why: str) -> ApiError:
    return ApiError("unsupported_value", why, param="manyhands.verify")

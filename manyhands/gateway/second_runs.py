"""Answers that are run again after they were sent, where their callers ask for that (`verify`).

In: an answer that is complete, and how much of it to look at. Out: what was found of each hop's
work: in the home's findings, by which later chains are chosen; in the log; and to whoever hears of
the answer (metrics, the page). The answer itself waits for nothing. One is looked at at a time, for
minutes at most, on this machine where the model is small or else at other peers, within the limits
of its request.
"""

import asyncio
import logging
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
LOOK_S = 300.0  # for one answer: hops that let us wait hold up those who wait behind it
MAX_DUE = 64  # answers that wait to be run again, or are
RATES_PPM = {"spot": None, "full": ALL_PPM}  # of windows; None: by what is known of each hop


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one answer. results: one for each window that was looked at, in the words of verdicts.

    why: in words; of what could not be run again, the reason.
    """

    why: str
    results: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """`matches`, `deviates`, `unopened`, or `unknown`: nothing was looked at."""
        if MISMATCH in self.results:
            return "deviates"
        if UNOPENED in self.results:
            return "unopened"
        return "matches" if self.results else "unknown"


Tell = Callable[[int, Outcome], None]


class SecondRuns:
    """Of one gateway. by: who runs answers again; auto: this machine what is small, or peers.
    look_s: how long one may take."""

    def __init__(self, home: Home, by: By = "auto", look_s: float = LOOK_S) -> None:
        self._home, self._by, self._look_s = home, by, look_s
        self._desks: dict[tuple[bytes, str], Desk] = {}
        self._one = asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()
        self.n_due = 0

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
        return Wish(self, served, self._references(served, caller), RATES_PPM[verify], id, tell)

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
    ) -> Outcome:
        """Never raises for what others do: the answer is there."""
        limits = replace(request.limits, require=())  # as `auditing.shadowing` has it
        key = wish.served.model.manifest.digest, wish.references
        try:
            async with self._one:
                desks = await asyncio.to_thread(import_module, DESKS)  # loads torch
                with Findings.open(self._home.client, client.swarm_id) as findings:
                    if (desk := self._desks.get(key)) is None:
                        desk = desks.Desk(client, wish.served.model, findings, wish.references)
                        desk.calibrations = self._home.calibrations
                        self._desks[key] = desk
                    desk.findings, desk.rate_ppm = findings, wish.rate_ppm
                    async with asyncio.timeout(self._look_s):
                        audit = await desk.look(request, generation, result, limits)
        except TimeoutError:
            return Outcome(f"not run again: that was not done within {self._look_s:g} s")
        except ManyhandsError as error:
            return Outcome(f"not run again: {error}")
        told = "; ".join((desks.summary(audit), *audit.notes))
        return Outcome(told, tuple(look.result for look in audit.looks))


@dataclass(slots=True)
class Wish:
    """Of one HTTP request: `require_room`, `take`, `begin` for each answer, at last `settle`."""

    _runs: SecondRuns
    served: Served
    references: str
    rate_ppm: int | None
    id: str
    tell: Tell
    _n_open: int = 0

    def require_room(self, n: int) -> None:
        """
        Raises:
            ApiError: too many wait already.
        """
        if self._runs.n_due + n > MAX_DUE:
            message = f"{self._runs.n_due} answers wait to be run again already; leave verify out"
            raise ApiError("overloaded", message, param="manyhands.verify")

    def take(self, n: int) -> None:
        self._n_open = n
        self._runs.n_due += n

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

        async def look() -> None:
            try:
                outcome = await self._runs.look(self, client, request, generation, result)
            except Exception as error:  # a mistake of ours, which must not end the gateway
                log.exception("an answer could not be run again", extra={"request": self.id})
                outcome = Outcome(f"not run again: {type(error).__name__}, see the gateway's log")
            finally:
                self._runs.n_due -= 1
            level = logging.WARNING if outcome.state == "deviates" else logging.INFO
            told = {"request": self.id, "choice": index, "state": outcome.state}
            log.log(level, "an answer was run again", extra={**told, "why": outcome.why})
            self.tell(index, outcome)

        self._runs.begin(look())

    def settle(self) -> None:
        """No answer of the request comes any more."""
        self._runs.n_due -= self._n_open
        self._n_open = 0


def refused(why: str) -> ApiError:
    return ApiError("unsupported_value", why, param="manyhands.verify")

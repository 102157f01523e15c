"""Running checks side by side: each within its deadline, whatever happens in one of them.

In: checks and a case. Out: results in the order of the checks, and a word for each that ends. What
a check raises becomes what it found; with `mends`, what is safe to mend is mended and looked at
again.

What loads torch begins when the quick checks of this machine are done: on a slow disk that takes
half a minute, in which little else gets on. For the same reason a deadline counts the time in which
our loop was answered: a machine that stood still says nothing of what a check looks at.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, Verdict, fail, failed, in_thread, warn
from protocol.errors import ManyhandsError

log = logging.getLogger(__name__)

TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found. `was`: what it had found before that was mended."""

    check: Check
    finding: Finding
    took_s: float
    was: Finding | None = None


async def examine(
    checks: Sequence[Check],
    case: Case,
    *,
    mends: bool = False,
    told: Callable[[Result], object] = lambda result: None,
) -> list[Result]:
    """All of `checks`, at once but for the heavy ones; `told` is called as they end."""
    quick: list[asyncio.Task[Result]] = []

    async def one(check: Check) -> Result:
        if check.is_heavy and quick:
            await asyncio.wait(quick)
        result = await _examine(check, case)
        if mends and result.finding.mend is not None:
            result = await _mended(result, case)
        told(result)
        return result

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(check), name=check.id) for check in checks]
            quick += [task for task, check in zip(running, checks, strict=True) if check.is_quick]
    finally:
        await case.aclose()
    return [task.result() for task in running]


async def _examine(check: Check, case: Case) -> Result:
    began_s = time.monotonic()
    try:
        finding = await _within(check.deadline_s, check.examine(case))
    except TimeoutError:
        finding = warn(
            f"this could not be told within {check.deadline_s:g} s",
            f"run it again on a quieter machine: manyhands doctor --only {check.id}",
        )
    except ManyhandsError as error:
        finding = failed(error)
    except Exception as error:  # a mistake of ours in one check must not hide what others find
        log.exception("a check failed")
        finding = fail(
            f"the check itself failed: {type(error).__name__}: {error}",
            f"report it with what this prints: manyhands doctor --only {check.id} -vv",
        )
    return Result(check, finding, time.monotonic() - began_s)


async def _within(deadline_s: float, examining: Awaitable[Finding]) -> Finding:
    """
    Raises:
        TimeoutError: it took more than `deadline_s`, of which a tick counts for a tick, however
            long the machine took for it.
    """
    task = asyncio.ensure_future(examining)
    try:
        for _ in range(math.ceil(deadline_s / TICK_S)):
            if (await asyncio.wait({task}, timeout=TICK_S))[0]:
                return task.result()
        raise TimeoutError
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # of a check that is given up: taken, or asyncio prints it as lost


async def _mended(result: Result, case: Case) -> Result:
    before, mend = result.finding, result.finding.mend
    assert mend is not None
    try:
        await in_thread(mend)
    except (ManyhandsError, OSError) as error:
        reason = f"{before.reason}; --fix came to nothing: {error}"
        return replace(result, finding=Finding(before.verdict, reason, before.fix))
    again = await _examine(result.check, case)
    return replace(again, was=before)


def count(results: Sequence[Result], verdict: Verdict) -> int:
    return sum(result.finding.verdict is verdict for result in results)

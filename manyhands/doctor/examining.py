"""Running checks side by side: each within its deadline, whatever happens in one of them.

In: checks and a case. Out: results in the order of the checks, and a word for each that ends. What
a check raises becomes what it found; with `mends`, what is safe to mend is mended and looked at
again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, Verdict, fail, failed, in_thread, warn
from protocol.errors import ManyhandsError

log = logging.getLogger(__name__)


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
    """All of `checks`, at once; `told` is called as they end."""

    async def one(check: Check) -> Result:
        result = await _examine(check, case)
        if mends and result.finding.mend is not None:
            result = await _mended(result, case)
        told(result)
        return result

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(check), name=check.id) for check in checks]
    finally:
        await case.aclose()
    return [task.result() for task in running]


async def _examine(check: Check, case: Case) -> Result:
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(check.deadline_s):
            finding = await check.examine(case)
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

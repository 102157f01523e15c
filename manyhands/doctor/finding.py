"""What a check is, and what it says: well, a warning, an error, or that it does not apply here.

In: the work of one check. Out: a `Finding`, whose reason is for a person and whose fix is a command
or a step. Ids are for scripts: they never change their meaning (docs/doctor.md).
"""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from protocol.errors import ManyhandsError

if TYPE_CHECKING:
    from manyhands.doctor.case import Case

T = TypeVar("T")

QUICK_S = 10.0
_ID = re.compile(r"[a-z][a-z0-9-]{1,30}")


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    SKIP = "skip"  # there is nothing to look at
    WARN = "warn"  # it works, worse than it could
    FAIL = "fail"  # something that was asked for does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """mend: does what `fix` says, where that is safe; it may raise ManyhandsError or OSError."""

    verdict: Verdict
    reason: str
    fix: str = ""
    mend: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        is_bad = self.verdict in (Verdict.WARN, Verdict.FAIL)
        if not self.reason or is_bad != bool(self.fix):
            raise ValueError(f"what is not well has a fix, what is well has none: {self.reason!r}")
        if self.mend is not None and not is_bad:
            raise ValueError("only what is not well can be mended")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. `looks_at` completes the sentence `doctor looks at …`.

    deadline_s: of time in which this process got on. is_heavy: it loads torch, which holds up all
        that runs beside it.
    """

    id: str
    looks_at: str
    examine: "Callable[[Case], Awaitable[Finding]]"
    deadline_s: float = QUICK_S
    is_heavy: bool = False

    @property
    def is_quick(self) -> bool:
        """Of what is on this machine, and told at once on one that is not busy."""
        return not self.is_heavy and self.deadline_s <= QUICK_S

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} is no id of a check")


def ok(reason: str) -> Finding:
    return Finding(Verdict.OK, reason)


def skip(reason: str) -> Finding:
    return Finding(Verdict.SKIP, reason)


def warn(reason: str, fix: str, mend: Callable[[], object] | None = None) -> Finding:
    return Finding(Verdict.WARN, reason, fix, mend)


def fail(reason: str, fix: str, mend: Callable[[], object] | None = None) -> Finding:
    return Finding(Verdict.FAIL, reason, fix, mend)


def failed(error: ManyhandsError) -> Finding:
    """An error of ours as a finding."""
    return fail(str(error), error.hint or "manyhands doctor --help says what is possible")


def on_thread(look: "Callable[[Case], Finding]") -> "Callable[[Case], Awaitable[Finding]]":
    """A check that reads disks or calls libraries, off the loop."""

    async def examine(case: "Case") -> Finding:
        return await in_thread(lambda: look(case))

    return examine


async def in_thread(call: Callable[[], T]) -> T:
    """On a thread that nobody waits for at the end: a disk that hangs must not hang the doctor."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(how: Callable[[Any], None], what: Any) -> None:
        if not done.done():
            how(what)

    def run() -> None:
        how: Callable[[Any], None] = done.set_result
        what: Any
        try:
            what = call()
        except BaseException as error:  # it is the caller's, who awaits it
            how, what = done.set_exception, error
        try:
            loop.call_soon_threadsafe(settle, how, what)
        except RuntimeError:
            return  # the loop is over, and so is whoever asked

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await done

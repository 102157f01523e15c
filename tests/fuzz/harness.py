"""What a parser may do with a stranger's bytes: give a value, or a typed error, soon and in room.

In: a target, how many inputs, a seed. Out: a report: inputs, failures with the bytes that cause
them, peak memory, seconds. A failure is any exception that is none of ours, an input that takes
more than `MAX_MS` of the processor's time, or more than `MAX_MIB` of new memory, where the target
names no other bound.
"""

import gc
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from protocol.errors import ManyhandsError
from tests.fuzz.mutation import mutated

MAX_MS, MAX_MIB = 50.0, 64
RETRIES = 3  # of an input that took long: a collection of garbage is not its fault
MAX_KEPT = 20  # failures in a report, each kind once
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parser, as `parse` meets it: from bytes to whatever it makes of them.

    seeds: inputs that it takes. shape, words: see `mutation.py`. errors: what it may raise.
    clock: nanoseconds of the processor, of this thread or, where others work for it, of all.
    """

    name: str
    parse: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    shape: str = "bytes"
    words: tuple[bytes, ...] = ()
    errors: tuple[type[BaseException], ...] = (ManyhandsError,)
    max_ms: float = MAX_MS
    max_mib: int = MAX_MIB
    clock: Callable[[], int] = time.thread_time_ns


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that should not do what it does."""

    data: bytes
    why: str
    where: str


@dataclass(slots=True)
class Report:
    """What came of a run."""

    name: str
    n_inputs: int = 0
    n_taken: int = 0  # inputs that the parser made something of
    slowest_ms: float = 0.0
    peak_mib: float = 0.0  # of the process
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def n_failures(self) -> int:
        return self.kinds.total()

    def found(self, data: bytes, why: str, where: str) -> None:
        self.kinds[f"{why.split(':')[0]} {where}"] += 1
        if len(self.kinds) <= MAX_KEPT and self.kinds[f"{why.split(':')[0]} {where}"] == 1:
            self.findings.append(Finding(data, why, where))


def fuzz(target: Target, n_inputs: int, seed: int = 0) -> Report:
    """Seeds first, which must be taken as they are, then `n_inputs` changed ones."""
    report, chance = Report(target.name), Random(f"{seed}/{target.name}")
    seeds = list(target.seeds())
    for data in seeds:  # also what a first call loads and caches
        target.parse(data)
    _forget_peak()
    began_s, before_kib = time.perf_counter(), peak_kib()
    gc.freeze()
    for _ in range(n_inputs):
        data = mutated(seeds, target.words, chance, target.shape)
        _try(target, data, report)
        now_kib = peak_kib()
        if now_kib - before_kib > target.max_mib * 1024:
            grown = (now_kib - before_kib) // 1024
            report.found(data, f"memory: {grown} MiB more after {len(data)} bytes", "")
        before_kib = now_kib
        report.n_inputs += 1
    gc.unfreeze()
    report.seconds = time.perf_counter() - began_s
    report.peak_mib = peak_kib() / 1024
    return report


def _try(target: Target, data: bytes, report: Report) -> None:
    took_ms = _timed(target, data, report)
    for _ in range(RETRIES):
        if took_ms <= target.max_ms:
            break
        took_ms = min(took_ms, _timed(target, data, None))
    report.slowest_ms = max(report.slowest_ms, took_ms)
    if took_ms > target.max_ms:
        report.found(data, f"time: {took_ms:.0f} ms for {len(data)} bytes", "")


def _timed(target: Target, data: bytes, report: Report | None) -> float:
    began_ns = target.clock()
    try:
        target.parse(data)
        if report is not None:
            report.n_taken += 1
    except target.errors:
        pass
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if report is not None:
            last = traceback.extract_tb(error.__traceback__)[-1]
            report.found(
                data, f"{type(error).__name__}: {error}"[:200], f"{last.filename}:{last.lineno}"
            )
    return (target.clock() - began_ns) / 1e6


def _forget_peak() -> None:
    """What others in this process once took would hide what is taken here. Linux alone can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT // 1024

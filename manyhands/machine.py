"""What this machine can give: threads and memory. And whose child this process is.

The environment that torch reads must stand before torch is imported, so `set_threads` comes first.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from manyhands.audit_room import counted_bytes

if TYPE_CHECKING:
    from node.share import Share

Result = TypeVar("Result")

PROCESS_BYTES = 500 * 2**20  # of a node before any weights
HEADROOM = 0.9
SIGKILL = 9  # Windows has no name for it
KILLED = 128 + SIGKILL
PR_SET_PDEATHSIG = 1  # prctl(2)
MANY_FILES = 10_240  # all that macOS gives a process, whatever it says
MAX_NICE = 19
GENTLE_NICE = 15  # a busy neighbour gets some thirty times as much


def set_threads(n_threads: int | None) -> int:
    """Let torch use so many threads, by default half the cores, and let idle ones sleep."""
    chosen = n_threads or _from_environment() or max(1, (os.cpu_count() or 2) // 2)
    is_read = "torch" in sys.modules and _from_environment() != chosen
    assert not is_read, "torch has read its environment when it was imported"
    os.environ["OMP_NUM_THREADS"] = str(chosen)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else idle threads burn the other's core
    return chosen


def _from_environment() -> int | None:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else None


def file_limits() -> tuple[int, int] | None:
    """(now, at most) how many files and connections this process may have open; None: no limit is
    known here."""
    try:
        import resource
    except ImportError:  # Windows: sockets are not files there
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MANY_FILES if hard == resource.RLIM_INFINITY else hard
    return (most if soft == resource.RLIM_INFINITY else soft), most


def raise_file_limit() -> None:
    """Take as many open files as we may: desktops begin with 256 or 1024, fewer than some nodes
    have connections."""
    limits = file_limits()
    if limits is None or limits[0] >= min(limits[1], MANY_FILES):
        return
    with suppress(ImportError, OSError, ValueError):  # macOS allows fewer than it says
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], MANY_FILES), hard))


def capacity_blocks(
    directory: Path,
    *,
    dtype: str,
    device: str,
    quantize: str,
    kv_cache_bytes: int,
    share: "Share | None" = None,
) -> int:
    """How many blocks fit beside the KV cache, what is kept for audits, this process and some air.

    Raises:
        OutOfMemory: not one; says what would help.
        BadModel, UsageError, ConfigError: the model cannot be served that way at all.
    """
    from node.engine import plan_shard

    process_bytes = PROCESS_BYTES if device == "cpu" else 0
    beside_bytes = process_bytes + counted_bytes(device, share)
    plan = plan_shard(
        directory,
        None,
        dtype=dtype,
        device=device,
        quantize=quantize,
        kv_cache_bytes=kv_cache_bytes + beside_bytes,
        headroom=HEADROOM,
        share=share,
    )
    if plan.n_blocks_that_fit < 1:
        plan.require(device)
    return plan.n_blocks_that_fit


def gently(work: Callable[[], Result]) -> Result:
    """Do `work` with what processor time others leave, and return as before it.

    On Linux each thread has a priority of its own, so a thread that ends takes its low one with
    it; a whole process that gave way could take its own back only with privileges. Elsewhere
    nothing is gentler than usual.
    """
    if sys.platform != "linux":
        return work()
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        with suppress(OSError):
            own = threading.get_native_id()
            niceness = max(GENTLE_NICE, os.getpriority(os.PRIO_PROCESS, own))
            os.setpriority(os.PRIO_PROCESS, own, niceness)
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="gently", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def give_way(niceness: int) -> None:
    """Leave the processor to others of this machine, as `nice -n` has it, for as long as we live.

    niceness: 1 to 19, added to what we began with; Windows has two classes for it. 0: nothing.
    """
    if not niceness:
        return
    if sys.platform == "win32":
        import psutil

        is_idle = niceness >= GENTLE_NICE
        wanted = psutil.IDLE_PRIORITY_CLASS if is_idle else psutil.BELOW_NORMAL_PRIORITY_CLASS
        psutil.Process().nice(wanted)
    elif sys.platform == "linux":  # each thread has its own; later ones begin with their maker's
        lowest = min(MAX_NICE, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):  # it has ended, or gives way still more
                os.setpriority(os.PRIO_PROCESS, int(thread), lowest)
    else:
        os.nice(niceness)


def belong_to(parent: int) -> None:
    """End this process when `parent` does, however that one ends: no orphans.

    A Ctrl-C at the parent's terminal is the parent's to handle. Yet the session stays the same:
    where Linux groups processes by session ("autogroup", sched(7)), every group gets an equal share
    of the processor, and a low priority counts only among those of one's own.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before we asked to be told
        os._exit(KILLED)


def _watch_parent(parent: int) -> None:
    """Windows remembers a parent that is gone, so whether it lives is asked, too."""
    import psutil

    while os.getppid() == parent and psutil.pid_exists(parent):
        time.sleep(0.5)
    os._exit(KILLED)

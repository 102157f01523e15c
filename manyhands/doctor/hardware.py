"""Checks of what a node computes with and where its weights lie: GPU, memory, disk."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.audit_room import counted_bytes
from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, fail, in_thread, ok, on_thread, skip, warn
from manyhands.machine import PROCESS_BYTES
from manyhands.manners import share_of
from manyhands.progress import size
from manyhands.weights.store import cache_root, free_disk_bytes
from node.share import Share
from protocol.errors import OutOfMemory, UsageError
from protocol.messages import Span

if TYPE_CHECKING:
    from manyhands.devices import Seen
    from manyhands.models import Model

SMALL_DISK_BYTES, LITTLE_DISK_BYTES = 256 * 2**20, 5 * 2**30
TRIAL_BYTES, SLOW_DISK_BYTES_PER_S = 32 * 2**20, 50 * 2**20  # weights of 8 GiB in three minutes


def gpu_finding(asked: str, seen: "Seen") -> Finding:
    """What `--device asked` would compute on, and whether a better device lies idle.

    Raises:
        UsageError: there is no such device.
    """
    from manyhands.devices import choose_device, idle_gpu

    choice = choose_device(asked, seen)
    told = "; ".join(line.removeprefix("device: ") for line in choice.told[:1])
    if choice.device == "cpu" and (idle := idle_gpu(seen)) is not None:
        return fail(*idle)
    return ok(f"{told}; torch {seen.torch_version}")


def _gpu(case: Case) -> Finding:
    from manyhands.devices import look

    return gpu_finding(case.asked.device, look())


async def _memory(case: Case) -> Finding:
    model = await case.model()
    return await in_thread(lambda: _memory_for(case, model))


def _memory_for(case: Case, model: "Model | None") -> Finding:
    from manyhands.devices import choose_device, look
    from node.engine.room import free_bytes

    device = choose_device(case.asked.device, look()).device
    if model is not None:
        return _span_fits(case, model, device)
    free = free_bytes(device, _share(case, device))
    if free is None:
        return skip("this system does not say how much memory is free")
    audits = counted_bytes(device, _share(case, device))
    needed = PROCESS_BYTES + case.asked.kv_cache_bytes + audits
    told = f"{device} has {size(free)} free; a node takes {size(needed)} before any weights"
    if free < needed:
        return fail(told, "close other programs, or give sessions less: --kv-cache 256MiB")
    return ok(f"{told}. Of a model: manyhands plan MODEL")


def _share(case: Case, device: str) -> Share | None:
    return share_of(device, max_vram=case.asked.max_vram, max_memory=case.asked.max_memory)


def _span_fits(case: Case, model: "Model", device: str) -> Finding:
    from manyhands.planning import forecast

    span = case.asked.span or Span(0, model.manifest.n_blocks)
    if span.stop > model.manifest.n_blocks:
        raise UsageError(
            f"span {span} lies outside {model.name}, which has {model.manifest.n_blocks} blocks",
            hint="give another --span, or none",
        )
    told, _ = forecast(
        model,
        span,
        dtype=case.asked.dtype,
        device=device,
        quantize=case.asked.quantize,
        kv_cache_bytes=case.asked.kv_cache_bytes,
        share=_share(case, device),
    )
    try:
        told.require()
    except OutOfMemory as error:
        # Without --span a node takes what fits: only a person's own choice is an error then.
        judge = fail if case.asked.span or told.span_that_fits is None else warn
        return judge(str(error), error.hint)
    return ok(told.lines()[0])


def _disk_free(case: Case) -> Finding:
    places = {_place(case.asked.home): "the home", _place(cache_root()): "the cache of weights"}
    free = {place: free_disk_bytes(place) for place in places}
    least = min(free, key=lambda place: free[place])
    told = ", ".join(f"{size(free[place])} for {what}" for place, what in places.items())
    freeing = f"free some on the disk of {least}, or put it elsewhere: --home, XDG_CACHE_HOME"
    if free[least] < SMALL_DISK_BYTES:
        return fail(f"{told}: too little for a ledger and a model", freeing)
    if free[least] < LITTLE_DISK_BYTES:
        return warn(f"{told}: most models are larger", freeing)
    return ok(f"{told} free")


def disk_speed_finding(place: Path, *, slow_bytes_per_s: float = SLOW_DISK_BYTES_PER_S) -> Finding:
    """Write a file there, have the disk take it, and remove it."""
    path = place / f".speed-{os.getpid()}-{os.urandom(4).hex()}"
    chunk = os.urandom(2**20)  # no disk makes that smaller
    began_s = time.perf_counter()
    try:
        with path.open("xb") as file:
            for _ in range(TRIAL_BYTES // len(chunk)):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = f"{place} cannot be written: {error.strerror}"
        return fail(reason, "give a directory on a disk that you can write: --home DIR")
    finally:
        with suppress(OSError):
            path.unlink()
    rate = TRIAL_BYTES / (time.perf_counter() - began_s)
    told = f"the disk of {place} takes {size(int(rate))}/s"
    if rate < slow_bytes_per_s:
        fix = "put the cache on a local disk: XDG_CACHE_HOME=DIR manyhands …"
        return warn(f"{told}: weights take long to arrive there", fix)
    return ok(told)


def _place(path: Path) -> Path:
    """The directory, or what is above it and exists."""
    while not path.is_dir():
        path = path.parent
    return path


CHECKS = (
    Check(
        "gpu",
        "the device to compute on, and GPUs that lie idle",
        on_thread(_gpu),
        60.0,
        is_heavy=True,
    ),
    Check(
        "memory", "memory against the span, or against an empty node", _memory, 60.0, is_heavy=True
    ),
    Check("disk-free", "room on the disks of the home and the cache", on_thread(_disk_free)),
    Check(
        "disk-speed",
        "how fast the disk of the cache takes bytes",
        on_thread(lambda case: disk_speed_finding(_place(cache_root()))),
        20.0,
    ),
)

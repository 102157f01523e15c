"""Whether a generation could succeed now, and what is missing if not.

In: the gateway. Out: a reason per model, "" for those that can answer. The swarm is asked at most
once in `LOOK_S`, however many ask us; `up`, which keeps its nodes itself, brings its own reason.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from manyhands.coverage import hosts_per_block, runs_where, spell
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Gateway
from protocol.adapter_names import bare
from protocol.constraints import why_relayed
from protocol.errors import ManyhandsError
from protocol.measured import State

if TYPE_CHECKING:
    from protocol.announcements import Announcement
    from scheduler.directory import Directory

router = APIRouter()

LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Look:
    """What the swarm showed: hosts of each block, adapters, and the bytes that are free for
    sessions at the block with least, by model; peers, by state and the way to them."""

    hosts: Mapping[str, list[int]] = field(default_factory=dict)
    peers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    adapters: Mapping[str, list[str]] = field(default_factory=dict)
    kv_free: Mapping[str, int] = field(default_factory=dict)
    failure: str = ""


class Readiness:
    """Of one gateway. why_not: the word of whoever keeps the swarm; None: ask the swarm."""

    def __init__(self, gateway: Gateway, why_not: Callable[[], str] | None = None) -> None:
        self._gateway, self._why_not = gateway, why_not
        self._looking = asyncio.Lock()
        self._look, self._looked_s = Look(), -LOOK_S

    async def reasons(self) -> dict[str, str]:
        """By model, why it cannot answer; "" if it can."""
        served = self._gateway.catalogue.served
        if self._why_not is not None:
            why = self._why_not()
            return {each.id: why for each in served}
        look = await self.look()
        return {each.id: look.failure or _missing(look.hosts[each.id], each) for each in served}

    async def look(self) -> Look:
        """Who serves what, as it was within the last `LOOK_S`."""
        async with self._looking:
            if time.monotonic() - self._looked_s >= LOOK_S:
                try:
                    directory = await self._gateway.require_client().directory()
                except (ApiError, ManyhandsError) as error:
                    self._look = Look(failure=str(error))
                else:
                    self._look = _seen(directory, self._gateway.catalogue.served)
                self._looked_s = time.monotonic()
            return self._look


def _seen(directory: "Directory", served: Sequence[Served]) -> Look:
    hosts = {each.id: directory.hosts(each.model.manifest.digest) for each in served}
    counts = {each.id: serving_per_block(each, hosts[each.id]) for each in served}
    states = {
        peer.peer_id: (peer.measured.state.value, "relay" if why_relayed(peer) else "direct")
        for of in hosts.values()
        for peer in of
    }
    adapters = {
        name: sorted({bare(adapter) for peer in of for adapter in peer.adapters})
        for name, of in hosts.items()
    }
    kv_free = {each.id: _least_free(each, hosts[each.id]) for each in served}
    return Look(counts, Counter(states.values()), adapters, kv_free)


def serving_per_block(served: Served, hosts: Sequence["Announcement"]) -> list[int]:
    """Of each block, how many of these serve it now."""
    serving = (peer for peer in hosts if peer.measured.state is State.SERVING)
    spans = (peer.span for peer in serving if peer.span)
    return hosts_per_block(spans, served.model.manifest.n_blocks)


def _least_free(served: Served, hosts: Sequence["Announcement"]) -> int:
    free = [0] * served.model.manifest.n_blocks
    for peer in hosts:
        if peer.span is not None and peer.measured.state is State.SERVING:
            for block in range(peer.span.start, peer.span.stop):
                free[block] += peer.kv_free_bytes
    return min(free, default=0)


def _missing(n_hosts: Sequence[int], served: Served) -> str:
    missing = runs_where(lambda n: n == 0, n_hosts)
    return f"nobody serves blocks {spell(missing)} of {served.id}" if missing else ""


@router.get("/health")
@router.get("/health/live")
async def live() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """200 if at least one model can answer."""
    readiness: Readiness = request.app.state.readiness
    reasons = await readiness.reasons()
    is_ready = not all(reasons.values())
    body = {
        "status": "ok" if is_ready else "error",
        "reason": "" if is_ready else next(iter(reasons.values())),
        "models": {name: reason or "ok" for name, reason in reasons.items()},
    }
    return JSONResponse(body, 200 if is_ready else 503, {"cache-control": "no-store"})

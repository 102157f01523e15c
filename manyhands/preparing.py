"""Before a node serves: which model, which blocks of it, whether they may be served, and fit.

In: the command line of `serve`, read. Out: a model of which weights may still be missing, a span
of it, and a forecast of what that takes. Nothing large was fetched or loaded by then.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands import machine
from manyhands.devices import choose_device, look
from manyhands.home import Home
from manyhands.licences import require_accepted
from manyhands.loops import run
from manyhands.models import HubAway, Model, NotHere, find_model
from manyhands.progress import Progress, say, shown
from manyhands.signals import interruptible
from manyhands.thin import from_swarm
from protocol.address import Address
from protocol.errors import PeerError, UsageError
from protocol.identity import Identity
from protocol.manifest import INDEX
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID

if TYPE_CHECKING:
    from manyhands.planning import Forecast
    from protocol.announcements import Announcement

JOIN_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The command line, read."""

    model: str
    span: Span | None  # None: what the swarm misses most
    join: tuple[Address, ...]
    listen: tuple[str, int] | None
    announce: tuple[str, int] | None
    home: Path | None
    dtype: str
    quantize: str
    wire: str
    pack: str
    device: str
    require_gpu: bool
    kv_cache: int
    adapters: tuple[tuple[str, Path], ...]
    threads: int | None
    name: str
    region: str
    group: str
    price_per_mtl: int
    drain: float
    accept_licence: bool
    share_weights: bool
    parent: int | None
    gently: bool = False
    max_blocks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What will be served. `capacity_blocks`: how much of the model this machine could serve."""

    model: Model
    forecast: "Forecast"
    tensors: Collection[str]
    capacity_blocks: int

    @property
    def span(self) -> Span:
        return self.forecast.plan.span

    @property
    def device(self) -> str:
        return self.forecast.device


def prepare(wanted: Wanted, home: Home, identity: Identity) -> Prepared:
    """What will be served, once it is known that it may be, and that it fits."""
    with shown(wanted.model) as progress:
        model = _find(wanted, identity, progress)
    require_accepted(home, model.manifest, accepts=wanted.accept_licence)
    _check_span(wanted.span, model)
    say(f"starting torch, {os.environ['OMP_NUM_THREADS']} thread(s)")
    from manyhands.planning import forecast

    device = _choose_device(wanted)
    capacity = len(wanted.span) if wanted.span else _capacity(wanted, model, device)
    told, tensors = forecast(
        model,
        wanted.span or _choose_span(wanted, model, identity, capacity),
        dtype=wanted.dtype,
        device=device,
        quantize=wanted.quantize,
        kv_cache_bytes=wanted.kv_cache,
    )
    for line in told.lines():
        say(line)
    told.require()
    return Prepared(model=model, forecast=told, tensors=tensors, capacity_blocks=capacity)


def _find(wanted: Wanted, identity: Identity, progress: Progress) -> Model:
    """What a person put here or the hub has; else what peers serve under that name."""
    try:
        return find_model(wanted.model, progress=progress)
    except (NotHere, HubAway):
        if not wanted.join:
            raise
    return run(from_swarm(wanted.model, identity, wanted.join, also=(INDEX,)))[0]


def _choose_device(wanted: Wanted) -> str:
    choice = choose_device(wanted.device, look(), require_gpu=wanted.require_gpu)
    for line in choice.told:
        say(line)
    return choice.device


def _check_span(span: Span | None, model: Model) -> None:
    n_blocks = model.manifest.n_blocks
    if span is not None and span.stop > n_blocks:
        raise UsageError(
            f"span {span} lies outside {model.name}, which has blocks 0:{n_blocks}",
            hint=f"choose a span within 0:{n_blocks}, or --span auto",
        )


def _capacity(wanted: Wanted, model: Model, device: str) -> int:
    """How many blocks memory allows, and the operator."""
    fitting = machine.capacity_blocks(
        model.directory,
        dtype=wanted.dtype,
        device=device,
        quantize=wanted.quantize,
        kv_cache_bytes=wanted.kv_cache,
    )
    return min(fitting, wanted.max_blocks or fitting)


def _choose_span(wanted: Wanted, model: Model, identity: Identity, capacity: int) -> Span:
    """What the swarm misses most, as far as it can be asked, and as much as can be served."""
    from scheduler.placement import choose_span

    manifest = model.manifest
    announcements = run(_announcements(identity, wanted.join)) if wanted.join else ()
    return choose_span(
        announcements,
        manifest=manifest.digest,
        n_blocks=manifest.n_blocks,
        capacity_blocks=capacity,
        peer_id=identity.peer_id,
    )


async def _announcements(identity: Identity, join: Sequence[Address]) -> "tuple[Announcement, ...]":
    from protocol.announcement_table import AnnouncementTable
    from protocol.transport.grpc import GrpcTransport
    from scheduler.directory import Directory, fetch_directory

    directory = Directory(AnnouncementTable(OPEN_SWARM_ID))
    with interruptible():
        try:
            await fetch_directory(
                GrpcTransport(identity, OPEN_SWARM_ID), join, directory, timeout_s=JOIN_WAIT_S
            )
        except PeerError as error:
            say(f"warning: choosing a span without knowing the swarm: {error}")
    return directory.live()

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
from manyhands.arriving import Arriving
from manyhands.devices import choose_device, look
from manyhands.governing.gate import require_served
from manyhands.home import Home
from manyhands.licences import require_accepted
from manyhands.loops import run
from manyhands.manners import share_of
from manyhands.models import HubAway, Model, NotHere, find_model
from manyhands.party import Party
from manyhands.placing import Placing, Servable
from manyhands.progress import Progress, say, shown
from manyhands.thin import from_swarm
from protocol.address import Address
from protocol.errors import UsageError
from protocol.manifest import INDEX, SIGNATURE
from protocol.messages import Span

if TYPE_CHECKING:
    from manyhands.planning import Forecast
    from node.manners import Hours
    from node.share import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The command line, read."""

    models: tuple[str, ...]
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
    price_per_mtl: int | None  # None: what was set for this home
    prepaid: int
    payment_threshold: int  # token-layers, as the next two
    disconnect_threshold: int
    newcomer_allowance: int
    no_quarantine: bool
    drain: float
    accept_licence: bool
    share_weights: bool
    trusted_keys: tuple[Path, ...]
    parent: int | None
    libp2p: tuple[str, int] | None = None
    bootstrap: tuple[Address, ...] = ()
    lan: bool = False
    relay: tuple[str, int] | None = None
    relay_limit: int = 12 << 20
    via: tuple[Address | None, ...] = ()  # None: any relay of the swarm
    map_port: bool = False
    gently: bool = False
    page: range = range(0)  # the ports to try
    auditors: tuple[str, ...] = ()  # whose word is enough, besides whom the home names
    ledger: str = ""  # the server it is on; "": as the home says, else files
    hours: "Hours | None" = None
    on_battery: str = "serve"
    when_idle_min: float | None = None
    max_bandwidth: int = 0
    nice: int = 0  # added to the priority that it is started with
    draft_model: str = ""  # a model to guess ahead with; "": none
    max_vram: "Share | None" = None
    max_memory: "Share | None" = None

    def share(self, device: str) -> "Share | None":
        """What may be taken of the memory that `device` computes in."""
        return share_of(device, max_vram=self.max_vram, max_memory=self.max_memory)

    max_blocks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What will be served first, and what else could be."""

    placing: Placing
    forecast: "Forecast"
    tensors: Collection[str]

    @property
    def model(self) -> Model:
        return self.forecast.model

    @property
    def span(self) -> Span:
        return self.forecast.plan.span

    @property
    def device(self) -> str:
        return self.forecast.device

    @property
    def names(self) -> str:
        return ", ".join(choice.model.name for choice in self.placing.choices)


def find_served(wanted: Wanted, home: Home, party: Party) -> list[Model]:
    """The models of which one will be served, once it is known that they may be."""
    models = require_served(
        home,
        party,
        list(_find_all(wanted, party).values()),
        name=wanted.name,
        accepts=wanted.accept_licence,
        trusted_keys=wanted.trusted_keys,
        join=wanted.join,
    )
    for model in models:
        require_accepted(home, model.manifest, accepts=wanted.accept_licence)
        _check_span(wanted.span, model)
    return models


def prepare(wanted: Wanted, models: Sequence[Model], party: Party, arrival: Arriving) -> Prepared:
    """Which of them will be served, and what of it, once it is known that it fits."""
    say(f"starting torch, {os.environ['OMP_NUM_THREADS']} thread(s)")
    from manyhands.planning import forecast

    device = _choose_device(wanted)
    choices = tuple(
        Servable(model=model, capacity_blocks=_capacity(wanted, model, device)) for model in models
    )
    placing = Placing(choices=choices, peer_id=party.peer_id, region=wanted.region)
    chosen, span = _choose(wanted, placing, arrival)
    told, tensors = forecast(
        chosen.model,
        span,
        dtype=wanted.dtype,
        device=device,
        quantize=wanted.quantize,
        kv_cache_bytes=wanted.kv_cache,
        share=wanted.share(device),
    )
    for line in told.lines():
        say(line)
    told.require()
    return Prepared(placing=placing, forecast=told, tensors=tensors)


def _find_all(wanted: Wanted, party: Party) -> dict[bytes, Model]:
    """By digest: one that was named twice counts once."""
    found = {}
    for name in wanted.models:
        with shown(name) as progress:
            model = _find(name, wanted.join, party, progress)
        found[model.manifest.digest] = model
    return found


def _find(name: str, join: Sequence[Address], party: Party, progress: Progress) -> Model:
    """What a person put here or the hub has; else what peers serve under that name."""
    try:
        return find_model(name, progress=progress)
    except (NotHere, HubAway):
        if not join:
            raise
    return run(from_swarm(name, party, join, also=(INDEX, SIGNATURE)))[0]


def _choose(wanted: Wanted, placing: Placing, arrival: Arriving) -> tuple[Servable, Span]:
    """What was asked for, or what the swarm misses most, as far as it can be asked."""
    if wanted.span is None:
        return arrival.choose(placing)
    arrival.tell(placing.choices[0], wanted.span, wanted.region)
    return placing.choices[0], wanted.span


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
    if wanted.span is not None:
        return len(wanted.span)
    fitting = machine.capacity_blocks(
        model.directory,
        dtype=wanted.dtype,
        device=device,
        quantize=wanted.quantize,
        kv_cache_bytes=wanted.kv_cache,
        share=wanted.share(device),
    )
    return min(fitting, wanted.max_blocks or fitting)

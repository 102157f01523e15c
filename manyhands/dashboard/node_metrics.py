"""What operators graph of one node: room, work, the ways to others, GPUs, what it fetched.

In: a node's public counters, what it loaded, a look at the GPUs. Out: `GET /metrics` of its page,
in Prometheus' text format. Labels hold names of models, of ways and of GPUs, never a peer's.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from manyhands import __version__
from manyhands.dashboard.round_trips import RoundTrips
from manyhands.gpu import GpuNow, look
from manyhands.loads import Loads
from protocol.transport import PROTOCOL_VERSION

if TYPE_CHECKING:
    from node.node import Node

OF_GPUS = {
    "gpu_utilization_ratio": ("busy", "The share of the last moments in which the GPU computed."),
    "gpu_memory_used_bytes": ("used_bytes", "Of the GPU's own memory, by everybody."),
    "gpu_temperature_celsius": ("celsius", "Of the GPU."),
    "gpu_power_watts": ("watts", "That the GPU draws."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """At one moment. status: of the node, as `Serving.status` has it; empty while it serves
    nothing."""

    status: Mapping[str, Any] = field(default_factory=dict)
    loads: Loads = field(default_factory=Loads)
    gpus: Sequence[GpuNow] = ()


def families(seen: NodeSeen) -> Iterator[Metric]:
    """All series but the histogram's."""
    status = seen.status
    model = str(status.get("model", ""))

    def of_model(name: str, about: str, value: float, *, counts: bool = False) -> Metric:
        kind = CounterMetricFamily if counts else GaugeMetricFamily
        family: Any = kind(f"manyhands_{name}", about, labels=("model",))
        if "kv_budget_bytes" in status:
            family.add_metric((model,), value)
        return family  # type: ignore[no-any-return]  # one of the two

    def of(name: str) -> float:
        return float(status.get(name, 0))

    share = of("kv_reserved_bytes") / (of("kv_budget_bytes") or 1.0)
    yield of_model("kv_cache_usage_ratio", "Of the room for sessions, what is reserved.", share)
    yield of_model("node_sessions", "That have a place here.", of("sessions"))
    yield of_model(
        "node_refused", "Sessions for which there was no place.", of("refused"), counts=True
    )
    yield of_model("node_rows", "Rows that were run.", of("rows_run"), counts=True)
    yield of_model("node_busy_seconds", "In which rows were run.", of("busy_s"), counts=True)
    yield from _loaded(seen.loads)
    for name, (value_of, about) in OF_GPUS.items():
        family = GaugeMetricFamily(f"manyhands_{name}", about, labels=("gpu",))
        for gpu in seen.gpus:
            if (value := getattr(gpu, value_of)) is not None:
                family.add_metric((str(gpu.index),), value)
        yield family
    info = GaugeMetricFamily("manyhands_build_info", "Always 1.", labels=("version", "protocol"))
    info.add_metric((__version__, str(PROTOCOL_VERSION)), 1)
    yield info


def _loaded(loads: Loads) -> Iterator[Metric]:
    fetched = CounterMetricFamily(
        "manyhands_download_bytes", "Of weights, from the hub or from peers.", labels=("model",)
    )
    for model, n_bytes in loads.fetched_bytes.items():
        fetched.add_metric((model,), n_bytes)
    yield fetched
    took = GaugeMetricFamily(
        "manyhands_model_load_seconds", "Of the last span that was loaded.", labels=("model",)
    )
    for model, load_s in loads.load_s.items():
        took.add_metric((model,), load_s)
    yield took


class NodeMetrics(Collector):
    """Of one node, in a registry of its own; what it measured before this is not in it."""

    def __init__(self, node: "Node", loads: Loads) -> None:
        self._node, self._loads = node, loads
        self._gpus: list[GpuNow] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)
        node.gossip.links.heard = RoundTrips(self._registry).saw

    def collect(self) -> Iterator[Metric]:
        serving = self._node.loaded
        status = serving.status() if serving is not None else {}
        return families(NodeSeen(status=status, loads=self._loads, gpus=self._gpus))

    async def text(self) -> bytes:
        self._gpus = await asyncio.to_thread(look)
        return generate_latest(self._registry)


def metrics_router(metrics: NodeMetrics) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics")
    async def show() -> Response:
        """This node, for Prometheus."""
        return Response(await metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router

"""How long round trips to peers take, by the way there: a histogram of gateways and nodes."""

from prometheus_client import CollectorRegistry, Histogram

from protocol.path import Path

WAYS = {
    Path.DIRECT: "direct",
    Path.RELAYED: "relay",
    Path.PUNCHED: "tunnel",
    Path.CIRCUIT: "tunnel",
}
ROUND_TRIP_S = (
    *(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)


class RoundTrips:
    """`seconds` is the histogram."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "manyhands_hop_latency_seconds",
            "Round trips to other peers, as they were measured: direct, relay or tunnel.",
            ("path",),
            buckets=ROUND_TRIP_S,
            registry=registry,
        )

    def saw(self, rtt_s: float, path: Path) -> None:
        self.seconds.labels(WAYS[path]).observe(rtt_s)

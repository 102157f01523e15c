"""The metrics as tables: `python -m manyhands.gateway.metrics_table` prints them for the docs."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric

from manyhands.dashboard.node_metrics import NodeSeen, families
from manyhands.gateway.metrics import Metrics

SUFFIXES = {"counter": "_total"}
HEAD = ("| metric | kind | labels | what |", "|---|---|---|---|")


def table() -> str:
    """Of a gateway."""
    rows = [*HEAD]
    for metric in vars(Metrics()).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (told,) = metric.describe()
            rows.append(_row(told, metric._labelnames))
    return "\n".join(rows)


def node_table() -> str:
    """Of a node, what a gateway has not."""
    rows, known = [*HEAD], table()
    for family in families(NodeSeen()):
        row = _row(family, vars(family)["_labelnames"])
        if row not in known:
            rows.append(row)
    return "\n".join(rows)


def _row(told: Metric, labels: Iterable[str]) -> str:
    name = told.name + SUFFIXES.get(told.type, "")
    return f"| `{name}` | {told.type} | {', '.join(labels)} | {told.documentation} |"


if __name__ == "__main__":
    print(table(), node_table(), sep="\n\n")

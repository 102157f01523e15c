"""The metrics as a table: `python -m manyhands.gateway.metrics_table` prints it for the docs."""

from prometheus_client import Counter, Gauge, Histogram

from manyhands.gateway.metrics import Metrics

SUFFIXES = {"counter": "_total"}


def table() -> str:
    rows = ["| metric | kind | labels | what |", "|---|---|---|---|"]
    for metric in vars(Metrics()).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (told,) = metric.describe()
            name = told.name + SUFFIXES.get(told.type, "")
            labels = ", ".join(metric._labelnames)
            rows.append(f"| `{name}` | {told.type} | {labels} | {told.documentation} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())

"""Write deploy/grafana/manyhands.json: gateways' and nodes' metrics as a Grafana dashboard.

    python scripts/make_dashboard.py            write it
    python scripts/make_dashboard.py --check    say whether it is as this would write it

Panels are named here by a title, a unit and queries; the rest of the JSON is the same for all.
"""

import json
import sys
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "deploy" / "grafana" / "manyhands.json"
SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
WIDTH, HEIGHT = 8, 7
OF_MODEL = 'model=~"$model"'

Json = dict[str, Any]


def quantiles(name: str) -> list[tuple[str, str]]:
    rate = f"sum by (le) (rate(manyhands_{name}_seconds_bucket{{{OF_MODEL}}}[5m]))"
    return [(f"histogram_quantile({q}, {rate})", f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)]


def rate(name: str, by: str, within: str = "") -> list[tuple[str, str]]:
    return [(f"sum by ({by}) (rate(manyhands_{name}_total{{{within}}}[5m]))", f"{{{{{by}}}}}")]


def on_nodes(name: str, within: str = "") -> list[tuple[str, str]]:
    of_gpu = " {{gpu}}" if name.startswith("gpu_") else ""
    return [(f"manyhands_{name}{{{within}}}", "{{instance}}" + of_gpu)]


PANELS: tuple[tuple[str, str, str, list[tuple[str, str]]], ...] = (
    ("Can answer", "stat", "bool_yes_no", [(f"manyhands_swarm_ready{{{OF_MODEL}}}", "{{model}}")]),
    (
        "Hosts of the weakest block",
        "stat",
        "short",
        [(f"manyhands_coverage_min_replicas{{{OF_MODEL}}}", "{{model}}")],
    ),
    ("Peers", "stat", "short", [("sum by (state) (manyhands_peers)", "{{state}}")]),
    ("Time to first token", "timeseries", "s", quantiles("time_to_first_token")),
    ("Between two tokens", "timeseries", "s", quantiles("inter_token_latency")),
    ("Whole answers", "timeseries", "s", quantiles("e2e_request_latency")),
    (
        "Answers, by how they end",
        "timeseries",
        "reqps",
        rate("requests", "finish_reason", OF_MODEL),
    ),
    ("Failures, by code", "timeseries", "reqps", rate("requests", "code", f'{OF_MODEL},code!=""')),
    ("HTTP, by status", "timeseries", "reqps", rate("http_responses", "status")),
    ("Tokens generated", "timeseries", "short", rate("generation_tokens", "model", OF_MODEL)),
    ("Tokens of prompts", "timeseries", "short", rate("prompt_tokens", "model", OF_MODEL)),
    (
        "Answers that run, and that wait",
        "timeseries",
        "short",
        [
            (f"sum(manyhands_requests_running{{{OF_MODEL}}})", "running"),
            (f"sum(manyhands_requests_waiting{{{OF_MODEL}}})", "waiting"),
        ],
    ),
    ("Until a chain stands", "timeseries", "s", quantiles("request_queue_time")),
    ("Prefill", "timeseries", "s", quantiles("request_prefill_time")),
    ("A hop's step", "timeseries", "s", quantiles("hop_step")),
    ("Hops taken over", "timeseries", "short", rate("failovers", "reason")),
    (
        "Prompt tokens that peers still had",
        "timeseries",
        "percentunit",
        [
            (
                f"sum(rate(manyhands_prefix_cache_hits_total{{{OF_MODEL}}}[5m])) / "
                f"sum(rate(manyhands_prefix_cache_queries_total{{{OF_MODEL}}}[5m]))",
                "share",
            )
        ],
    ),
    (
        "Room for sessions at the weakest block",
        "timeseries",
        "bytes",
        [(f"manyhands_kv_free_bytes{{{OF_MODEL}}}", "{{model}}")],
    ),
    ("Run again: what was found", "timeseries", "reqps", rate("second_runs", "state", OF_MODEL)),
    (
        "Run again: work that does not hold",
        "timeseries",
        "reqps",
        rate("verification_failures", "reason"),
    ),
    (
        "Run again: due",
        "timeseries",
        "short",
        [("sum by (state) (manyhands_second_runs_due)", "{{state}}")],
    ),
    ("manyhands/auto: who answers", "timeseries", "reqps", rate("route_decisions", "tier")),
    ("manyhands/auto: by which rule", "timeseries", "reqps", rate("route_decisions", "reason")),
    (
        "Ledger: earned less spent",
        "timeseries",
        "short",
        [("manyhands_ledger_balance_ncr", "{{role}}")],
    ),
    (
        "Hosts of each block",
        "timeseries",
        "short",
        [(f"manyhands_layer_replicas{{{OF_MODEL}}}", "{{model}} {{layer}}")],
    ),
    (
        "Round trips to peers, by the way (p95)",
        "timeseries",
        "s",
        [
            (
                "histogram_quantile(0.95, sum by (le, path) "
                "(rate(manyhands_hop_latency_seconds_bucket[5m])))",
                "{{path}}",
            )
        ],
    ),
    (
        "Nodes: room for sessions that is taken",
        "timeseries",
        "percentunit",
        [(f"manyhands_kv_cache_usage_ratio{{{OF_MODEL}}}", "{{instance}}")],
    ),
    (
        "Nodes: how much of the time they run rows",
        "timeseries",
        "percentunit",
        [(f"rate(manyhands_node_busy_seconds_total{{{OF_MODEL}}}[5m])", "{{instance}}")],
    ),
    ("Nodes: sessions", "timeseries", "short", on_nodes("node_sessions", OF_MODEL)),
    (
        "Nodes: rows run",
        "timeseries",
        "short",
        [(f"rate(manyhands_node_rows_total{{{OF_MODEL}}}[5m])", "{{instance}}")],
    ),
    (
        "Nodes: weights fetched",
        "timeseries",
        "bytes",
        [(f"manyhands_download_bytes_total{{{OF_MODEL}}}", "{{instance}} {{model}}")],
    ),
    ("GPUs: busy", "timeseries", "percentunit", on_nodes("gpu_utilization_ratio")),
    ("GPUs: memory", "timeseries", "bytes", on_nodes("gpu_memory_used_bytes")),
    ("GPUs: temperature", "timeseries", "celsius", on_nodes("gpu_temperature_celsius")),
    ("GPUs: power", "timeseries", "watt", on_nodes("gpu_power_watts")),
    (
        "Nodes: the last load of a span",
        "timeseries",
        "s",
        on_nodes("model_load_seconds", OF_MODEL),
    ),
)


def panel(index: int, title: str, kind: str, unit: str, queries: list[tuple[str, str]]) -> Json:
    return {
        "id": index + 1,
        "title": title,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {
            "x": index % 3 * WIDTH,
            "y": index // 3 * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}}
        if kind == "timeseries"
        else {"reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": SOURCE,
                "expr": expr,
                "legendFormat": legend,
            }
            for n, (expr, legend) in enumerate(queries)
        ],
    }


def dashboard() -> Json:
    models = "label_values(manyhands_swarm_ready, model)"
    return {
        "__inputs": [
            {
                "name": "DS_PROMETHEUS",
                "label": "Prometheus",
                "type": "datasource",
                "pluginId": "prometheus",
            }
        ],
        "uid": "manyhands",
        "title": "Manyhands",
        "tags": ["manyhands"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "DS_PROMETHEUS",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                },
                {
                    "name": "model",
                    "label": "Model",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": {"query": models, "refId": "models"},
                    "definition": models,
                    "includeAll": True,
                    "allValue": ".*",
                    "multi": True,
                    "current": {"text": "All", "value": "$__all"},
                    "refresh": 2,
                },
            ]
        },
        "panels": [panel(index, *each) for index, each in enumerate(PANELS)],
    }


def main() -> int:
    text = json.dumps(dashboard(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        same = PATH.read_text() == text
        print("as it should be" if same else "out of date: python scripts/make_dashboard.py")
        return 0 if same else 1
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

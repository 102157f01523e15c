"""One look at a swarm as the page reads it: a sentence, what is wrong, and every peer in a row.

Pure. In: announcements and what was seen of them. Out: plain values. The models' part is that of
`manyhands status --json`; peers are rows under shared columns, since there may be thousands.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manyhands.condition import WELL, Condition, Seen, condition_of, positions_free
from manyhands.status import model_views
from scheduler.capacity import blocks_per_s

if TYPE_CHECKING:
    from protocol.announcements import Announcement

SCHEMA = "manyhands/state/v1"
COLUMNS = (
    *("peer", "state", "why", "model", "start", "stop", "blocks_per_s", "kv_free_positions"),
    *("sessions", "path", "rtt_ms", "age_s", "region"),
)


def overview(seen: "Mapping[Announcement, Seen]", why_not: str = "") -> dict[str, Any]:
    """All that the first page shows of the swarm itself. why_not: nobody answers now."""
    models = model_views(seen)
    conditions = {peer: condition_of(peer, saw) for peer, saw in seen.items()}
    alerts = list(_alerts(models, conditions, why_not))
    places = {model["manifest"]: at for at, model in enumerate(models)}
    return {
        "schema": SCHEMA,
        "sentence": _sentence(models, why_not),
        "tone": _tone(models, alerts, why_not),
        "models": models,
        "alerts": alerts,
        "peers": {
            "columns": COLUMNS,
            "rows": [_row(peer, saw, conditions[peer], places) for peer, saw in seen.items()],
        },
    }


def _sentence(models: Sequence[Mapping[str, Any]], why_not: str) -> str:
    """How it is, as one would say it."""
    if why_not:
        return f"Nobody in the swarm answers: {why_not}."
    if not models:
        return "Nobody serves a model yet."
    able = [model for model in models if model["complete"] and not model["refused"]]
    if len(models) == 1:
        first = f"{models[0]['model']} {'can' if able else 'cannot'} answer."
    elif len(able) == len(models):
        first = f"All {len(models)} models can answer."
    else:
        first = f"{len(able)} of {len(models)} models can answer."
    alone = [model for model in able if model["least_hosts"] == 1 and model["peers"] > 1]
    if alone:
        blocks = sum(stop - start for model in alone for start, stop in model["weakest"])
        some = "1 block has" if blocks == 1 else f"{blocks} blocks have"
        first += f" {some} a single host."
    elif able and all(model["least_hosts"] > 1 for model in able):
        first += " Any one peer may leave."
    return first


def _tone(
    models: Sequence[Mapping[str, Any]], alerts: Sequence[Mapping[str, Any]], why_not: str
) -> str:
    if why_not or not any(model["complete"] for model in models):
        return "bad"
    return "warn" if any(alert["severity"] != "note" for alert in alerts) else "well"


def _alerts(
    models: Sequence[Mapping[str, Any]],
    conditions: "Mapping[Announcement, Condition]",
    why_not: str,
) -> Iterator[dict[str, Any]]:
    """What is not well, the worst first."""
    if why_not:
        yield {"severity": "page", "what": why_not, "about": "swarm"}
    for model in models:
        for text in model["warnings"]:
            severity = "warn" if model["complete"] else "page"
            yield {"severity": severity, "what": text, "about": model["model"]}
    for peer, condition in conditions.items():
        severity = "note" if condition.state in (WELL, "draining", "moving", "paused") else "warn"
        for text in condition.why[:1]:
            yield {"severity": severity, "what": text, "about": peer.peer_id}


def _row(
    peer: "Announcement",
    saw: Seen,
    condition: Condition,
    places: Mapping[str, int],
) -> list[Any]:
    at = places.get(peer.manifest.hex())
    start, stop = (peer.span.start, peer.span.stop) if peer.span else (None, None)
    return [
        peer.peer_id,
        condition.state,
        "; ".join(condition.why),
        at,
        start,
        stop,
        round(blocks_per_s(peer), 1),
        positions_free(peer),
        peer.n_sessions,
        saw.path,
        None if saw.rtt_ms is None else round(saw.rtt_ms, 2),
        round(saw.age_s, 1),
        peer.region,
    ]

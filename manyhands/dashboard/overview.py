"""One look at a swarm as the page reads it: a sentence, what is wrong, and every peer in a row.

Pure. In: announcements and what was seen of them. Out: plain values. The models' part is that of
`manyhands status --json`; peers are rows under shared columns, since there may be thousands.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manyhands.condition import WELL, Condition, Seen, condition_of, positions_free
from manyhands.status import by_model, model_view
from scheduler.capacity import blocks_per_s

if TYPE_CHECKING:
    from protocol.announcements import Announcement

KEPT_S = 10.0
SCHEMA = "manyhands/state/v1"
COLUMNS = (
    *("peer", "state", "why", "model", "start", "stop", "blocks_per_s", "kv_free_positions"),
    *("sessions", "path", "rtt_ms", "age_s", "region"),
)


class Overview:
    """Of one swarm, look after look. What a model can do takes a max-flow to tell, so that is told
    again as it was while who serves which blocks has not changed, for `KEPT_S`."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._known: dict[bytes, tuple[object, float, dict[str, Any]]] = {}
        self.n_judged = 0  # models, over all looks

    def look(self, seen: "Mapping[Announcement, Seen]", why_not: str = "") -> dict[str, Any]:
        """All that the first page shows of the swarm itself. why_not: nobody answers now."""
        conditions = {peer: condition_of(peer, saw) for peer, saw in seen.items()}
        served = by_model(conditions)
        for gone in self._known.keys() - served.keys():
            del self._known[gone]
        models = [self._model(manifest, hosts) for manifest, hosts in served.items()]
        alerts = list(_alerts(models, conditions, why_not))
        places = {manifest: at for at, manifest in enumerate(served)}
        return {
            "schema": SCHEMA,
            "sentence": _sentence(models, why_not),
            "tone": _tone(models, alerts, why_not),
            "models": models,
            "alerts": alerts,
            "peers": {
                "columns": COLUMNS,
                "rows": [
                    _row(peer, seen[peer], condition, places[peer.manifest])
                    for peer, condition in conditions.items()
                ],
            },
        }

    def _model(self, manifest: bytes, hosts: "Mapping[Announcement, Condition]") -> dict[str, Any]:
        by = [
            (peer.peer_id, peer.span, peer.loading, peer.n_blocks, peer.profile, how.state)
            for peer, how in hosts.items()
        ]
        now_s, known = self._clock_s(), self._known.get(manifest)
        if known is None or known[0] != by or now_s - known[1] > KEPT_S:
            known = self._known[manifest] = by, now_s, model_view(hosts)
            self.n_judged += 1
        return {**known[2], "sessions": sum(peer.n_sessions for peer in hosts)}


def overview(seen: "Mapping[Announcement, Seen]", why_not: str = "") -> dict[str, Any]:
    """One look alone."""
    return Overview().look(seen, why_not)


def _sentence(models: Sequence[Mapping[str, Any]], why_not: str) -> str:
    """How it is, as one would say it."""
    if why_not:
        return f"Nobody in the swarm answers: {why_not}."
    if not models:
        return "Nobody serves a model yet."
    able = [model for model in models if model["complete"] and not model["refused"]]
    if len(models) == 1:
        first = f"{models[0]['model']} {'can' if able else 'cannot'} answer{_missing(models[0])}."
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


def _missing(model: Mapping[str, Any]) -> str:
    """The blocks that nobody serves, as the end of a sentence."""
    runs = [
        f"block {start}" if stop - start == 1 else f"blocks {start} to {stop - 1}"
        for start, stop in model["missing"][:3]
    ]
    more = ", and others" if len(model["missing"]) > len(runs) else ""
    return f": nobody serves {', '.join(runs)}{more}" if runs else ""


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
    at: int,
) -> list[Any]:
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

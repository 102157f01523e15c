"""One contributor's node, as its own people see it: how it is, in one sentence, and the numbers.

In: what the node says of itself, and why it serves what it serves. Out: plain values, and the one
thing that may be done from here: have it pause, drain or serve again. What sessions say is nowhere
in it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands.whereabouts import advice, spoken
from node.manners import BY_OWNER, Pause
from protocol.measured import State
from protocol.reachability import Reach, Verdict
from scheduler.capacity import blocks_per_s

if TYPE_CHECKING:
    from node.node import Node
    from protocol.announcements import Announcement

SCHEMA = "manyhands/my-node/v1"
DRAINED = f"drained {BY_OWNER}"
REACHED = (Verdict.DIRECT, Verdict.MAPPED)


@dataclass(slots=True)
class MyNode:
    """why: it serves these blocks, as the end of a sentence. limits: what its owner allows it, by
    name, as people write it."""

    node: "Node"
    why: str
    limits: Mapping[str, str] = field(default_factory=dict)

    def pause(self, minutes: float | None, *, hands_over: bool) -> None:
        """None: until `resume`. hands_over: open sessions are asked to go on elsewhere."""
        back_s = None if minutes is None else time.time() + 60 * minutes
        why = BY_OWNER if hands_over else DRAINED
        self.node.pausing.hold(Pause(why, back_s, hands_over))

    def resume(self) -> None:
        self.node.pausing.release()

    def view(self) -> dict[str, Any]:
        node, status = self.node, self.node.status()
        said = node.draft()
        tone, sentence = condition(said, status, n_sessions=node.n_sessions)
        pausing = node.pausing
        port = said.addresses[0].port if said.addresses else 0
        return {
            "schema": SCHEMA,
            "tone": tone,
            "sentence": sentence,
            "peer": node.peer_id,
            "addresses": [str(each) for each in said.addresses],
            "model": said.model,
            "n_blocks": said.n_blocks,
            "span": [said.span.start, said.span.stop] if said.span else None,
            "why_these": self.why,
            "moving": status["moving"],
            "profile": said.profile,
            "software": said.software,
            "since_ms": node.standing.since_ms,
            "state": node.state.value,
            "pause": _pause_view(pausing.pause),
            "held_by_owner": _pause_view(pausing.held),
            "sessions": node.n_sessions,
            "speed": {
                "blocks_per_s": round(blocks_per_s(said), 1),
                "step_ms": round(said.decode_us / 1000, 2),
                "prefill_rows_per_s": round(1e6 / max(1, said.prefill_us_per_row)),
                "queue_ms": round(said.measured.queue_us / 1000, 2),
                "busy_s": status.get("busy_s"),
                "rows_run": status.get("rows_run"),
                "up_bytes_per_s": said.measured.up_bytes_per_s or None,
                "down_bytes_per_s": said.measured.down_bytes_per_s or None,
            },
            "room": {
                "kv_free_bytes": said.kv_free_bytes,
                "kv_budget_bytes": node.settings.kv_cache_bytes,
            },
            "refused": status.get("refused"),
            "weights_shared_bytes": status["weights_shared_bytes"],
            "limits": dict(self.limits),
            "reach": {
                **node.whereabouts.status(),
                "told": spoken(said.reach),
                "fix": advice(said.reach, port),
                "relayed_by": [str(each.relay) for each in node.carrying.addresses],
            },
        }


def condition(
    said: "Announcement", status: Mapping[str, Any], *, n_sessions: int
) -> tuple[str, str]:
    """A tone, and how the node is as one would say it."""
    runs = _runs(n_sessions)
    if status.get("held"):
        return "bad", f"Your swarm does not let this node serve: {status['held']}. {runs}"
    pause, state = status.get("paused"), said.measured.state
    if pause:
        what = f"It is paused: {pause['why']}"
        if pause["why"] == DRAINED:
            what = "You had this node drain"
        if pause["why"] == BY_OWNER:
            what = "You paused this node"
        return "warn", f"{what}. No new answer begins here. {runs}"
    if state is State.DRAINING:
        return "warn", f"Your node is leaving: no new answer begins here. {runs}"
    if state is State.MOVING:
        return "warn", f"Your node is moving to other blocks; it serves again shortly. {runs}"
    if said.span is None:
        return "warn", "Your node is loading."
    serves = f"Your node serves {_blocks(said)} of {said.model}"
    return _reached(serves, said.reach, runs)


def _reached(serves: str, reach: Reach, runs: str) -> tuple[str, str]:
    if reach.verdict in REACHED:
        return "well", f"{serves}, and peers reach it. {runs}"
    if reach.verdict is Verdict.UNKNOWN:
        return "well", f"{serves}. {runs}"
    return "warn", f"{serves}, but {spoken(reach)}. {runs}"


def _runs(n_sessions: int) -> str:
    if not n_sessions:
        return "No answer runs through it now."
    some = "1 answer runs" if n_sessions == 1 else f"{n_sessions} answers run"
    return f"{some} through it now."


def _blocks(said: "Announcement") -> str:
    span = said.span
    assert span is not None
    if len(span) == said.n_blocks:
        return f"all {said.n_blocks} blocks"
    return f"block {span.start}" if len(span) == 1 else f"blocks {span.start} to {span.stop - 1}"


def _pause_view(pause: Pause | None) -> dict[str, Any] | None:
    if pause is None:
        return None
    return {"why": pause.why, "back_s": pause.back_s, "hands_over": pause.hands_over}

"""How many token-layers a second this machine computes: tried, or told by the node that runs here.

In: a model to load, or the announcement of a running node. Out: for decoding and for prompts, and
with a model, what the machine drew beyond what it draws at rest. Decoding is counted with as many
sessions as were tried at once: a node with fewer earns less of its electricity back.
"""

import time
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from manyhands.costing.power import find_counters, read_all, watts_between

if TYPE_CHECKING:
    from node.engine import ShardEngine
    from node.throughput import Speeds
    from protocol.announcements import Announcement

REST_S, WORK_S = 2.0, 3.0  # how long we look at power, at rest and at work
SESSIONS = 16  # in one decode step
MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Token-layers per second. source: how it is known. watts: drawn by the work; 0 where
    `power_from` names no counter."""

    decode: Decimal
    prefill: Decimal
    sessions: int
    source: str
    watts: Decimal = Decimal(0)
    power_from: str = ""


def told(announcement: "Announcement") -> Speed | None:
    """What a running node says it measured; None: nothing yet."""
    span, steps = announcement.span, announcement.measured.decode_steps_us
    sessions, step_us = steps[-1] if steps else (1, announcement.decode_us)
    if span is None or not step_us or not announcement.prefill_us_per_row:
        return None
    return Speed(
        decode=_per_s(len(span) * sessions, step_us),
        prefill=_per_s(len(span), announcement.prefill_us_per_row),
        sessions=sessions,
        source="running node",
    )


def tried(engine: "ShardEngine", *, with_power: bool, work_s: float = WORK_S) -> Speed:
    """Run the span for a few seconds, on this thread.

    Raises:
        OutOfMemory: there is no room for a single session.
    """
    from node.throughput import measure
    from protocol.errors import OutOfMemory

    counters = find_counters() if with_power else []
    resting = Decimal(0)
    if counters:
        before = read_all(counters)
        time.sleep(REST_S)  # what the machine takes at rest is read over so long
        resting = watts_between(counters, before, read_all(counters))
    began_s, start = time.monotonic(), read_all(counters)
    best = measure(engine, batches=(SESSIONS,))
    if not best.decode_us:
        best = measure(engine, batches=(1,))
    if not best.decode_us:
        raise OutOfMemory("there is no room for a session of this span", hint="a shorter --span")
    sessions = best.decode_steps_us[0][0]
    while time.monotonic() - began_s < work_s:
        best = _faster(best, measure(engine, batches=(sessions,)))
    drawn = watts_between(counters, start, read_all(counters))
    n_blocks = len(engine.span)
    return Speed(
        decode=_per_s(n_blocks * sessions, best.decode_us),
        prefill=_per_s(n_blocks, best.prefill_us_per_row),
        sessions=sessions,
        source="measured now",
        watts=max(Decimal(0), drawn - resting),
        power_from=", ".join(counter.name for counter in counters),
    )


def _faster(one: "Speeds", other: "Speeds") -> "Speeds":
    """Whatever else this machine did meanwhile made a step slower, never faster."""
    return other if 0 < other.decode_us < one.decode_us else one


def _per_s(token_layers: int, took_us: int) -> Decimal:
    return round(Decimal(token_layers) * MILLION / took_us, 1)

"""What a run showed: goodput, latencies, losses, moves, bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.simulator.answers import Answers, Record
from scheduler.simulator.fleet import Fleet
from scheduler.simulator.traces import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Latencies are of answers that were completed; 0 where there is none."""

    rule: str
    trace: str
    goodput_tokens_per_s: float  # of completed answers
    delivered_tokens_per_s: float  # of all
    n_asked: int
    n_done: int
    n_lost: int  # had begun
    n_refused: int  # found no seats in time
    n_open: int  # at the end
    first_token_s: tuple[float, float]  # p50, p95
    per_token_s: tuple[float, float]  # p50, p95, after the first
    paused_s: tuple[float, float]  # p50, p95, of answers that lost a hop
    n_recoveries: int
    n_moves: int
    fetched_bytes: int
    records: tuple[Record, ...]


def report_of(rule: str, trace: Trace, answers: Answers, fleet: Fleet) -> Report:
    records = answers.records
    done = [record for record in records if record.outcome == "done"]
    counts = {name: sum(record.outcome == name for record in records) for name in OUTCOMES}
    return Report(
        rule=rule,
        trace=trace.name,
        goodput_tokens_per_s=sum(r.request.n_answer for r in done) / trace.horizon_s,
        delivered_tokens_per_s=answers.n_tokens / trace.horizon_s,
        n_asked=len(records),
        n_done=counts["done"],
        n_lost=counts["lost"],
        n_refused=counts["refused"],
        n_open=counts["open"],
        first_token_s=percentiles([r.first_token_s for r in done if r.first_token_s is not None]),
        per_token_s=percentiles([_per_token_s(r) for r in done if r.request.n_answer > 1]),
        paused_s=percentiles([r.paused_s for r in done if r.paused_s > 0]),
        n_recoveries=sum(record.n_recoveries for record in records),
        n_moves=fleet.n_moves,
        fetched_bytes=fleet.fetched_bytes,
        records=tuple(records),
    )


OUTCOMES = ("done", "lost", "refused", "open")


def _per_token_s(record: Record) -> float:
    assert record.total_s is not None
    assert record.first_token_s is not None
    return (record.total_s - record.first_token_s) / (record.request.n_answer - 1)


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p95; 0 where there is nothing."""
    if not values:
        return 0.0, 0.0
    p50, p95 = np.percentile(np.array(values), [50, 95])
    return float(p50), float(p95)

"""Our placement and routing beside other rules, on the same swarms on paper.

    python benchmarks/swarm_sim.py [--peers 100] [--blocks 80] [--minutes 30] [--seeds 1] [--draw]
                                   [--after 5]

Goals: on every trace with churn goodput >= 1.25 x the best of the other rules, or >= 0.9 of what a
clairvoyant could make who moves blocks for nothing; and the 95th percentile of a token's time no
worse than that of the best other rule. `--draw` writes the pictures of docs/scheduler.md.

A day begins with an empty swarm, and answers take minutes: `--after 5` counts those that ended
after the first five, over the rest of the day. The bound is the whole day's.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.drawing import bars, lines
from scheduler.simulator import (
    Asking,
    EvenSplit,
    Manyhands,
    ModelShape,
    Parallax,
    Petals,
    RandomRule,
    Report,
    Settings,
    Trace,
    World,
    clairvoyant_tokens_per_s,
    make_trace,
    simulate,
    volunteers,
)
from scheduler.simulator.report import percentiles
from scheduler.simulator.traces import KINDS

RULES = {
    "manyhands": Manyhands,
    "petals": Petals,
    "parallax": Parallax,
    "parallax-dp": lambda: Parallax(dynamic=True),
    "parallax-dp-source": lambda: Parallax(dynamic=True, per_shard=False),
    "even": EvenSplit,
    "random": RandomRule,
}
OURS = "manyhands"
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
BIN_S = 30.0


class Case(NamedTuple):
    """One run, as a process can be told of it."""

    rule: str
    kind: str
    seed: int
    n_peers: int
    n_blocks: int
    horizon_s: float
    load: float
    after_s: float = 0.0  # only answers that ended later count


class Outcome(NamedTuple):
    case: Case
    report: Report
    bound_tokens_per_s: float
    cpu_s: float


def main() -> None:
    args = _arguments()
    kinds, rules = args.traces.split(","), args.rules.split(",")
    cases = [
        Case(
            rule, kind, seed, args.peers, args.blocks, 60 * args.minutes, args.load, 60 * args.after
        )
        for kind in kinds
        for seed in range(1, args.seeds + 1)
        for rule in rules
    ]
    with ProcessPoolExecutor(args.jobs) as pool:
        outcomes = []
        for outcome in pool.map(run, cases):
            outcomes.append(outcome)
            case, report = outcome.case, outcome.report
            print(
                f"{case.kind}, {case.rule}, seed {case.seed}: "
                f"{report.goodput_tokens_per_s:.1f} of {outcome.bound_tokens_per_s:.1f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
    print(
        f"{args.peers} peers, {args.blocks} blocks, {args.minutes:g} min, load {args.load:g}, ",
        end="",
    )
    print(f"seeds 1-{args.seeds}; the longest run took {max(o.cpu_s for o in outcomes):.0f} s\n")
    for kind in kinds:
        _tell(kind, [outcome for outcome in outcomes if outcome.case.kind == kind])
    if OURS in rules and len(rules) > 1:
        _judge(kinds, outcomes)
    if args.draw:
        draw(kinds, [outcome for outcome in outcomes if outcome.case.seed == 1])


def setting(case: Case) -> tuple[World, Trace]:
    """The swarm and its day, the same for every rule."""
    rng = random.Random(f"{case.kind} {case.seed}")
    model = ModelShape(n_blocks=case.n_blocks)
    world = World(model, volunteers(case.n_peers, rng, model))
    n_prompt, n_answer = Asking(per_s=1.0).means
    most = sum(peer.blocks_per_s(n_prompt / n_answer) for peer in world.peers) / case.n_blocks
    asking = Asking(per_s=case.load * most / n_answer)
    return world, make_trace(case.kind, world, rng, asking=asking, horizon_s=case.horizon_s)


def run(case: Case) -> Outcome:
    world, trace = setting(case)
    began_s = time.process_time()
    report = simulate(
        world, trace, RULES[case.rule](), seed=case.seed, settings=Settings(rates_s=2.0)
    )
    cpu_s = time.process_time() - began_s
    report = _settled(report, case)
    return Outcome(case, report, clairvoyant_tokens_per_s(world, trace), cpu_s)


def _settled(report: Report, case: Case) -> Report:
    """Goodput and latencies of the answers that ended after `after_s`, over the time since."""
    if not case.after_s:
        return report
    done = [
        (record.request.n_answer, record.first_token_s, record.total_s)
        for record in report.records
        if record.first_token_s is not None
        and record.total_s is not None
        and record.request.at_s + record.total_s >= case.after_s
    ]
    return replace(
        report,
        goodput_tokens_per_s=sum(n for n, _, _ in done) / (case.horizon_s - case.after_s),
        first_token_s=percentiles([first_s for _, first_s, _ in done]),
        per_token_s=percentiles([(end - first) / (n - 1) for n, first, end in done if n > 1]),
    )


def _tell(kind: str, outcomes: Sequence[Outcome]) -> None:
    print(f"### {kind}\n")
    print(
        "| rule | goodput, tokens/s | of the bound | token p50 / p95, s | first p50 / p95, s "
        "| done | lost | refused | open | hops lost | moves | GB fetched |"
    )
    print("|" + "---|" * 12)
    for rule in dict.fromkeys(outcome.case.rule for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.case.rule == rule]
        reports = [outcome.report for outcome in own]
        cells = [
            reports[0].rule,
            f"{_mean([r.goodput_tokens_per_s for r in reports]):.1f}",
            f"{_mean([o.report.goodput_tokens_per_s / o.bound_tokens_per_s for o in own]):.2f}",
            _pair([r.per_token_s for r in reports]),
            _pair([r.first_token_s for r in reports]),
            *(
                f"{_mean([getattr(r, name) for r in reports]):.0f}"
                for name in ("n_done", "n_lost", "n_refused", "n_open", "n_recoveries", "n_moves")
            ),
            f"{_mean([r.fetched_bytes / 1e9 for r in reports]):.0f}",
        ]
        print("| " + " | ".join(cells) + " |")
    print(flush=True)


def _judge(kinds: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """Ours against the best other rule of each trace and seed; seeds averaged."""
    print("### Goals\n")
    print(
        "| trace | x the best other rule | of the bound | goal | token p95, x of that rule | goal |"
    )
    print("|" + "---|" * 6)
    for kind in kinds:
        ratios, of_bound, p95 = [], [], []
        for seed in sorted({outcome.case.seed for outcome in outcomes}):
            here = [o for o in outcomes if o.case.kind == kind and o.case.seed == seed]
            ours = next(o for o in here if o.case.rule == OURS)
            others = [o.report for o in here if o.case.rule != OURS]
            best = max(others, key=lambda report: report.goodput_tokens_per_s)
            ratios.append(ours.report.goodput_tokens_per_s / best.goodput_tokens_per_s)
            of_bound.append(ours.report.goodput_tokens_per_s / ours.bound_tokens_per_s)
            p95.append(ours.report.per_token_s[1] / best.per_token_s[1])
        met = _mean(ratios) >= 1.25 or _mean(of_bound) >= 0.9
        print(
            f"| {kind} | {_mean(ratios):.2f} | {_mean(of_bound):.2f} | >= 1.25 or >= 0.9: "
            f"{'met' if met else 'missed'} | {_mean(p95):.2f} | <= 1: "
            f"{'met' if _mean(p95) <= 1 else 'missed'} |"
        )
    print()


def draw(kinds: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """The pictures of docs/scheduler.md, from the first seed."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    by_kind = {kind: [o for o in outcomes if o.case.kind == kind] for kind in kinds}
    goodput = {
        kind: {o.report.rule: o.report.goodput_tokens_per_s for o in own}
        for kind, own in by_kind.items()
    }
    bounds = {kind: own[0].bound_tokens_per_s for kind, own in by_kind.items()}
    latency = {
        kind: {o.report.rule: o.report.per_token_s[1] for o in own} for kind, own in by_kind.items()
    }
    (IMAGES / "goodput.svg").write_text(
        bars(
            "Tokens of finished answers",
            "per second; more is better",
            goodput,
            marks=bounds,
            mark_name="no rule can make more than this",
        )
    )
    (IMAGES / "latency.svg").write_text(
        bars(
            "How long a token takes",
            "seconds, 95th percentile of finished answers; less is better",
            latency,
            digits=2,
        )
    )
    if "outage" in by_kind:
        own = by_kind["outage"]
        horizon_s = own[0].case.horizon_s
        series = {o.report.rule: flow(o.report, horizon_s) for o in own}
        (IMAGES / "outage.svg").write_text(
            lines(
                "A region with a third of the peers is gone for a while",
                "tokens per second of answers that were finished in the end",
                series,
                x_unit="minutes",
                shaded=(0.4 * horizon_s / 60, 0.6 * horizon_s / 60),
            )
        )
    print(f"pictures in {IMAGES}")


def flow(report: Report, horizon_s: float) -> list[tuple[float, float]]:
    """(minute, tokens per second): each finished answer spread over the time it took."""
    bins = [0.0] * int(horizon_s // BIN_S)
    for record in report.records:
        if record.total_s is None or record.first_token_s is None:
            continue
        begin_s = record.request.at_s + record.first_token_s
        end_s = record.request.at_s + record.total_s
        for i in range(int(begin_s // BIN_S), min(len(bins), int(end_s // BIN_S) + 1)):
            shared_s = min(end_s, (i + 1) * BIN_S) - max(begin_s, i * BIN_S)
            bins[i] += record.request.n_answer * shared_s / max(end_s - begin_s, 1e-9)
    return [((i + 0.5) * BIN_S / 60, tokens / BIN_S) for i, tokens in enumerate(bins)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _pair(values: Sequence[tuple[float, float]]) -> str:
    return f"{_mean([p50 for p50, _ in values]):.2f} / {_mean([p95 for _, p95 in values]):.2f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=80)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--after", type=float, default=0, help="minutes that do not count")
    parser.add_argument("--load", type=float, default=0.3, help="of what all peers could make")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--traces", default=",".join(KINDS), help=", ".join(KINDS))
    parser.add_argument("--rules", default=",".join(RULES), help=", ".join(RULES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--draw", action="store_true", help="write docs/images/*.svg")
    args = parser.parse_args()
    if not 0 <= args.after < args.minutes:
        parser.error("--after is less than --minutes")
    _known(args.traces, KINDS, parser)
    _known(args.rules, RULES, parser)
    return args


def _known(
    given: str, known: Mapping[str, object] | Sequence[str], parser: argparse.ArgumentParser
) -> None:
    for name in given.split(","):
        if name not in known:
            parser.error(f"{name!r} is none of {', '.join(known)}")


if __name__ == "__main__":
    main()

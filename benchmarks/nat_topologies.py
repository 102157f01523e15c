"""Does everybody join, and is everybody reached, behind routers drawn at random?

`python -m benchmarks.nat_topologies [--topologies 100] [--seed 7] [--jobs 2] [--json]`, as root
with `ip` and `iptables`. Each topology is a small internet of network namespaces: one or two public
nodes that relay, one to three homes behind routers, and a client behind another
(`nat_drawing.py`). Every node is the command `serve`, with its usual timing, and told nothing but
whom to join.

A topology succeeds when an answer, equal to that of one public node, flows through blocks that its
homes serve and nobody else. Some homes are drawn that can reach nobody at all: they count apart,
and must be told why by `doctor`. So must every failure, by the ids of its checks.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # before torch is imported

from benchmarks import nat_running
from benchmarks.common import table
from benchmarks.nat_drawing import Topology, draw
from benchmarks.nat_member import Forge, Stopped, TooLate
from benchmarks.nat_running import Result
from protocol.transport.libp2p import is_installed
from tests.namespaces.lab import remove_own, why_not
from tests.namespaces.upnp import why_no_miniupnpd

GOAL = 0.98
TOOK_S = 20.0  # that a topology should take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topologies", type=int, default=100, metavar="N")
    parser.add_argument("--first", type=int, default=1, metavar="NUMBER", help="of the first one")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=2, help="topologies at a time")
    parser.add_argument("--patience", type=float, default=45.0, help="seconds for an answer")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one object")
    options = parser.parse_args()
    if missing := why_not():
        sys.exit(f"error: {missing}")
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, frame: stop.set())
    may = {"may_forward": not why_no_miniupnpd(), "may_libp2p": is_installed()}
    numbers = range(options.first, options.first + options.topologies)
    drawn = [draw(number, options.seed, **may) for number in numbers]
    began_s = time.monotonic()
    try:
        results = _run_all(drawn, stop, options.jobs, options.patience)
    finally:
        remove_own()
    took_s = time.monotonic() - began_s
    seed = f"seed {options.seed}, topologies {numbers[0]} to {numbers[-1]}"
    if options.as_json:
        view = {"seed": options.seed, "took_s": took_s, "topologies": list(map(_view, results))}
        print(json.dumps(view | {"load": os.getloadavg()[0]}))
    else:
        load = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
        print(f"{len(results)} of {len(drawn)} topologies ({seed}), {took_s:.0f} s, {load}\n")
        report(results)
    if stop.is_set():
        sys.exit(130)


def _run_all(
    drawn: Sequence[Topology], stop: threading.Event, jobs: int, patience_s: float
) -> list[Result]:
    """Those that came to an end before somebody asked us to."""
    forge, results = Forge(stop), []
    with ThreadPoolExecutor(jobs) as threads:

        def begin(topology: Topology) -> "Future[Result]":
            return threads.submit(nat_running.run, topology, forge, patience_s)

        try:
            expected = threads.submit(nat_running.reference, forge).result()
            waiting, running = list(drawn), set[Future[Result]]()
            while (waiting or running) and not stop.is_set():
                running |= {
                    begin(waiting.pop(0)) for _ in range(min(len(waiting), jobs - len(running)))
                }
                done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for result in (future.result() for future in done):
                    if not result.error and result.token_ids != expected:
                        result.error = f"another answer: {result.token_ids}"
                    results.append(result)
                    _tell(result, len(results), len(drawn))
        except Stopped:
            pass
        except BaseException:
            stop.set()
            raise
    return sorted(results, key=lambda result: result.topology.number)


def _tell(result: Result, n_done: int, n_all: int) -> None:
    came = f"no answer: {result.error}" if result.error else f"{result.after_s:.1f} s"
    n, topology = result.topology.number, result.topology
    print(f"[{n_done}/{n_all}] #{n} {topology}: {came}", file=sys.stderr, flush=True)


# --- what came of all -----------------------------------------------------------------------------


def report(results: Sequence[Result]) -> None:
    hopeless = [each for each in results if each.topology.is_hopeless]
    hopeful = [each for each in results if not each.topology.is_hopeless]
    failed = [each for each in hopeful if each.error]
    unexplained = [each for each in failed if not each.is_explained]
    joined = len(hopeful) - len(failed)
    after = sorted(each.after_s for each in hopeful if not each.error)
    took = sorted(each.took_s for each in hopeful)
    told = sum(bool(each.error) and each.is_explained for each in hopeless)
    heading = ("behind random routers", "measured", "goal")
    rows = [
        ("right answers through all homes", _share(joined, len(hopeful)), f">= {GOAL:.0%}"),
        ("failures that `doctor` does not explain", str(len(unexplained)), "0"),
        ("homes let out to nobody, and told so", _share(told, len(hopeless)), "all"),
        ("from the homes' start to the answer, s: p50, p95, most", _spread(after), ""),
        ("a topology in all, s: p50, p95, most", _spread(took), f"<= {TOOK_S:.0f}"),
    ]
    table(heading, rows)
    print()
    _by_kind(hopeful)
    for each in [*failed, *hopeless]:
        kind = "can reach nobody" if each.topology.is_hopeless else "failed"
        print(f"\n#{each.topology.number} {kind}: {each.topology}\n  {each.error or 'answered'}")
        for said in each.said:
            print(f"  {said.host}: doctor {said.id} ({said.verdict}): {said.reason}")


def _by_kind(results: Sequence[Result]) -> None:
    """Homes by what stands before them, whatever their neighbours spoiled."""
    homes: dict[str, list[tuple[Result, str]]] = {}
    for each in results:
        for n, home in enumerate(each.topology.homes):
            name = f"{home.kind}{', second in its home' if home.is_neighbour else ''}"
            homes.setdefault(name, []).append((each, f"home{n}"))
    heading = ("home behind", "homes", "in an answer", "verdict: how many")
    rows = []
    for name, theirs in sorted(homes.items()):
        verdicts = Counter(each.reach.get(home, "unseen") for each, home in theirs)
        answered = sum(not each.error for each, _ in theirs)
        counts = ", ".join(f"{word}: {n}" for word, n in verdicts.most_common())
        rows.append((name, str(len(theirs)), str(answered), counts))
    table(heading, rows)


def _view(result: Result) -> dict[str, Any]:
    topology = result.topology
    return {
        "number": topology.number,
        "topology": str(topology),
        "hopeless": topology.is_hopeless,
        "answered": not result.error,
        "after_s": round(result.after_s, 2),
        "took_s": round(result.took_s, 2),
        "first_token_ms": result.first_token_ms,
        "reach": result.reach,
        "error": result.error or None,
        "explained": result.is_explained,
        "doctor": list(map(asdict, result.said)),
    }


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "none drawn"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    p95 = values[min(len(values) - 1, round(0.95 * (len(values) - 1)))]
    return f"{statistics.median(values):.1f}, {p95:.1f}, {values[-1]:.1f}"


if __name__ == "__main__":
    try:
        main()
    except TooLate as late:
        sys.exit(f"error: {late}")

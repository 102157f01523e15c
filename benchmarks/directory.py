"""The directory: what gossip costs at rest, how fast it converges, how that grows.

`python -m benchmarks.directory [rest] [swarm] [rounds]` runs all three parts, or those named:

* rest: the node's own gossip loop, 1,000 of them over the transport inside one process, in virtual
  time; the bytes of each node, and what TLS and TCP add, measured on one real connection;
* swarm: 200 members over real sockets in a few processes, until all see all; then one process is
  killed, until nobody sees its members any more;
* rounds: tables alone, one record in one of n of them, until all have it.
"""

import argparse
import asyncio
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks import directory_rest, directory_swarm
from protocol.announcement_table import AnnouncementTable
from protocol.gossip_rules import MAX_STEPS, WINDOW_MS, Exchange, answer
from protocol.signing import OPEN_SWARM_ID
from tests.announcing import NOW_MS, record

GOAL_BYTES_PER_S, GOAL_CONVERGED_S = 5_000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["rest", "swarm", "rounds", []], default=[])
    parser.add_argument("--nodes", type=int, default=1000, help="at rest")
    parser.add_argument("--seconds", type=float, default=120.0, help="of virtual time, at rest")
    parser.add_argument("--members", type=int, default=200, help="of the real swarm")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--over", type=float, default=30.0, help="seconds in which they join")
    parser.add_argument("--largest", type=int, default=10_000, help="swarm of the rounds")
    options = parser.parse_args()
    parts = options.parts or ["rest", "swarm", "rounds"]
    if "rest" in parts:
        rest(options.nodes, options.seconds)
    if "swarm" in parts:
        swarm(options.members, options.processes, options.over)
    if "rounds" in parts:
        rounds(options.largest)


def rest(n_nodes: int, seconds: float) -> None:
    cost = asyncio.run(directory_rest.measure_wire())
    found = directory_rest.measure_rest(n_nodes, seconds)
    wire = found.wire_bytes_per_s(cost)
    table(
        (f"{n_nodes} announcements at rest, per node", "measured", "goal"),
        (
            ("messages, sent and received, mean", f"{found.bytes_per_s:.0f} B/s", ""),
            ("with TLS, HTTP/2 and TCP/IP, mean", f"{wire:.0f} B/s", f"<= {GOAL_BYTES_PER_S} B/s"),
            ("the busiest node, messages alone", f"{found.most_bytes_per_s:.0f} B/s", ""),
            ("calls, made and answered", f"{found.calls_per_s:.2f} /s", ""),
            ("handshakes, made and answered", f"{found.dials_per_s * 60:.2f} /min", ""),
            ("nodes that lost sight of somebody", str(found.n_blind), "0"),
            ("a killed node vanishes within", f"{found.lifetime_s:.0f} s", "its expiry"),
        ),
    )
    print(
        f"\n{found.measured_s:.0f} s of virtual time, {found.cpu_s:.0f} s of CPU. Wire: a call adds"
        f" {cost.call_bytes:.0f} B, a handshake costs {cost.dial_bytes:.0f} B, an open connection"
        f" {cost.idle_bytes_per_s:.1f} B/s of pings.\n"
    )


def swarm(n_members: int, n_processes: int, over_s: float) -> None:
    found = directory_swarm.measure(n_members, n_processes, over_s)
    heading = f"{n_members} members in {n_processes} processes, gRPC with mutual TLS"
    goal, lifetime = f"<= {GOAL_CONVERGED_S} s", f"<= {found.lifetime_s:.0f} s, their lifetime"
    gone = f"{found.n_killed} members killed: gone from all tables after"
    table(
        (heading, "measured", "goal"),
        (
            ("all joined within", f"{found.joining_s:.1f} s", ""),
            ("all see all, after the last join", f"{found.converged_s:.1f} s", goal),
            ("calls per member until then", f"{found.calls:.0f}", ""),
            ("handshakes begun per member until then", f"{found.dials:.1f}", ""),
            ("of all of these came to nothing", str(found.n_given_up), ""),
            ("messages per member until then, both ways", f"{found.kilobytes:.0f} kB", ""),
            ("CPU per member until then", f"{found.cpu_s:.2f} s", ""),
            ("resident memory per member", f"{found.megabytes:.1f} MB", ""),
            (gone, f"{found.gone_s:.1f} s", lifetime),
        ),
    )
    print()


def rounds(largest: int) -> None:
    rows = []
    n = 10
    while n <= largest:
        found = spread(n, random.Random(7))
        rows.append(
            (f"{n:,}", str(found.n_rounds), f"{math.log2(n):.1f}",
             f"{found.n_bytes / n:.0f} B", f"{found.cpu_s:.1f} s")
        )  # fmt: skip
        n *= 10
    table(("nodes", "rounds", "log2 n", "bytes per node", "CPU"), rows)
    print("\nGoal: rounds grow like log n. One record of 352 bytes; a question a node and round.\n")


@dataclass(slots=True)
class Spread:
    n_rounds: int = 0
    n_bytes: int = 0
    cpu_s: float = 0.0


def spread(n: int, rng: random.Random) -> Spread:
    """One record in one of `n` tables; each asks one other per round, until all hold it."""
    began_s, found = time.process_time(), Spread()
    tables = [AnnouncementTable(OPEN_SWARM_ID) for _ in range(n)]
    known = [record(peer) for peer in (1, 2)]
    for each in tables:  # so that nobody seems to join, and asks for everything
        for old in known:
            each.merge(old, sender="", now_ms=NOW_MS - WINDOW_MS)
    tables[0].merge(record(3), sender="", now_ms=NOW_MS)
    while any(len(each) < 3 for each in tables):
        found.n_rounds += 1
        now_ms = NOW_MS + found.n_rounds * 1000
        for ours in tables:
            theirs = rng.choice(tables)
            if theirs is not ours:
                found.n_bytes += exchange(ours, theirs, now_ms)
    found.cpu_s = time.process_time() - began_s
    return found


def exchange(ours: AnnouncementTable, theirs: AnnouncementTable, now_ms: int) -> int:
    """The bytes of one exchange of what is new."""
    conversation, n_bytes = Exchange(ours, compare=False), 0
    message = conversation.question(now_ms)
    for _ in range(MAX_STEPS):
        told = answer(theirs, message, sender="us", now_ms=now_ms).reply
        n_bytes += len(message) + len(told)
        message = conversation.take(told, sender="them", now_ms=now_ms).reply
        if not message:
            break
    return n_bytes


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table, without what `common` loads."""
    print("| " + " | ".join(heading) + " |")
    print("|" + "---|" * len(heading))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()

"""What the control plane over libp2p takes at rest, and how soon a newcomer finds a swarm by it.

    python benchmarks/control_plane.py [--seconds 60] [--connections 50] [--hosts 40]
                                       [--records 500]

At rest: one node's discovery, in a process of its own, with as many connections from hosts in
another; processor time and memory of that process, beside one that only imported what it takes.
Finding: so many hosts in one process keep so many signed records between them; a newcomer that
knows one of them looks for all. Prints a markdown table with goals.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from node.discovery import Discovery
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Announcement, seal_announcement
from protocol.anti_entropy import Record
from protocol.clock import wall_ms
from protocol.identity import Identity
from protocol.messages import Span
from protocol.record_pages import N_PAGES, key_of_page, page_of, write_records
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport.control_plane import PlaneLimits
from protocol.transport.libp2p import Libp2pPlane

MEGABYTE = 1e6
LIMITS = PlaneLimits(connections=200, connections_per_host=200)  # all of them are on one machine
LIFETIME_MS = 600_000


def record_of(identity: Identity) -> Record:
    now_ms = wall_ms()
    said = Announcement(
        peer_id=identity.peer_id,
        addresses=(Address("203.0.113.7", 31400, identity.peer_id),),
        model="a-model-of-some-size",
        manifest=bytes(32),
        n_blocks=80,
        span=Span(0, 20),
        profile="bfloat16/none/bfloat16",
        decode_us=12_345,
        prefill_us_per_row=210,
        kv_free_bytes=2**33,
        max_positions=131_072,
        software="manyhands/0.1.0 torch/2.13.0 transformers/5.23.0",
    ).stamped(now_ms, now_ms, LIFETIME_MS)
    return Record(LIFETIME_MS, seal_announcement(said, OPEN_SWARM_ID, identity.key))


def new_identity() -> Identity:
    return Identity(SigningKey.generate())


def discovery(*bootstrap: Address, n_records: int = 1) -> tuple[Discovery, list[Record]]:
    """A host, and the records it will put; the first is its own."""
    identities = [new_identity() for _ in range(n_records)]
    table = AnnouncementTable(OPEN_SWARM_ID)
    records = [record_of(each) for each in identities]
    for record in records:
        table.merge(record, sender="self", now_ms=wall_ms())
    plane = Libp2pPlane(identities[0], bootstrap=bootstrap, limits=LIMITS)
    return Discovery(table, plane), records


async def put_all(host: Discovery) -> None:
    """Every record of a host's table to the page where others look for it."""
    by_page: dict[int, list[Record]] = {}
    for entry in list(host.table.learned_since(0)):
        page = page_of(entry.announcement.peer_id)
        by_page.setdefault(page, []).append(Record(LIFETIME_MS, entry.data))
    for page, records in by_page.items():
        await host.plane.publish(key_of_page(OPEN_SWARM_ID, page), write_records(records))


def memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def at_rest(n_connections: int, seconds: float) -> None:
    """The process that is measured: prints one line of JSON."""
    before_bytes = memory_bytes()
    host, _ = discovery(n_records=2)
    await host.start()
    print(json.dumps({"address": str(host.plane.addresses[0])}), flush=True)
    running = asyncio.create_task(host.run())
    while len(host.plane.peers()) < n_connections:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.2)
    await asyncio.sleep(15)  # greetings, identify, first looks
    cpu_s, wall_s = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    share = (time.process_time() - cpu_s) / (time.monotonic() - wall_s)
    found = {
        "cpu": share,
        "connections": len(host.plane.peers()),
        "before_bytes": before_bytes,
        "bytes": memory_bytes(),
    }
    print(json.dumps(found), flush=True)
    running.cancel()
    await host.stop()


async def connect_many(address: Address, n: int) -> None:
    """The other side: hosts that know somebody, and do what nodes do then, until they are ended."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        for _ in range(n):
            host, _ = discovery(address, n_records=2)
            await host.start()
            stack.push_async_callback(host.stop)
            while not host.plane.peers():  # noqa: ASYNC110 (it has no event)
                await asyncio.sleep(0.05)
            tasks.create_task(host.run())


def measure_rest(n_connections: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--connections", str(n_connections)]
    measured = subprocess.Popen(
        [*command, "--role", "rest", "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert measured.stdout is not None
    address = json.loads(measured.stdout.readline())["address"]
    others = subprocess.Popen([*command, "--role", "others", "--address", address])
    try:
        return dict(json.loads(measured.stdout.readline()))
    finally:
        others.terminate()
        measured.wait(30)
        others.wait(30)


async def measure_finding(n_hosts: int, n_records: int) -> tuple[float, float, int]:
    """Seconds to put all, seconds to find all, how many were found."""
    async with AsyncExitStack() as stack:
        hosts: list[Discovery] = []
        for n in range(n_hosts):
            share = n_records // n_hosts + (n < n_records % n_hosts)
            known = hosts[0].plane.addresses if hosts else ()
            host, _ = discovery(*known, n_records=share)
            await host.start()
            stack.push_async_callback(host.stop)
            hosts.append(host)
        while not all(host.plane.peers() for host in hosts):  # noqa: ASYNC110 (the same)
            await asyncio.sleep(0.5)
        began_s = time.monotonic()
        for host in hosts:
            await put_all(host)
        put_s = time.monotonic() - began_s
        newcomer = Discovery(
            AnnouncementTable(OPEN_SWARM_ID),
            Libp2pPlane(new_identity(), bootstrap=hosts[0].plane.addresses, limits=LIMITS),
        )
        began_s = time.monotonic()
        await newcomer.start()
        stack.push_async_callback(newcomer.stop)
        while len(newcomer.table) < n_records and time.monotonic() - began_s < 60:
            await newcomer.look(range(N_PAGES))
            await asyncio.sleep(0.2)
        return put_s, time.monotonic() - began_s, len(newcomer.table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--hosts", type=int, default=40)
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--role", choices=["all", "rest", "others"], default="all")
    parser.add_argument("--address", default="")
    given = parser.parse_args()
    if given.role == "rest":
        asyncio.run(at_rest(given.connections, given.seconds))
        return
    if given.role == "others":
        asyncio.run(connect_many(Address.parse(given.address), given.connections))
        return
    print("| figure | measured | goal |\n|---|---|---|")
    rest = measure_rest(given.connections, given.seconds)
    print(
        f"| at rest, {rest['connections']} connections: of one core | {rest['cpu']:.1%} | ≤ 5 % |"
    )
    whole, before = rest["bytes"] / MEGABYTE, rest["before_bytes"] / MEGABYTE
    print(
        f"| memory of that process, of it before libp2p | {whole:.0f} MB, {before:.0f} MB "
        "| ≤ 120 MB |",
        flush=True,
    )
    put_s, find_s, found = asyncio.run(measure_finding(given.hosts, given.records))
    print(f"| {given.records} records put on {given.hosts} hosts | {put_s:.1f} s | |")
    print(f"| {found} of them found by a newcomer that knows one host | {find_s:.1f} s | ≤ 20 s |")


if __name__ == "__main__":
    main()

"""What a relay adds to a connection, and how soon a node behind one answers.

`python -m benchmarks.relay [--frames N] [--megabytes M] [--no-join | --join]` prints two tables,
each with its goals. The first: the same peer, dialled directly and through a relay, each in a
process of its own; round trips of 1 KiB taken in turns, then a stream one way, with the processor's
time that the relay took for it. The second: a real node that nobody can dial, to the first token of
a client that waits for its blocks, from the start of its process (which loads torch and a small
model) and from its ready line. On loopback it announces an address that leads nowhere, and is told
to take places at relays (`--via auto`); as root also in network namespaces, behind a symmetric
router, as `serve` comes: it finds out by itself.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import machine, median, table
from manyhands.loops import run
from node.relay import Relay
from node.relay_book import Quotas
from node.reserving import Reservations
from protocol.address import Address
from protocol.identity import Identity
from protocol.relaying import METHOD, Share
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport import Service, Stream
from protocol.transport.grpc import GrpcTransport
from tests.namespaces.lab import Lab, Nat, why_not
from tests.namespaces.nodes import Served, answering, start_all

ADDED_MS, MEGABYTES_PER_S, JOIN_S = 0.5, 200.0, 5.0  # goals
WAYS = ("direct", "relayed")
FRAME, PART = 1024, 256 << 10
AMPLE = Quotas(
    share=Share(bytes_per_s=1 << 32, burst_bytes=1 << 40),
    bytes_per_s=1 << 32,
    burst_bytes=1 << 40,
)
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--megabytes", type=int, default=1000, help="of one stream")
    parser.add_argument("--no-join", action="store_true", help="leave out the second table")
    parser.add_argument("--join", action="store_true", help="the second table alone")
    parser.add_argument("--role", choices=("relay", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--gate", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "relay":
        run(be_relay())
    elif given.role == "peer":
        run(be_peer(Address.parse(given.gate)))
    else:
        print(machine())
        if not given.join:
            run(compare(given.frames, given.megabytes))
        if not given.no_join:
            print()
            join()


# --- a relay beside none --------------------------------------------------------------------------


async def compare(n_frames: int, n_megabytes: int) -> None:
    with ExitStack() as stack:
        relay, gate = stack.enter_context(process("--role=relay"))
        _, told = stack.enter_context(process("--role=peer", f"--gate={gate}"))
        ways = {way: Address.parse(text) for way, text in zip(WAYS, told.split(), strict=True)}
        took = await round_trips(ways, n_frames)
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        cpu_s = 0.0
        for _ in range(ROUNDS):
            for way, address in ways.items():
                before_s = cpu_seconds(relay.pid)
                rates[way].append(await megabytes_per_s(address, n_megabytes))
                cpu_s += cpu_seconds(relay.pid) - before_s if way == "relayed" else 0.0
    p50 = {way: median(seconds) * 1e3 for way, seconds in took.items()}
    best = {way: max(found) for way, found in rates.items()}
    added_ms = p50["relayed"] - p50["direct"]
    per_gb = cpu_s / (ROUNDS * n_megabytes / 1000)
    rows = [
        ["round trip of 1 KiB, p50 ms", *(f"{p50[way]:.3f}" for way in WAYS), goal(added_ms)],
        ["one stream, MB/s", *(f"{best[way]:.0f}" for way in WAYS), fast(best["relayed"])],
        ["relay's processor, s per GB", "-", f"{per_gb:.2f}", "-"],
    ]
    table(["", *WAYS, "goal"], rows)


def goal(added_ms: float) -> str:
    return f"adds {added_ms:.3f}, goal {ADDED_MS}: {verdict(added_ms <= ADDED_MS)}"


def fast(rate: float) -> str:
    return f"{MEGABYTES_PER_S:.0f}: {verdict(rate >= MEGABYTES_PER_S)}"


def verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"


async def round_trips(ways: dict[str, Address], n_frames: int) -> dict[str, list[float]]:
    """Seconds of each, in turns: what else the machine does then hits both alike."""
    streams = {}
    for way, address in ways.items():
        connection = await new_transport().dial(address)
        streams[way] = await connection.open("echo")
    took: dict[str, list[float]] = {way: [] for way in ways}
    frame = os.urandom(FRAME)
    for i in range(n_frames + 200):
        for way, stream in streams.items():
            began_s = time.perf_counter()
            stream.send(frame)
            await stream.receive()
            if i >= 200:
                took[way].append(time.perf_counter() - began_s)
    for stream in streams.values():
        await stream.aclose()
    return took


async def megabytes_per_s(address: Address, n_megabytes: int) -> float:
    """Of one stream to the peer, which says when it has all."""
    connection = await new_transport().dial(address)
    stream = await connection.open("sink")
    part, n_parts = os.urandom(PART), n_megabytes * 10**6 // PART
    stream.send(n_parts.to_bytes(8, "big"))
    began_s = time.perf_counter()
    for i in range(n_parts):
        stream.send(part)
        if i % 32 == 31:
            await stream.drain()
    await stream.receive()
    rate = n_parts * PART / 1e6 / (time.perf_counter() - began_s)
    await stream.aclose()
    await connection.aclose()
    return rate


async def be_relay() -> None:
    identity = Identity(SigningKey.generate())
    relay = Relay(identity, OPEN_SWARM_ID, AMPLE)
    transport = GrpcTransport(identity, OPEN_SWARM_ID)
    listener = await transport.listen("127.0.0.1", 0, Service(streams={METHOD: relay.handle}))
    async with relay.running("127.0.0.1", 0):
        print(listener.addresses[0], flush=True)
        await asyncio.Event().wait()


async def be_peer(gate: Address) -> None:
    async def echo(stream: Stream) -> None:
        while True:
            stream.send(await stream.receive())

    async def sink(stream: Stream) -> None:
        for _ in range(int.from_bytes(await stream.receive(), "big")):
            await stream.receive()
        stream.send(b"all")
        await stream.drain()

    transport = new_transport()
    service = Service(streams={"echo": echo, "sink": sink})
    listener = await transport.listen("127.0.0.1", 0, service)
    own = listener.addresses[0]
    reserved = asyncio.Event()
    reservations = Reservations(
        transport,
        OPEN_SWARM_ID,
        given=(gate,),
        local=lambda: (own.host, own.port),
        changed=reserved.set,
    )
    reserving = asyncio.create_task(reservations.run())
    await reserved.wait()
    print(own, reservations.addresses[0], flush=True)
    await reserving


def new_transport() -> GrpcTransport:
    return GrpcTransport(Identity(SigningKey.generate()), OPEN_SWARM_ID)


# --- a node behind a relay ------------------------------------------------------------------------


class Joined(NamedTuple):
    """Seconds to the first token."""

    from_start_s: float
    from_ready_s: float


def join() -> None:
    rows = [_row("on loopback", [on_loopback() for _ in range(ROUNDS)])]
    if reason := why_not():
        print(f"not in namespaces: {reason}", file=sys.stderr)
    else:
        rows.append(_row("behind a symmetric router", [behind_a_router() for _ in range(ROUNDS)]))
    table(
        ["a hidden node's first token", "s from its ready line", "s from its start", "goal"], rows
    )


def _row(name: str, took: list[Joined]) -> list[str]:
    is_met = verdict(max(each.from_ready_s for each in took) <= JOIN_S)
    ready = ", ".join(f"{each.from_ready_s:.1f}" for each in took)
    start = ", ".join(f"{each.from_start_s:.1f}" for each in took)
    return [name, ready, start, f"{JOIN_S:.0f} from the ready line: {is_met}"]


def behind_a_router() -> Joined:
    """The same in network namespaces, where nobody tells the hidden node that it is."""
    with Lab() as lab:
        public = Served(lab.host("public"), "0:4", "--relay=0.0.0.0:31402")
        start_all([public])
        home = Served(lab.host("home", Nat.SYMMETRIC), "4:8")
        asks = ("--join", public.address, "--wait=60", "--no-spares")
        with answering(lab.host("client"), *asks) as told:
            began_s = time.monotonic()
            home.start(public.address)
            home.until_ready()
            ready_s = time.monotonic()
            next(event for event in told if event["event"] == "token")
            return Joined(time.monotonic() - began_s, time.monotonic() - ready_s)


def on_loopback() -> Joined:
    """A public node relays and serves the first half, a hidden one comes with the second."""
    with ExitStack() as stack, socket.socket() as nobody:
        homes = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nobody.bind(("127.0.0.1", 0))  # bound, and nobody listens there
        dead = "{}:{}".format(*nobody.getsockname())

        def start(name: str, *options: str) -> Iterator[dict[str, Any]]:
            return stack.enter_context(events(homes / name, *options))

        serve = ("serve", "tiny", "--listen=127.0.0.1:0", "--kv-cache=64MiB", "--threads=1")
        public = start("public", *serve, "--span=0:4", "--relay=127.0.0.1:0")
        address = next(public)["addresses"][0]
        asks = ("--prompt=Once", "--max-tokens=1", "--temperature=0", "--wait=60", "--jsonl")
        told = start("client", "generate", "tiny", *asks, f"--join={address}")
        via = (f"--announce={dead}", "--via=auto", f"--join={address}")
        began_s = time.monotonic()
        next(start("hidden", *serve, "--span=4:8", *via))
        ready_s = time.monotonic()
        next(event for event in told if event["event"] == "token")
        return Joined(time.monotonic() - began_s, time.monotonic() - ready_s)


@contextmanager
def events(home: Path, command: str, *options: str) -> Iterator[Iterator[dict[str, Any]]]:
    """What a command prints, line by line, until it is ended."""
    line = (sys.executable, "-m", "manyhands", command, f"--home={home}", *options)
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stdout is not None
        try:
            yield (json.loads(text) for text in running.stdout)
        finally:
            running.kill()


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """This script in another role, and the line that it prints."""
    command = (sys.executable, "-m", "benchmarks.relay", *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()

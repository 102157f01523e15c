"""Members of a swarm that do nothing but gossip, over real sockets, in a few processes.

Run as a program this is one of the processes; it speaks JSON lines with the one that started it.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import resource
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from node.gossip import Gossip, GossipTiming
from node.pace import pace_of
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError
from protocol.gossip_rules import METHOD
from protocol.identity import Identity, PeerId
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport
from protocol.transport.grpc_connection import GrpcConnection
from tests.announcing import announce, key_of

LIMIT_S = 150.0


@dataclass(slots=True)
class Swarm:
    joining_s: float
    converged_s: float
    calls: float
    dials: float
    n_given_up: int
    cpu_s: float
    kilobytes: float
    megabytes: float
    n_killed: int
    gone_s: float
    lifetime_s: float


class Process:
    """One of the processes, seen from outside."""

    def __init__(self, first: int, stop: int) -> None:
        self.n_members = stop - first
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(first), str(stop)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
        )

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process of members ended")
        return json.loads(line)

    def say(self, message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def measure(n_members: int, n_processes: int, over_s: float) -> Swarm:
    """Members join one after the other, in `over_s` seconds in all."""
    borders = [n_members * i // n_processes for i in range(n_processes + 1)]
    processes = [Process(*pair) for pair in pairwise(borders)]
    try:
        return _measure(n_members, over_s, processes)
    finally:
        for process in processes:
            process.kill()


def _measure(n_members: int, over_s: float, processes: list[Process]) -> Swarm:
    listening = [process.hear()["addresses"] for process in processes]
    join = [addresses[0] for addresses in listening]
    began_s = time.time()
    for process in processes:
        process.say({"join": join, "n_members": n_members, "over_s": over_s})
    started_s = max(process.hear()["started_s"] for process in processes)
    told = [process.hear() for process in processes]
    killed = processes.pop()
    killed.kill()
    killed_s = time.time()
    for process in processes:
        process.say({"n_members": n_members - killed.n_members})
    gone_s = max(process.hear()["agreed_s"] for process in processes)
    return Swarm(
        joining_s=started_s - began_s,
        converged_s=max(each["agreed_s"] for each in told) - started_s,
        calls=sum(each["n_calls"] for each in told) / n_members,
        dials=sum(each["n_dials"] for each in told) / n_members,
        n_given_up=sum(each["n_given_up"] for each in told),
        cpu_s=sum(each["cpu_s"] for each in told) / n_members,
        kilobytes=2 * sum(each["n_bytes"] for each in told) / n_members / 1000,
        megabytes=sum(each["resident_mb"] for each in told) / n_members,
        n_killed=killed.n_members,
        gone_s=gone_s - killed_s,
        lifetime_s=pace_of(n_members, GossipTiming()).lifetime_s,
    )


# --- inside --------------------------------------------------------------------------------------


class CountingTransport(GrpcTransport):
    """Counts its handshakes, and those that came to nothing."""

    n_dials = n_given_up = 0

    async def dial(self, address: Address, *, timeout_s: float = 5.0) -> GrpcConnection:
        self.n_dials += 1
        try:
            return await super().dial(address, timeout_s=timeout_s)
        except ManyhandsError:
            self.n_given_up += 1
            raise


class Member:
    """One node that only gossips."""

    def __init__(self, n: int) -> None:
        self.n, self.n_bytes, self.n_calls = n, 0, 0
        self.table = AnnouncementTable(OPEN_SWARM_ID)
        self.transport = CountingTransport(Identity(key_of(n)), OPEN_SWARM_ID)
        self.addresses: tuple[Address, ...] = ()
        self.gossip: Gossip | None = None

    async def listen(self) -> str:
        listener = await self.transport.listen(
            "127.0.0.1", 0, Service(calls={METHOD: self._handle})
        )
        self.addresses = tuple(listener.addresses)
        return str(self.addresses[0])

    def begin(self, join: list[Address]) -> "asyncio.Task[None]":
        self.gossip = Gossip(self.table, self.transport, key_of(self.n), self._draft, join=join)
        return asyncio.create_task(self._run(self.gossip))

    async def _run(self, gossip: Gossip) -> None:
        try:
            await gossip.run()
        except Exception:
            traceback.print_exc()
            os._exit(1)  # a member that fails is a mistake of ours, not a slow swarm

    async def _handle(self, peer_id: PeerId, message: bytes) -> bytes:
        if self.gossip is None:
            return b""
        reply = await self.gossip.handle(peer_id, message)
        self.n_calls += 1
        self.n_bytes += len(message) + len(reply)
        return reply

    def _draft(self) -> Any:
        return announce(
            self.n,
            addresses=self.addresses,
            sequence=0,
            issued_ms=0,
            expires_ms=0,
            offer=bytes(350),
        )


async def inside(first: int, stop: int) -> None:
    members = [Member(n) for n in range(first, stop)]
    print(json.dumps({"addresses": [await member.listen() for member in members]}), flush=True)
    wanted = await _heard()
    join = list(map(Address.parse, wanted["join"]))
    running, began_s = [], time.process_time()
    for member in members:
        running.append(member.begin(join))
        await asyncio.sleep(wanted["over_s"] / len(members))
    print(json.dumps({"started_s": time.time()}), flush=True)
    while True:
        agreed_s = await _agree(members, wanted["n_members"])
        said = {
            "agreed_s": agreed_s,
            "n_calls": sum(member.n_calls for member in members),
            "n_bytes": sum(member.n_bytes for member in members),
            "n_dials": sum(member.transport.n_dials for member in members),
            "n_given_up": sum(member.transport.n_given_up for member in members),
            "cpu_s": time.process_time() - began_s,
            "resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        }
        print(json.dumps(said), flush=True)
        wanted = await _heard()


async def _agree(members: list[Member], n_members: int) -> float:
    """When all our tables held so many; never, if that takes too long."""
    try:
        async with asyncio.timeout(LIMIT_S):
            for member in members:
                while len(member.table.live(wall_ms())) != n_members:  # noqa: ASYNC110 (no event)
                    await asyncio.sleep(0.05)
    except TimeoutError:
        return math.inf
    return time.time()


async def _heard() -> Any:
    return json.loads(await asyncio.to_thread(sys.stdin.readline))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("first", type=int)
    parser.add_argument("stop", type=int)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # half of the addresses to join by die on purpose
    asyncio.run(inside(options.first, options.stop))

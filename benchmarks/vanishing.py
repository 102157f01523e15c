"""A thousand callers who connect to a gateway and vanish, each at a moment drawn at random.

A real swarm of two nodes and a gateway in one process, over real sockets, on the built-in model.
Callers go before their request is whole, while it waits, and in the middle of its stream, with a
proper end of the connection or a reset. Then everything has to be where it was: descriptors,
tasks, answers in the gateway, sessions and reserved bytes on every hop, and the process's memory.
And single callers, one after the other: how long after each has gone every hop's room is free.
Goals: nothing left; room free within 1 s. Run: python benchmarks/vanishing.py [--callers 1000]
"""

import argparse
import asyncio
import gc
import json
import os
import random
import socket
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import common

from manyhands.models import BUILT_IN
from tests.gateway.live import HOST, Live, live, until

AT_ONCE, LONGEST_S, SETTLES_S = 24, 0.6, 30.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the connection is reset, not closed


@dataclass(frozen=True)
class Held:
    """What the process and its swarm hold. memory_mb: by the process, its own and shared."""

    descriptors: int
    tasks: int
    answers: int
    sessions: int
    reserved_bytes: int
    memory_mb: float

    @classmethod
    def by(cls, running: Live) -> "Held":
        gc.collect()
        nodes = [local.node.sessions for local in running.swarm.nodes]
        status = Path("/proc/self/status").read_text().splitlines()
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
        return cls(
            descriptors=len(os.listdir("/proc/self/fd")),
            tasks=running.look(lambda: len(asyncio.all_tasks())),
            answers=running.look(lambda: running.gateway.n_running),
            sessions=running.look(lambda: sum(map(len, nodes))),
            reserved_bytes=running.look(lambda: sum(each.reserved_bytes for each in nodes)),
            memory_mb=resident / 1024,
        )


def request_bytes(die: random.Random) -> bytes:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"Hello {die.random()}"}],
        "ignore_eos": True,
        "max_tokens": 400,
        "stream": die.random() < 0.7,
        "manyhands": {"reuse_prefix": False},  # what peers keep for later is no leak
    }
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    return (
        f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode()
        + data
    )


async def vanish(port: int, die: random.Random) -> None:
    """One caller, from its connection to its end."""
    data = request_bytes(die)
    reader, writer = await asyncio.open_connection(HOST, port)
    cut = die.choice([0, die.randrange(len(data)), len(data), len(data), len(data)])
    writer.write(data[:cut])
    try:
        async with asyncio.timeout(die.uniform(0, LONGEST_S)):
            while await reader.read(1 << 12):
                pass
    except TimeoutError:
        pass
    if die.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.close()


async def many(port: int, n_callers: int, seed: int) -> None:
    door = asyncio.Semaphore(AT_ONCE)

    async def one(index: int) -> None:
        async with door:
            await vanish(port, random.Random(seed * 1_000_003 + index))

    await asyncio.gather(*(one(index) for index in range(n_callers)))


def settled(running: Live, before: Held) -> tuple[Held, float]:
    """What is held once it is as before, memory apart, or when too long has passed."""
    began_s = time.monotonic()
    while True:
        now = Held.by(running)
        took_s = time.monotonic() - began_s
        pairs = [(now.descriptors, before.descriptors), (now.tasks, before.tasks)]
        if not now.sessions and not now.answers and all(n <= b for n, b in pairs):
            return now, took_s
        if took_s > SETTLES_S:
            return now, took_s
        time.sleep(0.2)  # counting takes the loop's time


def free_after_s(running: Live, n: int) -> list[float]:
    """For callers that go in mid-stream, one by one: when no hop held anything any more."""
    waits = []
    for index in range(n):
        with socket.create_connection((HOST, running.port)) as caller:
            caller.sendall(request_bytes(random.Random(index)).replace(b"false", b"true "))
            until(lambda: running.open_sessions() >= 2, timeout_s=SETTLES_S)
        began_s = time.monotonic()
        until(lambda: running.open_sessions() == 0, timeout_s=SETTLES_S)
        waits.append(time.monotonic() - began_s)
    return waits


def measured(
    n_callers: int, n_single: int, seed: int
) -> tuple[Held, Held, Held, float, list[float]]:
    """Before; after as many as warm everything up; after all; how long that took to settle."""
    with (
        tempfile.TemporaryDirectory(prefix="manyhands-bench-") as scratch,
        live(Path(scratch)) as on,
    ):
        for _ in range(3):  # peers open what they keep open: links to each other, books
            on.post("/v1/completions", {"model": "tiny", "prompt": "Once", "max_tokens": 8})
        asyncio.run(many(on.port, max(50, n_callers // 10), seed))
        time.sleep(2)  # what they opened last is counted with the rest
        start, _ = settled(on, Held.by(on))
        asyncio.run(many(on.port, n_callers // 2, seed + 1))
        half, _ = settled(on, start)
        asyncio.run(many(on.port, n_callers - n_callers // 2, seed + 2))
        end, took_s = settled(on, start)
        return start, half, end, took_s, free_after_s(on, n_single)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--single", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start, half, end, took_s, waits = measured(options.callers, options.single, options.seed)
    print(
        f"\n{common.machine()}; {BUILT_IN.name}, {options.callers} callers, seed {options.seed}\n"
    )
    names = ("descriptors", "tasks", "answers", "sessions", "reserved_bytes", "memory_mb")
    rows = [
        [
            name.replace("_", " "),
            *(f"{getattr(held, name):.0f}" for held in (start, half, end)),
            "as before",
        ]
        for name in names
    ]
    common.table(["held", "before", "after half", "after all", "goal"], rows)
    print(f"\nsettled {took_s:.1f} s after the last one had gone\n")
    worst = max(waits)
    told = [[f"{common.median(waits):.2f}", f"{worst:.2f}", "<= 1"]]
    common.table(["room free on every hop, s after one caller left", "worst", "goal"], told)


if __name__ == "__main__":
    main()

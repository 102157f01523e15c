"""A thousand callers who connect to a gateway and vanish, each at a moment drawn at random.

A real swarm of two nodes and a gateway in one process, over real sockets, on the built-in model.
Callers go before their request is whole, while it waits, and in the middle of its stream, with a
proper end of the connection or a reset. Then everything has to be where it was: descriptors,
tasks, answers in the gateway, sessions and reserved bytes on every hop, and the process's memory.

Resident memory tells leaks apart from nothing: it holds what was freed and the C library keeps for
the next time, and that grows towards the fullest moment so far. So waves follow each other, and
after each is told what is resident once the C library gave back what it can (malloc_trim(3)), what
it has handed out and not got back (mallinfo2(3)), and how many blocks Python's own allocator has. A
leak goes on growing with the callers: the last wave is compared with the first one. What has
an end is no leak, and is filled before the first wave: the tokenizer keeps the first 10,000 words
that it sees, half a KiB of each caller's, and oneDNN code for every number of rows that it meets.
What nodes keep for hours to be audited by, some 8 blocks of each caller's, they let go after
seconds here. And single callers, one after the other: how long after each has gone every hop's
room is free.
Goals: nothing left; no more than 1 KiB handed out for each caller of the later waves, and no more
blocks by 1 %; room free within 1 s.
Run: python benchmarks/vanishing.py [--callers 1000] [--waves 4]
"""

import argparse
import asyncio
import gc
import json
import os
import random
import socket
import struct
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import common
from heap import Heap

from manyhands.models import BUILT_IN
from node.engine.heap import trim_heap
from node.engine.prepacked import padded_rows
from tests.gateway.live import HOST, Live, live, until

AT_ONCE, LONGEST_S, SETTLES_S = 24, 0.6, 30.0
AUDITED_S = 2.0
LONGEST_PROMPT = 900  # of the 1024 that fit
KEPT_WORDS, WORDS_AT_ONCE = 12_000, 500  # more than the tokenizer keeps; told in texts of so many
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the connection is reset, not closed


class Forgetful(Live):
    """Its nodes let go soon of what they keep on purpose of sessions that are over."""

    settings = MappingProxyType({"fingerprints_kept_s": AUDITED_S, "sent_rows_kept_s": AUDITED_S})


@dataclass(frozen=True)
class Held:
    """What the process and its swarm hold, memory apart."""

    descriptors: int
    tasks: int
    answers: int
    sessions: int
    reserved_bytes: int

    @classmethod
    def by(cls, running: Live) -> "Held":
        nodes = [local.node.sessions for local in running.swarm.nodes]
        return cls(
            descriptors=len(os.listdir("/proc/self/fd")),
            tasks=running.look(lambda: len(asyncio.all_tasks())),
            answers=running.look(lambda: running.gateway.n_running),
            sessions=running.look(lambda: sum(map(len, nodes))),
            reserved_bytes=running.look(lambda: sum(each.reserved_bytes for each in nodes)),
        )


@dataclass(frozen=True)
class Memory:
    """Of the process. resident: as it stands, and once what is free was given back. handed_out: by
    the C library, but for audited: what nodes keep of sessions that are over, on purpose and within
    bounds, to be audited by. blocks: of Python's own."""

    resident_mb: float
    trimmed_mb: float
    handed_out_mb: float
    audited_mb: float
    python_blocks: int

    @classmethod
    def now(cls, running: Live) -> "Memory":
        gc.collect()
        resident_mb = _resident_mb()
        trim_heap()
        nodes = [local.node for local in running.swarm.nodes]
        told = running.look(lambda: [node.status()["audit_bytes"] for node in nodes])
        audited_mb = sum(map(int, told)) / 2**20
        handed_out_mb = Heap.now().in_use_bytes / 2**20 - audited_mb
        return cls(resident_mb, _resident_mb(), handed_out_mb, audited_mb, sys.getallocatedblocks())


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


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
        with suppress(OSError):  # the gateway closed it first
            caller = writer.get_extra_info("socket")
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.close()


async def many(port: int, n_callers: int, seed: int) -> None:
    door = asyncio.Semaphore(AT_ONCE)

    async def one(index: int) -> None:
        async with door:
            await vanish(port, random.Random(seed * 1_000_003 + index))

    await asyncio.gather(*(one(index) for index in range(n_callers)))


def settled(running: Live, before: Held) -> tuple[Held, float]:
    """What is held once it is as before, or when too long has passed."""
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


def fill_words(running: Live, die: random.Random) -> None:
    """Have the gateway read as many words as its tokenizer keeps, of the kind that callers send."""
    for _ in range(KEPT_WORDS // WORDS_AT_ONCE):
        text = " ".join(str(die.random()) for _ in range(WORDS_AT_ONCE))
        status, _, told = running.post("/tokenize", {"prompt": text})
        if status != 200:
            raise SystemExit(f"the tokenizer was not to be had: {told}")


def meet_rows(running: Live) -> None:
    """Have the nodes run every number of rows that a step of theirs may be filled up to."""
    for size in sorted({padded_rows(n) for n in range(1, LONGEST_PROMPT)}):
        asked = {"model": "tiny", "prompt": [7] * size, "max_tokens": 1}
        running.post("/v1/completions", {**asked, "manyhands": {"reuse_prefix": False}})


@dataclass(frozen=True)
class Measured:
    """Before and after each wave, how long the last one took to settle, and of single callers."""

    held: list[Held]
    memory: list[Memory]
    took_s: float
    waits_s: list[float]


def measured(n_callers: int, n_waves: int, n_single: int, seed: int) -> Measured:
    with (
        tempfile.TemporaryDirectory(prefix="manyhands-bench-") as scratch,
        live(Path(scratch), kind=Forgetful) as on,
    ):
        for _ in range(3):  # peers open what they keep open: links to each other, books
            on.post("/v1/completions", {"model": "tiny", "prompt": "Once", "max_tokens": 8})
        fill_words(on, random.Random(seed))
        meet_rows(on)
        asyncio.run(many(on.port, max(50, n_callers // 10), seed))
        time.sleep(2)  # what they opened last is counted with the rest
        start, took_s = settled(on, Held.by(on))
        held, memory = [start], [Memory.now(on)]
        for wave in range(n_waves):
            asyncio.run(many(on.port, n_callers, seed + 1 + wave))
            now, took_s = settled(on, start)
            held.append(now)
            memory.append(Memory.now(on))
        return Measured(held, memory, took_s, free_after_s(on, n_single))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=1000, help="of a wave")
    parser.add_argument("--waves", type=int, default=4)
    parser.add_argument("--single", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = measured(options.callers, options.waves, options.single, options.seed)
    n_later = options.callers * (options.waves - 1)
    print(f"\n{common.machine()}; {BUILT_IN.name}, {options.callers} callers a wave\n")
    waves = [f"after wave {1 + wave}" for wave in range(options.waves)]
    rows = [
        [name.replace("_", " "), *(str(getattr(held, name)) for held in found.held), "as before"]
        for name in ("descriptors", "tasks", "answers", "sessions", "reserved_bytes")
    ]
    first, last = found.memory[1], found.memory[-1]
    more_kib = (last.handed_out_mb - first.handed_out_mb) * 1024 / max(1, n_later)
    more_blocks = 100 * (last.python_blocks / first.python_blocks - 1)
    kinds = (
        ("resident, MB", "resident_mb", ""),
        ("resident without what is free, MB", "trimmed_mb", ""),
        ("handed out by the C library, MB", "handed_out_mb", f"{more_kib:+.2f} KiB a caller (1)"),
        ("kept to be audited by, MB, besides", "audited_mb", ""),
        ("Python's blocks", "python_blocks", f"{more_blocks:+.2f} % (1)"),
    )
    for name, field, goal in kinds:
        rows.append([name, *(f"{getattr(each, field):,.0f}" for each in found.memory), goal])
    common.table(["held", "before", *waves, "goal"], rows)
    print(f"\nsettled {found.took_s:.1f} s after the last one had gone\n")
    told = [[f"{common.median(found.waits_s):.2f}", f"{max(found.waits_s):.2f}", "<= 1"]]
    common.table(["room free on every hop, s after one caller left", "worst", "goal"], told)


if __name__ == "__main__":
    main()

"""What many sessions leave behind in a node's memory, and what loading a span takes at its peak.

A node with a small random Llama whose sessions take 25 KB a position serves sessions of random
lengths, eight at a time; half of them are cancelled at a random token, some before the first. No
session leaves a prefix behind: what is kept on purpose is no leak. Resident memory after a warm-up
is compared with that after all of them. A process of its own loads a Llama 12 x 768: its peak over
what it had with torch and transformers imported. Goals: within 5 %; <= 1.2 x the span's bytes.
Run: python benchmarks/memory.py [--sessions 200]
"""

import argparse
import asyncio
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import common

from manyhands.models import Model
from protocol.messages import Span
from scheduler import Client, Token

MB = 1e6
WARM_UP, AT_ONCE = 24, 8
MAX_PROMPT, MAX_TOKENS = 300, 24
NARROW_LLAMA = common.LLAMA_12_768 | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
}

LOADING = """
import sys
from pathlib import Path

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024

from node.engine import load_shard
load_shard(Path(sys.argv[1]), None)  # a small one: what torch and transformers take by themselves
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmRSS")
engine = load_shard(Path(sys.argv[2]), None)
print(engine.weights_bytes, status("VmHWM") - before, status("VmRSS") - before)
"""


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def sessions(client: Client, model: Model, count: int, chance: random.Random) -> int:
    """Run so many, `AT_ONCE` at a time; how many were cancelled."""
    room, cancelled = asyncio.Semaphore(AT_ONCE), 0

    async def one(prompt: list[int], stop_at: int | None) -> None:
        nonlocal cancelled
        request = replace(common.request(model, prompt, MAX_TOKENS), reuse_prefix=False)
        async with room, client.generate(request) as run:
            if stop_at is not None:
                cancelled += 1
            if stop_at == 0:
                await asyncio.sleep(0.05)
                return
            async for event in run:
                if isinstance(event, Token) and event.index + 1 == stop_at:
                    return

    plans = []
    for _ in range(count):
        prompt = [chance.randrange(3, 16000) for _ in range(chance.randint(8, MAX_PROMPT))]
        plans.append((prompt, chance.choice([None, chance.randrange(MAX_TOKENS)])))
    await asyncio.gather(*(one(*plan) for plan in plans))
    return cancelled


async def left_behind(directory: Path, count: int) -> tuple[int, int, int]:
    """(resident bytes after the warm-up, after all of them, sessions cancelled)."""
    chance = random.Random(5)
    async with common.local_swarm(str(directory), [Span(0, 6)]) as (swarm, client, model):
        process = swarm.nodes[0].process
        assert process is not None
        await sessions(client, model, WARM_UP, chance)
        await asyncio.sleep(1.0)
        before = resident_bytes(process.pid)
        cancelled = await sessions(client, model, count, chance)
        await asyncio.sleep(1.0)
        return before, resident_bytes(process.pid), cancelled


def loading(small: Path, large: Path) -> list[int]:
    """[the span's bytes, peak above the process, resident above the process afterwards]."""
    root = Path(__file__).resolve().parents[1]
    output = subprocess.run(
        [sys.executable, "-c", LOADING, str(small), str(large)],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
    ).stdout
    return [int(word) for word in output.split()]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=200)
    options = parser.parse_args()
    with common.random_llama() as directory:
        narrow = common.write_checkpoint(directory.parent / "narrow", **NARROW_LLAMA)
        common.add_byte_tokenizer(narrow)
        weights, peak, kept = loading(narrow, directory)
        before, after, cancelled = await left_behind(narrow, options.sessions)
    print(f"\n{common.machine()}\n")
    common.table(
        ["what", "measured", "goal"],
        [
            [
                f"resident after {WARM_UP} sessions, after {options.sessions} more "
                f"({cancelled} cancelled)",
                f"{before / MB:.0f} MB, {after / MB:.0f} MB: {after / before - 1:+.1%}",
                "within 5 %",
            ],
            [
                f"peak while loading {weights / MB:.0f} MB",
                f"{peak / MB:.0f} MB: {peak / weights:.2f} x",
                "<= 1.2 x",
            ],
            ["resident once loaded", f"{kept / MB:.0f} MB: {kept / weights:.2f} x", ""],
        ],
    )


if __name__ == "__main__":
    asyncio.run(main())

"""Tokens/s of many sessions at once on one node, beside one session on the same node.

Random Llama 12 x 768, fp32, greedy, one torch thread, over real mTLS sockets. Rounds of one and of
N sessions take turns; tokens/s counts all tokens from the first one out to the last.
Goal: 8 sessions >= 3.7 x one. Run: python benchmarks/sessions.py [--sessions 8 16] [--nodes 1]
"""

import argparse
import asyncio
import time

import common

from manyhands.local import even_split
from manyhands.models import Model
from scheduler import Client, Token

PROMPT, TOKENS = 32, 96


async def tokens_per_s(client: Client, model: Model, n_sessions: int) -> float:
    """All sessions start together; the clock runs while at least one decodes."""
    times: list[float] = []

    async def one(index: int) -> None:
        prompt = [index * 100 + i + 1 for i in range(PROMPT)]
        async with client.generate(common.request(model, prompt, TOKENS)) as generation:
            async for event in generation:
                if isinstance(event, Token):
                    times.append(time.perf_counter())

    await asyncio.gather(*(one(index) for index in range(n_sessions)))
    return (len(times) - n_sessions) / (max(times) - min(times))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="*", default=[8, 16])
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    counts = [1, *options.sessions]
    speeds: dict[int, list[float]] = {count: [] for count in counts}
    with common.random_llama() as directory:
        spans = even_split(12, options.nodes)
        async with common.local_swarm(str(directory), spans) as (_, client, model):
            for count in counts:
                await tokens_per_s(client, model, count)
            for _ in range(options.rounds):
                for count in counts:
                    speeds[count].append(await tokens_per_s(client, model, count))
    single = common.median(speeds[1])
    print(f"\n{common.machine()}; {options.nodes} node(s)\n")
    common.table(
        ["sessions", "tokens/s", "x one session"],
        [
            [str(count), f"{common.median(values):.1f}", f"{common.median(values) / single:.2f}"]
            for count, values in speeds.items()
        ],
    )


if __name__ == "__main__":
    asyncio.run(main())

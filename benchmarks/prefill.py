"""A long prompt arriving while others decode: what it does to them, and they to it.

Random Llama 12 x 768, fp32, greedy, one torch thread per node, over real mTLS sockets. In each
round a prompt is answered alone; then four sessions decode, and after a while the same number of
new prompt tokens arrives. Time per token is what passes between two tokens of a session.
Goals (one node, 2,048 tokens): p95 of the others' time per token <= 2.0 x what it was before, the
prompt's own first token <= 2.3 x alone. Run: python benchmarks/prefill.py [--quick] [--nodes 4]
"""

import argparse
import asyncio
import time
from itertools import pairwise

import common

from manyhands.local import even_split
from manyhands.models import Model
from scheduler import Client, Token

SESSIONS, PROMPT, BEFORE = 4, 32, 24  # BEFORE: tokens of each session before the prompt arrives


async def first_token_s(client: Client, model: Model, prompt: list[int]) -> tuple[float, float]:
    """When that prompt was sent and when its first token came."""
    began = time.perf_counter()
    async with client.generate(common.request(model, prompt, 1)) as generation:
        async for event in generation:
            if isinstance(event, Token):
                return began, time.perf_counter()
    raise RuntimeError("no token came")


class Decoder:
    """One session that decodes until it is told to stop, and when its tokens came."""

    def __init__(self, client: Client, model: Model, index: int, n_tokens: int) -> None:
        self.times: list[float] = []
        prompt = [index * 100 + i + 1 for i in range(PROMPT)]
        self._request = common.request(model, prompt, n_tokens)
        self._client = client
        self.is_under_way = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        async with self._client.generate(self._request) as generation:
            async for event in generation:
                if isinstance(event, Token):
                    self.times.append(time.perf_counter())
                if len(self.times) > BEFORE:
                    self.is_under_way.set()
                if stop.is_set():
                    return

    def gaps_ms(self, began: float, ended: float) -> list[float]:
        """Between tokens, of those gaps that lie partly in that time."""
        return [
            1e3 * (later - earlier)
            for earlier, later in pairwise(self.times)
            if later > began and earlier < ended
        ]


async def one_round(
    client: Client, model: Model, n_rows: int, seed: int
) -> tuple[float, list[float], float, list[float]]:
    """(first token alone, others' gaps before, first token beside them, others' gaps meanwhile)."""

    def prompt(salt: int) -> list[int]:  # a new one each time: no prefix of it is known
        return [1 + (i * 7919 + salt * 104_729) % 16_000 for i in range(n_rows)]

    began, ended = await first_token_s(client, model, prompt(2 * seed))
    alone_s = ended - began
    stop = asyncio.Event()
    decoders = [Decoder(client, model, i, 1200) for i in range(SESSIONS)]
    async with asyncio.TaskGroup() as tasks:
        for decoder in decoders:
            tasks.create_task(decoder.run(stop))
        await asyncio.gather(*(decoder.is_under_way.wait() for decoder in decoders))
        settled = max(decoder.times[2] for decoder in decoders)
        began, ended = await first_token_s(client, model, prompt(2 * seed + 1))
        stop.set()
    before = [gap for d in decoders for gap in d.gaps_ms(settled, d.times[BEFORE])]
    beside = [gap for d in decoders for gap in d.gaps_ms(began, ended)]
    return alone_s, before, ended - began, beside


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--quick", action="store_true", help="one round, 768 tokens")
    options = parser.parse_args()
    n_rows, rounds = (768, 1) if options.quick else (options.rows, options.rounds)
    alone, beside, before_ms, meanwhile_ms = [], [], [], []
    with common.random_llama(max_position_embeddings=4096) as directory:
        spans = even_split(12, options.nodes)
        async with common.local_swarm(str(directory), spans) as (_, client, model):
            await one_round(client, model, 256, 999)
            for seed in range(rounds):
                alone_s, before, beside_s, meanwhile = await one_round(client, model, n_rows, seed)
                alone.append(alone_s)
                beside.append(beside_s)
                before_ms += before
                meanwhile_ms += meanwhile
    print(f"\n{common.machine()}; {options.nodes} node(s), {n_rows} tokens, {rounds} round(s)\n")
    ours, theirs = common.median(beside), common.median(alone)
    rows = [
        ["first token of the prompt, s", f"{theirs:.2f}", f"{ours:.2f}", f"{ours / theirs:.2f}"]
    ]
    for name, of in (("p95", p95), ("median", common.median)):
        without, beside_it = of(before_ms), of(meanwhile_ms)
        rows.append(
            [
                f"others' time per token, {name}, ms",
                f"{without:.1f}",
                f"{beside_it:.1f}",
                f"{beside_it / without:.2f}",
            ]
        )
    common.table(["", "apart", "together", "x"], rows)


if __name__ == "__main__":
    asyncio.run(main())

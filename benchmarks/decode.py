"""Decode speed of a swarm over real mTLS sockets beside `transformers` generate in one process.

Random Llama 12 x 768, fp32, batch 1, greedy, one torch thread per process on both sides. The two
take turns, round by round; tokens/s is that of a stream once its first token is out.
Goals: 1 node >= 0.95 of generate, 4 nodes x 3 blocks >= 0.80. Run: python benchmarks/decode.py
"""

import argparse
import asyncio
import time
from pathlib import Path

import common

from manyhands.local import even_split
from scheduler import Client, Finished, GenerationRequest

PROMPT, TOKENS = list(range(1, 65)), 96


async def stream(client: Client, request: GenerationRequest) -> tuple[list[int], float]:
    """(ids, tokens/s after the first) of one generation."""
    async with client.generate(request) as generation:
        async for event in generation:
            if isinstance(event, Finished):
                result = event.result
    return list(result.token_ids), 1000 / result.tpot_ms


class Whole:
    """The unsplit model in this process."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self.prompt = torch.tensor([PROMPT])

    def run(self, n_tokens: int) -> tuple[list[int], float]:
        out = self.model.generate(
            self.prompt,
            max_new_tokens=n_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return out[0, len(PROMPT) :].tolist(), 0.0

    def tokens_per_s(self) -> tuple[list[int], float]:
        """Like the stream's: prefill and first token are taken off."""
        began = time.perf_counter()
        self.run(1)
        first = time.perf_counter()
        ids, _ = self.run(TOKENS)
        ended = time.perf_counter()
        return ids, (TOKENS - 1) / ((ended - first) - (first - began))


async def compare(directory: Path, n_nodes: int, rounds: int) -> tuple[float, float, bool]:
    whole = Whole(directory)
    async with common.local_swarm(str(directory), even_split(12, n_nodes)) as (_, client, model):
        request = common.request(model, PROMPT, TOKENS)
        await stream(client, request)
        whole.run(8)
        ours, theirs, equal = [], [], True
        for _ in range(rounds):
            reference, speed = whole.tokens_per_s()
            theirs.append(speed)
            ids, speed = await stream(client, request)
            ours.append(speed)
            equal = equal and ids == reference
    return common.median(ours), common.median(theirs), equal


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2, 4])
    options = parser.parse_args()
    rows = []
    with common.random_llama() as directory:
        for n_nodes in options.nodes:
            ours, theirs, equal = await compare(directory, n_nodes, options.rounds)
            rows.append(
                [str(n_nodes), f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.3f}", str(equal)]
            )
    print(f"\n{common.machine()}\n")
    common.table(["nodes", "swarm tokens/s", "generate tokens/s", "ratio", "tokens equal"], rows)


if __name__ == "__main__":
    asyncio.run(main())

"""Time to the first token when an earlier session of the client ran the beginning already.

Random Llama 12 x 768, fp32, greedy, one torch thread per node, over real mTLS sockets. Each round
takes new random ids: a prompt cold, the same beginning with another end, and a chat whose second
turn adds 64 ids to what the first had, beside a cold prompt as long.
Goals: cached beginning of 1,024 ids <= 0.1 x cold; turn 2 <= 0.25 x both turns cold.
Run: python benchmarks/prefix.py [--nodes 1] [--rounds 7] [--seed 1]
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence

import common

from manyhands.local import even_split
from manyhands.models import Model
from scheduler import Client, Finished, GenerationResult

PREFIX, END, TURN_2, ANSWER = 1024, 8, 64, 8
CASES = ("cold", "cached", "both cold", "turn 2")


async def answer(client: Client, model: Model, prompt: Sequence[int]) -> GenerationResult:
    request = common.request(model, prompt, ANSWER, reuse_prefix=True)
    async with client.generate(request) as generation:
        async for event in generation:
            if isinstance(event, Finished):
                return event.result
    raise AssertionError("a generation ends with a result")


async def one_round(
    client: Client, model: Model, die: random.Random, times: dict[str, list[float]]
) -> bool:
    """Note the milliseconds of every case; whether all that could be reused was."""

    def ids(count: int) -> list[int]:
        return [die.randrange(1, 16_000) for _ in range(count)]

    async def timed(case: str, prompt: Sequence[int]) -> GenerationResult:
        result = await answer(client, model, prompt)
        times[case].append(result.ttft_ms)
        return result

    beginning = ids(PREFIX)
    cold = await timed("cold", [*beginning, *ids(END)])
    cached = await timed("cached", [*beginning, *ids(END)])
    turn_1 = await answer(client, model, prompt := ids(PREFIX))
    history = [*prompt, *turn_1.token_ids]
    turn_2 = await timed("turn 2", [*history, *ids(TURN_2)])
    both = await timed("both cold", ids(len(history) + TURN_2))
    reused = (cold.n_cached, cached.n_cached, turn_2.n_cached, both.n_cached)
    return reused == (0, PREFIX, len(history) - 1, 0)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    die = random.Random(options.seed)
    times: dict[str, list[float]] = {case: [] for case in CASES}
    with common.random_llama() as directory:
        spans = even_split(12, options.nodes)
        async with common.local_swarm(str(directory), spans) as (_, client, model):
            await one_round(client, model, die, {case: [] for case in CASES})
            reused = [await one_round(client, model, die, times) for _ in range(options.rounds)]
    ms = {case: common.median(values) for case, values in times.items()}
    print(f"\n{common.machine()}; {options.nodes} node(s); seed {options.seed}\n")
    common.table(
        ["first token after", "median ms", "x cold", "goal"],
        [
            [f"{PREFIX} + {END} ids, cold", f"{ms['cold']:.0f}", "1", ""],
            ["their end alone is new", f"{ms['cached']:.0f}", _ratio(ms, "cached", "cold"), "0.1"],
            [f"{PREFIX} + {ANSWER} + {TURN_2} ids, cold", f"{ms['both cold']:.0f}", "1", ""],
            ["turn 2 of a chat", f"{ms['turn 2']:.0f}", _ratio(ms, "turn 2", "both cold"), "0.25"],
        ],
    )
    print(f"\neverything that was run before was reused in {sum(reused)} of {len(reused)} rounds")
    return 0 if all(reused) else 1


def _ratio(ms: dict[str, float], case: str, cold: str) -> str:
    return f"{ms[case] / ms[cold]:.3f}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

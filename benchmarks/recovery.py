"""What SIGKILL of a hop costs: the pause between two tokens, on one machine, a spare being up.

The built-in model over three spans, each held twice, real processes. First, middle and last hop
are killed in turn, at a drawn token; every answer is compared with the undisturbed one.
Goals: median <= 1 s, worst of 30 <= 3 s, text equal every time. Run: python benchmarks/recovery.py
"""

import argparse
import asyncio
import random
import sys

import common

from manyhands.local import LocalSwarm, even_split
from manyhands.models import Model
from scheduler import Client, Finished, Routed, Token

N_TOKENS = 48
PROMPT = "Once upon a time"


async def answer(
    client: Client, model: Model, swarm: LocalSwarm, kill: tuple[int, int] | None
) -> tuple[list[int], tuple[float, ...], str]:
    """(ids, pauses in ms, the killed peer); `kill` is (place in the chain, token index)."""
    from protocol.text import Tokenizer

    prompt = Tokenizer.from_directory(model.directory).encode(PROMPT)
    killed = ""
    async with client.generate(common.request(model, prompt, N_TOKENS)) as generation:
        async for event in generation:
            if isinstance(event, Routed):
                route = event.route
            if isinstance(event, Token) and kill and not killed and event.index == kill[1]:
                killed = route[kill[0]].peer
                node = swarm.by_peer(killed)
                assert node is not None
                swarm.kill(node)
            if isinstance(event, Finished):
                result = event.result
    return list(result.token_ids), result.pauses_ms, killed


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    die = random.Random(options.seed)
    spans = even_split(8, 3)
    pauses: dict[str, list[float]] = {"first": [], "middle": [], "last": []}
    equal = 0
    async with common.local_swarm("tiny", [*spans, *spans]) as (swarm, client, model):
        undisturbed, _, _ = await answer(client, model, swarm, None)
        for index in range(options.kills):
            place = index % 3
            at = die.randrange(2, N_TOKENS - 4)
            ids, paused, killed = await answer(client, model, swarm, (place, at))
            equal += ids == undisturbed
            pauses[("first", "middle", "last")[place]] += paused
            print(f"{index + 1}: {paused} ms", file=sys.stderr, flush=True)
            node = swarm.by_peer(killed)
            assert node is not None
            await node.ended()
            await swarm.start(node)  # the spare of the next round
            await asyncio.sleep(1.5)  # gossip tells the others
    together = sorted(pause for values in pauses.values() for pause in values)
    print(f"\n{common.machine()}; seed {options.seed}\n")
    common.table(
        ["hop killed", "kills", "median ms", "worst ms"],
        [
            [name, str(len(values)), f"{common.median(values):.0f}", f"{max(values):.0f}"]
            for name, values in [*pauses.items(), ("any", together)]
            if values
        ],
    )
    print(f"\ntext equal to the undisturbed run: {equal} of {options.kills}")
    return 0 if equal == options.kills else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

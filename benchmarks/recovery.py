"""What SIGKILL of a hop costs: the pause between two tokens, on one machine, a spare being up.

The built-in model over three spans, each held twice, real processes. First, middle and last hop
are killed in turn, at a drawn token; every answer is compared with the undisturbed one. Then, while
others still announce the dead, the same client asks again a few times, and its routes are looked
at. Goals: median <= 1 s, worst of 30 <= 3 s, text equal every time; the dead is out of the answer's
route within 2 s of its kill, and of every later one. Run: python benchmarks/recovery.py
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import common

from manyhands.local import LocalSwarm, even_split
from manyhands.models import Model
from scheduler import Client, Finished, Routed, Token

N_TOKENS, N_LATER = 48, 4
PROMPT = "Once upon a time"


@dataclass
class Answer:
    """What came of it. gone_ms: from the kill until its route was without the killed."""

    ids: list[int] = field(default_factory=list)
    pauses_ms: tuple[float, ...] = ()
    killed: str = ""
    gone_ms: float | None = None


async def answer(
    client: Client, model: Model, swarm: LocalSwarm, kill: tuple[int, int] | None
) -> Answer:
    """`kill` is (place in the chain, token index)."""
    seen, killed_s = Answer(), 0.0
    async with client.generate(common.request(model, prompt_of(model), N_TOKENS)) as generation:
        async for event in generation:
            if isinstance(event, Routed):
                route = event.route
                if seen.killed and seen.killed not in {step.peer for step in route}:
                    seen.gone_ms = 1000 * (time.perf_counter() - killed_s)
            if isinstance(event, Token) and kill and not seen.killed and event.index == kill[1]:
                seen.killed, killed_s = route[kill[0]].peer, time.perf_counter()
                node = swarm.by_peer(seen.killed)
                assert node is not None
                swarm.kill(node)
            if isinstance(event, Finished):
                seen.ids, seen.pauses_ms = list(event.result.token_ids), event.result.pauses_ms
    return seen


async def led_to(client: Client, model: Model, peer: str) -> int:
    """How many of the next routes lead to that peer."""
    n_led = 0
    for _ in range(N_LATER):
        async with client.generate(common.request(model, prompt_of(model), 2)) as generation:
            async for event in generation:
                n_led += isinstance(event, Routed) and peer in {s.peer for s in event.route}
    return n_led


def prompt_of(model: Model) -> Sequence[int]:
    from protocol.text import Tokenizer

    return Tokenizer.from_directory(model.directory).encode(PROMPT)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    die = random.Random(options.seed)
    spans = even_split(8, 3)
    pauses: dict[str, list[float]] = {"first": [], "middle": [], "last": []}
    equal = n_led = 0
    gone_ms: list[float] = []
    async with common.local_swarm("tiny", [*spans, *spans]) as (swarm, client, model):
        undisturbed = await answer(client, model, swarm, None)
        for index in range(options.kills):
            place = index % 3
            at = die.randrange(2, N_TOKENS - 4)
            seen = await answer(client, model, swarm, (place, at))
            n_led += await led_to(client, model, seen.killed)
            equal += seen.ids == undisturbed.ids
            pauses[("first", "middle", "last")[place]] += seen.pauses_ms
            gone_ms += [] if seen.gone_ms is None else [seen.gone_ms]
            print(f"{index + 1}: {seen.pauses_ms} ms", file=sys.stderr, flush=True)
            node = swarm.by_peer(seen.killed)
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
    print(
        f"out of the answer's route after: median {common.median(gone_ms):.0f}, "
        f"worst {max(gone_ms):.0f} ms ({len(gone_ms)} of {options.kills})"
    )
    print(f"later routes that lead to the dead: {n_led} of {N_LATER * options.kills}")
    return 0 if equal == options.kills else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

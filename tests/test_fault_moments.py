"""Whatever befalls a hop, whichever hop and at whatever moment: every stream goes on.

Real nodes, two for every span, and two sessions at once: one decodes while the other one's prompt,
of several chunks, is run beside it. `test_fault_matrix.py` draws schedules of several faults; here
every cell has its turn: what happens, to which hop, and how far a session there is just then.
"""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.hop_session import HopSession
from protocol.hop_state import State
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Client, Finished, GenerationRequest, Routed, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm
from tests.test_failover import WANDERING
from tests.test_fault_matrix import KINDS, SPANS, Trouble

N = 32
SHORT, LONG = "Tell me about hands.", "What has neither hands nor feet, and goes on for ever? " * 6
KILL_AT = 8  # token of the first answer: so that rows are replayed, where that is the moment

MOMENTS: dict[str, Callable[[HopSession], bool]] = {
    "open": lambda it: it.state is State.RESERVED,
    "prefill": lambda it: it.state is State.RUNNING and it.epoch == 0 and it.length < it.n,
    "between chunks": lambda it: it.state is State.RUNNING and 0 < it.length < it.n - 1 > N,
    "decode": lambda it: it.state is State.RUNNING and it.length > it.n + 4,
    "replay": lambda it: it.state is State.RUNNING and it.epoch > 0 and it.length < it.n - 1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_checkpoint(tmp_path_factory.mktemp("model"), max_position_embeddings=512)
    return add_byte_tokenizer(directory)


def hosts(built: Swarm, place: int) -> list[LocalNode]:
    """Those of a span that have sessions."""
    spans = [(n.node.engine.span.start, n.node.engine.span.stop) for n in built.nodes]
    pairs = zip(built.nodes, spans, strict=True)
    return [n for n, span in pairs if span == SPANS[place] and len(n.node.sessions)]


async def strike(trouble: Trouble, client: str, kind: str, place: int, moment: str) -> None:
    """Wait until a session is so far, and let it befall its hop at this place.

    While rows are replayed, that is the hop behind the one that they are replayed to.
    """
    watched = (place + 2) % len(SPANS) if moment == "replay" else place
    while True:
        for local in hosts(trouble.built, watched):
            sessions = [hop.session for hop in local.node.sessions._hops.values()]
            struck = local if watched == place else next(iter(hosts(trouble.built, place)), None)
            if struck is not None and any(map(MOMENTS[moment], sessions)):
                trouble.befall(struck.node.identity.peer_id, client, kind)
                return
        await asyncio.sleep(0)


async def answer(
    client: Client, request: GenerationRequest, at_token: Callable[[int, tuple], None]
) -> tuple[int, ...]:
    indices, route = [], ()
    async with client.generate(request) as run:
        async for event in run:
            if isinstance(event, Routed):
                route = event.route
            if isinstance(event, Token):
                indices.append(event.index)
                at_token(event.index, route)
            if isinstance(event, Finished):
                result = event.result
    assert indices == list(range(N)), "no token lost, none repeated"
    return result.token_ids


async def befallen(model: Path, home: Path, kind: str, place: int, moment: str) -> None:
    network = MemoryNetwork(seed=place)
    async with swarm(model, home, lambda i: network.transport(i, OPEN_SWARM_ID)) as built:
        await built.start(*SPANS, *SPANS, drain_s=10.0)
        asked = [
            built.request(
                built.tokenizer.encode(text),
                max_tokens=N,
                sampling=WANDERING,
                ignore_eos=True,
                wait_s=20.0,
                reuse_prefix=False,
            )
            for text in (SHORT, LONG)
        ]
        trouble = Trouble(built, network, random.Random(place))

        def kill_before(index: int, route: tuple) -> None:
            if moment == "replay" and index == KILL_AT:
                trouble.befall(route[(place + 2) % len(SPANS)].peer, "", "kill")

        async with built.client() as client:
            right = [await answer(client, request, lambda *_: None) for request in asked]
            network.set_faults(Faults(delay_s=(0.0, 0.004)))
            striking = asyncio.create_task(
                strike(trouble, client.identity.peer_id, kind, place, moment)
            )
            got = await asyncio.gather(
                answer(client, asked[0], kill_before), answer(client, asked[1], lambda *_: None)
            )
            network.heal()
            striking.cancel()
        await asyncio.gather(*trouble.leaving)

    assert list(got) == right, trouble.done
    assert trouble.done, "the moment never came"
    assert trouble.done[-1].startswith(kind)


@pytest.fixture(autouse=True)
def many_chunks(monkeypatch):
    """Of two, both may be through before anybody looks."""
    monkeypatch.setattr("node.schedule.PREFILL_ROWS", 32)


async def test_a_stream_goes_on(model, tmp_path):
    await befallen(model, tmp_path, "kill", 1, "between chunks")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("place", range(len(SPANS)))
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_goes_on_in_every_cell(model, tmp_path, kind, place, moment):
    await befallen(model, tmp_path, kind, place, moment)

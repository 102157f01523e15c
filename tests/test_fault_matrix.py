"""Real nodes under seeded faults, several sessions at once: every stream goes on, nothing leaks.

Each seed is a schedule: which hops of the chain are killed, cut off, drained, made to refuse or to
send rows of a wrong shape, lose a stream, and when. Failing runs print their seed.
"""

import asyncio
import gc
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from protocol.frames import RowGroup
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Client, Finished, Routed, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm
from tests.test_failover import ask

SPANS = [(0, 2), (2, 5), (5, 6)]
N_PAIRS = 2 * 2 * len(SPANS)  # of nodes that may stand one behind the other, two for each span
DATA_LINK, HANDLER = "_Link._run", "run_stream"  # the tasks at the two ends of a data stream
BETTER_WAY = "_Link._watch"  # runs while such a stream is up
CLIENTS_WATCH = "Connections._watch"  # one for each peer, until it next looks and finds no stream
TABS_LOCK, LEDGER = "tabs-*.lock", "ledger.sqlite"
N = 40
KINDS = ("kill", "cut off", "drain", "busy", "garble", "break")
PROMPTS = ("Tell me about hands.", "And about feet?", "What has neither?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


class Garbler:
    """In place of a node's neighbours: what it pushes has another shape."""

    def __init__(self, real) -> None:
        self._real = real

    def push(self, peer: str, group: RowGroup, row_bytes: int, rows: bytes, *more: object) -> None:
        self._real.push(peer, group, row_bytes * 2, rows * 2, *more)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


class Trouble:
    """What befalls the nodes of one swarm; every span keeps one sound node at least."""

    def __init__(self, built: Swarm, network: MemoryNetwork, die: random.Random) -> None:
        self.built, self.network, self.die = built, network, die
        self.spoilt: set[str] = set()
        self.leaving: list[asyncio.Task[None]] = []
        self.done: list[str] = []

    def befall(self, peer: str, client: str, kind: str = "") -> None:
        """kind: one of `KINDS`, else the die picks one."""
        local = next(n for n in self.built.nodes if n.node.identity.peer_id == peer)
        if peer in self.spoilt or not self._has_spare(local):
            return
        kind = kind or self.die.choice(KINDS)
        self.done.append(f"{kind} {local.node.engine.span}")
        if kind == "break":
            self.network.break_streams(client, peer)
            return
        self.spoilt.add(peer)
        match kind:
            case "kill":
                self.network.kill(peer)
            case "cut off":  # silence: nothing arrives, nothing fails
                others = [n.node.identity.peer_id for n in self.built.nodes if n is not local]
                self.network.partition([peer], [*others, client])
            case "drain":
                self.leaving.append(asyncio.create_task(self.built.stop(local)))
            case "busy":
                local.node.sessions.reserved_bytes += 1 << 40
                for hop in list(local.node.sessions._hops.values()):
                    hop.give_up()
            case "garble":
                around = local.node.sessions.around
                object.__setattr__(around, "neighbours", Garbler(around.neighbours))
                for hop in list(local.node.sessions._hops.values()):
                    hop._paths._neighbours = around.neighbours

    def _has_spare(self, local: LocalNode) -> bool:
        return any(
            other is not local
            and other.node.engine.span == local.node.engine.span
            and other.node.identity.peer_id not in self.spoilt
            for other in self.built.nodes
            if not other.stop.is_set()
        )


async def answers(
    built: Swarm, client: Client, troubled: Trouble | None, moments: dict[int, int]
) -> list[tuple[int, ...]]:
    """Of all prompts at once. moments: at which token of the first one which hop is befallen."""

    async def one(place: int, prompt: str) -> tuple[int, ...]:
        ids = built.tokenizer.encode(prompt)
        asked = ask(built, max_tokens=N, wait_s=20.0, reuse_prefix=False)
        request = built.request(
            ids, **{name: getattr(asked, name) for name in ("max_tokens", "sampling", "ignore_eos")}
        )
        route, indices = (), []
        async with client.generate(request) as run:
            async for event in run:
                if isinstance(event, Routed):
                    route = event.route
                if isinstance(event, Token):
                    indices.append(event.index)
                    if place == 0 and troubled is not None and event.index in moments:
                        hop = moments[event.index] % len(route)
                        troubled.befall(route[hop].peer, client.identity.peer_id)
                if isinstance(event, Finished):
                    result = event.result
        assert indices == list(range(N)), "no token lost, none repeated"
        return result.token_ids

    return await asyncio.gather(*(one(place, text) for place, text in enumerate(PROMPTS)))


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What nobody waited for and went wrong: asyncio only logs it, once it is collected."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, about: told.append(f"{about}"))
    try:
        yield told
        gc.collect()
    finally:
        loop.set_exception_handler(None)


async def survive(model: Path, home: Path, seed: int, n_faults: int) -> list[str]:
    die, network = random.Random(seed), MemoryNetwork(seed=seed)
    async with swarm(model, home, lambda i: network.transport(i, OPEN_SWARM_ID)) as built:
        await built.start(*SPANS, *SPANS, drain_s=10.0)
        async with built.client() as client:
            undisturbed = await answers(built, client, None, {})
            network.set_faults(Faults(delay_s=(0.0, 0.004)))
            trouble = Trouble(built, network, die)
            moments = {die.randrange(N - 8): die.randrange(3) for _ in range(n_faults)}
            got = await answers(built, client, trouble, moments)
            network.heal()
        await asyncio.gather(*trouble.leaving)
        assert got == undisturbed, f"seed {seed}: {trouble.done}"
        return trouble.done


@pytest.mark.parametrize("seed", range(1))
async def test_every_stream_goes_on_whatever_befalls_its_hops(model, tmp_path, seed):
    assert await survive(model, tmp_path, seed, n_faults=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 150))
async def test_every_stream_goes_on_whatever_befalls_its_hops_many_times(model, tmp_path, seed):
    await survive(model, tmp_path, seed, n_faults=4)


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_of_a_killed_hop_no_task_is_left_and_no_error_that_nobody_heard(model, tmp_path, hop):
    network = MemoryNetwork(seed=2)
    async with swarm(model, tmp_path, lambda i: network.transport(i, OPEN_SWARM_ID)) as built:
        await built.start(*SPANS, *SPANS)
        async with built.client() as client:
            before = await always_held()
            with complaints() as told:
                async with client.generate(ask(built, max_tokens=12)) as run:
                    async for event in run:
                        if isinstance(event, Routed):
                            route = event.route
                        if isinstance(event, Token) and event.index == 4:
                            network.kill(route[hop].peer)
                await at_rest(before)
    assert told == []


async def test_nothing_is_left_of_failures_and_survivors_load_nothing(model, tmp_path):
    await leave_nothing(model, tmp_path, n_rounds=3)


@pytest.mark.slow
async def test_nothing_is_left_of_many_failures(model, tmp_path):
    await leave_nothing(model, tmp_path, n_rounds=30)


async def leave_nothing(model: Path, home: Path, n_rounds: int) -> None:
    """Memory that sessions hold, tasks, descriptors, sessions: as before, after every round."""
    network = MemoryNetwork(seed=1)
    async with swarm(model, home, lambda i: network.transport(i, OPEN_SWARM_ID)) as built:
        await built.start(*SPANS, *SPANS)
        engines = [local.node.engine for local in built.nodes]
        weights = [engine.weights_bytes for engine in engines]
        async with built.client() as client:
            before = await always_held()
            lost = 0
            network.set_faults(Faults(delay_s=(0.002, 0.004)))
            for round in range(n_rounds):
                lost += await interrupted(built, client, network, round % 3)
                await at_rest(before)
                for local in built.nodes:
                    assert len(local.node.sessions) == 0
                    assert local.node.sessions.reserved_bytes == 0
                    assert not local.node.batcher._queues
        assert lost >= n_rounds // 2
        assert len(network._pairs) <= 2 * N_PAIRS, "streams that ended are forgotten"

    assert [local.node.engine for local in built.nodes] == engines
    assert [engine.weights_bytes for engine in engines] == weights
    assert all(local.node.shared.bytes_shared == 0 for local in built.nodes)


def held() -> Counter[str]:
    """Tasks by what they run, descriptors by the name of what they lead to."""
    found = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed them
            target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            found[re.sub("^tabs-.*", TABS_LOCK, target.name)] += 1
    return found


async def always_held(for_s: float = 0.5) -> Counter[str]:
    """What is there all the time; exchanges and meetings come and go."""
    found, until_s = held(), time.monotonic() + for_s
    while time.monotonic() < until_s:
        await asyncio.sleep(0.02)
        found &= held()
    return found


async def at_rest(before: Counter[str], timeout_s: float = 10.0) -> None:
    """Wait until nothing is held but what was before, and what the first sessions leave for good.

    That is a data stream from every node to every one that may come after it, with a handler at its
    other end and a look-out for a better way; one look-out of the client's for each node; and
    beside every ledger the lock of who has tabs.
    """
    gc.collect()
    until_s = time.monotonic() + timeout_s
    while True:
        now = held()
        n_links = now[DATA_LINK]
        kept = {DATA_LINK: N_PAIRS, HANDLER: n_links, BETTER_WAY: n_links, TABS_LOCK: now[LEDGER]}
        kept[CLIENTS_WATCH] = 2 * len(SPANS)
        more = now - (before | Counter(kept))
        if not more:
            return
        assert time.monotonic() < until_s, f"left behind: {more}"
        await asyncio.sleep(0.02)


async def interrupted(built: Swarm, client: Client, network: MemoryNetwork, hop: int) -> int:
    """An answer whose hop at this place forgets its session, as after a quick restart."""
    async with client.generate(ask(built, max_tokens=20, reuse_prefix=False)) as run:
        async for event in run:
            if isinstance(event, Routed):
                route = event.route
            if isinstance(event, Token) and event.index == 4:
                peer = route[hop].peer
                local = next(n for n in built.nodes if n.node.identity.peer_id == peer)
                for one in list(local.node.sessions._hops.values()):
                    one.give_up()
                network.break_streams(route[hop - 1].peer, peer)
    return len(run.session.rules.lost_hops)

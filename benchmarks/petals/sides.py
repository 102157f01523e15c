"""The three sides of a scenario, ready to be asked the same: all over the same links.

In: the environment of Petals, a checkpoint, links. Out: for each side a function from prompts that
come at once to answers. Petals' eight sessions are asked for in two ways: of one client, with a
thread each, and of eight clients, each a process with everything of its own.
"""

import asyncio
import sys
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.common import request
from benchmarks.linklab.control import OUTSIDE, Links, Orders
from benchmarks.linklab.swarm import LabSwarm
from benchmarks.linklab.ways import Way
from benchmarks.petals.asked import PROGRAMS, START_S, Answer, Program, members, running
from benchmarks.petals.results import EACH, OURS, PETALS, PLAIN
from benchmarks.petals.servers import PetalsSwarm, Ports, petals_swarm
from manyhands.asking import open_client
from manyhands.home import Home
from manyhands.local import LocalNode, LocalSwarm, even_split, free_ports
from manyhands.models import Model, find_model
from scheduler import Client, Finished, Token

N_SERVERS, N_SESSIONS = 4, 8
WAIT_S = 120.0  # for all to have found each other
LLAMA_8_512 = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
SPANS = even_split(LLAMA_8_512["num_hidden_layers"], N_SERVERS)

Ask = Callable[[Sequence[Sequence[int]], int], Awaitable[list[Answer]]]


@dataclass(frozen=True, slots=True)
class Apart:
    """How far servers are from each other, and the client from all of them, one way.

    n_tokens: how many are asked for, where nobody says otherwise; far away each takes its time.
    """

    name: str
    ms: float
    client_ms: float
    n_tokens: int

    @property
    def text(self) -> str:
        if not self.is_far:
            return "loopback"
        return f"{self.ms:g} ms between any two each way, client {self.client_ms:g} ms away"

    @property
    def is_far(self) -> bool:
        return bool(self.ms or self.client_ms)

    @property
    def ways(self) -> dict[tuple[int, int], Way]:
        places = range(N_SERVERS)
        ways = {(a, b): Way(self.ms) for a in places for b in places if a != b}
        for place in places:
            ways[OUTSIDE, place] = ways[place, OUTSIDE] = Way(self.client_ms)
        return ways


APART = {apart.name: apart for apart in (Apart("loopback", 0, 0, 64), Apart("far", 25, 100, 24))}


@dataclass(slots=True)
class Sides:
    """ask: by side. links: what makes them, by side, where they are long."""

    ask: dict[str, Ask] = field(default_factory=dict)
    links: dict[str, Links] = field(default_factory=dict)
    programs: list[Program] = field(default_factory=list)
    nodes: Sequence[LocalNode] = ()  # of ours

    def pids(self) -> list[int]:
        """Of everything that is measured."""
        ours = [node.process.pid for node in self.nodes if node.process is not None]
        groups = [members(program.process.pid) for program in self.programs]
        return [*ours, *(pid for group in groups for pid in group)]


@asynccontextmanager
async def all_sides(
    python: Path, model: Path, apart: Apart, scratch: Path, logs: Path
) -> AsyncIterator[Sides]:
    """Everything up and warm; nothing is left on the way out.

    Raises:
        Failed: a program did not start.
    """
    sides = Sides()
    async with AsyncExitStack() as stack:
        command = [sys.executable, str(PROGRAMS / "plain.py"), str(model)]
        plain = await stack.enter_async_context(running(logs / "plain.log", *command))
        await plain.line(START_S)
        sides.ask[PLAIN] = plain.answers
        swarm = await stack.enter_async_context(_petals(python, model, apart, logs, sides))
        clients = [
            await stack.enter_async_context(swarm.client(f"client-{index}"))
            for index in range(N_SESSIONS + 1)
        ]
        sides.ask[PETALS] = clients[0].answers
        sides.ask[EACH] = _one_each(clients[1:])
        sides.ask[OURS] = await stack.enter_async_context(_ours(model, apart, scratch, sides))
        sides.programs = [plain, *swarm.servers, *clients]
        yield sides


@asynccontextmanager
async def _petals(
    python: Path, model: Path, apart: Apart, logs: Path, sides: Sides
) -> AsyncIterator[PetalsSwarm]:
    """Petals' servers, each behind a proxy where links are long."""
    hidden = free_ports(N_SERVERS)
    public = free_ports(N_SERVERS) if apart.is_far else hidden
    ports = [Ports(*pair) for pair in zip(hidden, public, strict=True)]
    async with AsyncExitStack() as stack:
        links = None
        if apart.is_far:
            links = sides.links[PETALS] = await Links.open("benchmarks.linklab.proxy")
            stack.push_async_callback(links.aclose)
            doors = tuple((place, each.public, each.hidden) for place, each in enumerate(ports))
            await links.tell(Orders(ways=apart.ways, stand_before=doors))

        async def on_start(place: int, group: int) -> None:
            if links is not None:
                await links.tell(Orders(pids={group: place}))

        swarm = petals_swarm(python, model, SPANS, ports, logs, on_start)
        yield await stack.enter_async_context(swarm)


@asynccontextmanager
async def _ours(model: Path, apart: Apart, scratch: Path, sides: Sides) -> AsyncIterator[Ask]:
    async with AsyncExitStack() as stack:
        swarm: LocalSwarm
        if apart.is_far:
            lab_swarm = LabSwarm(str(model), SPANS, scratch, apart.ways)
            swarm = await stack.enter_async_context(lab_swarm.far_apart())
            assert lab_swarm.links is not None
            sides.links[OURS] = lab_swarm.links
        else:
            local = LocalSwarm(str(model), SPANS, scratch, threads=1)
            swarm = await stack.enter_async_context(local.running())
        sides.nodes = swarm.nodes
        home = Home.at(scratch / "client")
        client = await stack.enter_async_context(open_client(home, swarm.addresses))
        known = find_model(str(model))

        async def answers(prompts: Sequence[Sequence[int]], n_tokens: int) -> list[Answer]:
            return await asyncio.gather(*(_answer(client, known, p, n_tokens) for p in prompts))

        yield answers


async def _answer(client: Client, model: Model, prompt: Sequence[int], n_tokens: int) -> Answer:
    asked_s, at_s = time.monotonic(), []
    asked = replace(request(model, prompt, n_tokens), wait_s=WAIT_S)
    async with client.generate(asked) as generation:
        async for event in generation:
            if isinstance(event, Token):
                at_s.append(time.monotonic())
            elif isinstance(event, Finished):
                assert event.result.failovers == 0, "a hop was lost while it was measured"
                return Answer(asked_s, event.result.token_ids, tuple(at_s))
    raise AssertionError("a generation ends with a result")


def _one_each(clients: Sequence[Program]) -> Ask:
    async def answers(prompts: Sequence[Sequence[int]], n_tokens: int) -> list[Answer]:
        asked = zip(clients, prompts, strict=True)
        told = await asyncio.gather(*(client.answers([p], n_tokens) for client, p in asked))
        return [answer for [answer] in told]

    return answers

"""The acts of the demo: a swarm comes up, answers, loses a node in the middle, and is audited.

In: a home, a swarm that is not started yet, a model, a prompt, a seed. Out: a plain value that says
what happened, or the error that says what did not hold. Each act tells its part as it goes.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from manyhands.asking import Ask, open_client
from manyhands.generate import stream
from manyhands.home import Home
from manyhands.local import LocalNode, LocalSwarm
from manyhands.models import Model
from manyhands.reckoning import reckon
from manyhands.signals import interruptible
from manyhands.telling import Teller, name_of
from protocol.errors import IntegrityError, PeerUnreachable

if TYPE_CHECKING:
    from scheduler.client import Client
    from scheduler.request import Event, GenerationRequest, GenerationResult

MAX_TOKENS = 120
KNOWN_S = 10.0  # for all nodes to hear of each other; ample on one machine
MAX_KILLS = 3


class Tour:
    """One tour. `through` needs the swarm, `check` needs it to be over."""

    def __init__(self, teller: Teller, seed: int) -> None:
        self.killed: list[LocalNode] = []
        self._tell, self._seed = teller, seed
        self._rng = random.Random(seed)

    async def through(
        self, place: Home, swarm: LocalSwarm, model: Model, prompt: str
    ) -> dict[str, Any]:
        """Start the swarm, ask twice, kill once; everybody has left at the end.

        Raises:
            IntegrityError: the two answers differ.
            ManyhandsError: a node did not start, or an answer failed.
        """
        view: dict[str, Any] = {}
        with interruptible():
            self._tell.title(f"{len(swarm.nodes)} nodes, two for each span of {model.name}")
            async with (
                swarm.running(self._tell.ready),
                open_client(place, swarm.addresses) as client,
            ):
                await _all_known(client, len(swarm.nodes))
                view = await self._ask_twice(client, swarm, model, prompt)
        return view

    def check(self, place: Home, swarm: LocalSwarm) -> dict[str, Any]:
        """The books of all parties.

        Raises:
            IntegrityError: something in them does not hold.
        """
        self._tell.title("What each party's ledger says")
        nodes = [(name_of(node), node.home.node) for node in swarm.nodes]
        found = reckon(place.client, nodes, killed=[name_of(node) for node in self.killed])
        self._tell.statements(found)
        if not found.holds:
            raise IntegrityError(
                f"the books do not hold: {'; '.join(found.failures)}",
                hint=f"look closer: manyhands ledger verify --home {place.root}",
            )
        return {
            "parties": [party.to_json() for party in found.parties],
            "verified": {
                "ledgers": len(found.parties),
                "receipts": found.n_receipts,
                "signatures": found.n_signatures,
                "proofs": found.n_proofs,
            },
        }

    async def _ask_twice(
        self, client: "Client", swarm: LocalSwarm, model: Model, prompt: str
    ) -> dict[str, Any]:
        request = _request(model, prompt, self._seed)
        self._tell.title(f"An answer to {prompt!r}")
        calm = await stream(client, request, self._tell.text)
        self._tell.speed(calm, swarm.by_peer)
        hurt, at_token = await self._ask_and_kill(client, swarm, request, len(calm.token_ids))
        self._tell.speed(hurt, swarm.by_peer)
        _check_equal(calm.token_ids, hurt.token_ids, self._seed)
        pause_ms = max(hurt.pauses_ms, default=0.0)
        self._tell.line(f"The kill cost a pause of {pause_ms:.0f} ms, and nothing else.")
        return {
            "schema": "manyhands/demo/v1",
            "seed": self._seed,
            "undisturbed": calm.to_json(),
            "disturbed": hurt.to_json(),
            "killed": [node.address.peer_id for node in self.killed],
            "at_token": at_token,
            "pause_ms": round(pause_ms, 1),
            "equal": True,
        }

    async def _ask_and_kill(
        self, client: "Client", swarm: LocalSwarm, request: "GenerationRequest", n_tokens: int
    ) -> tuple["GenerationResult", int]:
        """The same request, while a hop of its route dies; again if the kill came too late."""
        for _ in range(MAX_KILLS):
            at_token = self._rng.randint(n_tokens // 5, n_tokens // 2)
            self._tell.title(
                f"The same again; a hop dies by SIGKILL at token {at_token} (seed {self._seed})"
            )
            show = self._killer(swarm, at_token, self._rng.random())
            result = await stream(client, request, show)
            if result.failovers:
                return result, at_token
            self._tell.line("(that was too late: every token had been drawn already)")
        raise IntegrityError("no kill hit an answer under way", hint="try another --seed")

    def _killer(self, swarm: LocalSwarm, at_token: int, draw: float) -> Callable[["Event"], None]:
        """Shows an answer, and kills the hop of its route that `draw` picks, at that token."""
        from scheduler.request import Routed, Token

        route: list[LocalNode] = []

        def show(event: "Event") -> None:
            self._tell.text(event)
            if isinstance(event, Routed):
                hops = (swarm.by_peer(step.peer) for step in event.route)
                route[:] = [node for node in hops if node is not None]
            elif isinstance(event, Token) and event.index == at_token:
                victim = route[int(draw * len(route))]
                swarm.kill(victim)
                self.killed.append(victim)
                self._tell.killed(victim)

        return show


def _request(model: Model, prompt: str, seed: int) -> "GenerationRequest":
    from protocol.text import Tokenizer

    tokenizer = Tokenizer.from_directory(model.directory)
    if tokenizer.chat_template:
        ids = tokenizer.encode_chat([{"role": "user", "content": prompt}])
    else:
        ids = tokenizer.encode(prompt)
    left = model.manifest.max_positions - len(ids)
    return Ask(max_tokens=max(1, min(MAX_TOKENS, left)), seed=seed).request(model, ids, tokenizer)


def _check_equal(calm: Sequence[int], hurt: Sequence[int], seed: int) -> None:
    if tuple(calm) == tuple(hurt):
        return
    pairs = enumerate(zip(calm, hurt, strict=False))
    first = next((i for i, (one, other) in pairs if one != other), min(len(calm), len(hurt)))
    raise IntegrityError(
        f"the two answers differ from token {first} on (seed {seed})",
        hint="please report it, with the seed",
    )


async def _all_known(client: "Client", n_nodes: int) -> None:
    """Wait until the swarm knows all its nodes.

    Raises:
        PeerUnreachable: they do not hear of each other.
    """
    until_s = time.monotonic() + KNOWN_S
    while len((await client.directory()).live()) < n_nodes:
        if time.monotonic() > until_s:
            raise PeerUnreachable("", "the nodes do not hear of each other", hint="run it again")
        await asyncio.sleep(0.1)

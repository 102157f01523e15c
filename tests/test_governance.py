"""Models in a governed swarm of real nodes on real sockets: let in, warned of, stopped, let go."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from node.belonging import Belonging, Place
from node.registrar import Registrar
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.errors import NotPermitted
from protocol.identity import Identity
from protocol.measured import State
from protocol.membership.advisories import Severity
from protocol.membership.exchange import exchange
from protocol.membership.gate import Membership
from protocol.membership.state import SwarmState
from protocol.path_book import Met
from protocol.signing import Envelope
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport
from scheduler import Client, Token
from tests.announcing import MANIFEST, announce, key_of
from tests.local_swarm import LocalNode, Swarm, whole
from tests.membership import (
    FOUNDER,
    RELEASERS,
    WARNERS,
    advise,
    certify,
    found,
    framed,
    govern,
    release,
)
from tests.test_failover import ask
from tests.test_private_swarm import FOUNDING, Society, model, private, until

__all__ = ["model"]  # a fixture
WITHIN_S = 60.0  # what the project promises
N_IN_LINE = 8


class Ruled(Society):
    """A private swarm whose members all know its rules."""

    def __init__(self, **demands: object) -> None:
        super().__init__()
        self.state.learn(govern(self.state, **demands))

    def membership_of(self, identity: Identity) -> Membership:
        membership = super().membership_of(identity)
        membership.merge(self.state.encode())
        return membership

    async def tell(self, by_way_of: LocalNode, *said: Envelope) -> None:
        """As a releaser's command does: tell one node."""
        for envelope in said:
            self.state.learn(envelope)
        telling = Membership(self.state)
        admin = Identity(key_of(FOUNDER))
        connection = await GrpcTransport(admin, self.state.swarm_id, gate=telling).dial(
            by_way_of.address
        )
        await exchange(connection, telling, timeout_s=5)
        await connection.aclose()


@pytest.mark.slow
async def test_what_is_not_released_is_not_served_and_what_is_stopped_is_stopped(model, tmp_path):
    society = Ruled()
    async with private(model, tmp_path, society, (0, 6)) as built:
        (local,) = built.nodes
        digest = built.manifest.digest
        assert local.node.state is State.DRAINING
        assert "has not released" in str(local.node.status()["held"])
        async with built.client() as client:
            with pytest.raises(NotPermitted, match="has not released") as refused:
                await whole(client.generate(ask(built, max_tokens=4)))
            assert "manyhands models release" in refused.value.hint

            said = release(society.state, *RELEASERS[:2], model="test", manifest=digest)
            await society.tell(local, said)
            await until(lambda: local.node.state is State.SERVING)
            await heard(client)
            result = await whole(client.generate(ask(built, max_tokens=4)))
            assert len(result.token_ids) == 4

            with pytest.raises(NotPermitted, match="poisoned"):
                await stopped_in_mid_answer(client, built, society)
            await until(lambda: local.node.n_sessions == 0)
        lifted = stamped(society, Severity.LIFTED, digest)
        await society.tell(local, lifted)
        await until(lambda: local.node.state is State.SERVING)
        async with built.client("later") as client:
            assert await whole(client.generate(ask(built, max_tokens=4)))


async def heard(client: Client) -> None:
    """Until the client's own watch has heard of the release."""
    governance = client._membership.state.governance  # type: ignore[union-attr]
    await until(lambda: any(True for _ in governance.releases.standing()))


def stamped(society: Society, severity: Severity, digest: bytes) -> Envelope:
    stamp_ms = wall_ms()
    return advise(society.state, WARNERS[0], severity=severity, manifest=digest, stamp_ms=stamp_ms)


async def stopped_in_mid_answer(client: Client, built: Swarm, society: Ruled) -> None:
    digest = built.manifest.digest
    async with asyncio.timeout(60), client.generate(ask(built, max_tokens=200)) as run:
        async for event in run:
            if isinstance(event, Token) and event.index == 3:
                said = stamped(society, Severity.STOP, digest)
                await society.tell(built.nodes[0], said)


async def test_a_node_refuses_a_stopped_model_to_who_has_not_heard(model, tmp_path):
    society = Ruled(releases=())
    async with private(model, tmp_path, society, (0, 6)) as built:
        (local,) = built.nodes
        await society.tell(local, stamped(society, Severity.STOP, built.manifest.digest))
        await until(lambda: local.node.state is State.DRAINING)
        session = local.node.sessions

        with pytest.raises(NotPermitted, match="poisoned"):
            raise session._away()
        with pytest.raises(NotPermitted, match="poisoned"):
            await local.node._calls()["weights"](local.node.peer_id, b"")


@pytest.mark.slow
async def test_every_node_of_a_swarm_stops_within_a_minute_of_a_word_to_one(model, tmp_path):
    """Real nodes, real engines: from the word to one until the last takes no more sessions."""
    society = Ruled(releases=())
    spans = ((0, 2), (2, 4), (4, 6)) * 3
    async with private(model, tmp_path, society, *spans) as built:
        nodes = [local.node for local in built.nodes]
        assert all(node.state is State.SERVING for node in nodes)
        began_s = time.monotonic()
        await society.tell(built.nodes[-1], stamped(society, Severity.STOP, built.manifest.digest))
        async with asyncio.timeout(WITHIN_S):
            while any(node.state is State.SERVING for node in nodes):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        print(f"{len(nodes)} nodes in {time.monotonic() - began_s:.2f} s")


# --- how fast word gets round ---------------------------------------------------------------------


@asynccontextmanager
async def line(n: int) -> AsyncIterator[list[Membership]]:
    """Members on sockets of their own, each of whom knows its two neighbours alone."""
    state = SwarmState(found())
    state.learn(govern(state, releases=()))
    async with AsyncExitStack() as stack:
        memberships, addresses = [], []
        peers: list[list[Announcement]] = [[] for _ in range(n)]
        for i in range(n):
            identity = Identity(key_of(i + 1))
            own = SwarmState(FOUNDING)
            own.merge(state.encode())
            membership = Membership(own, certify(own, i + 1))
            transport = GrpcTransport(identity, own.swarm_id, gate=membership)

            async def keep(membership: Membership, met: Met) -> None:
                """Nothing starts again here."""

            registrar = Registrar(membership, identity.key, Path("/dev/null"))
            place = Place(
                membership=membership, transport=transport, registrar=registrar, keep=keep
            )
            belonging = Belonging(place, lambda i=i: peers[i], rng=random.Random(i))
            listener = await transport.listen(
                "127.0.0.1", 0, Service(calls=belonging.calls, streams={})
            )
            stack.push_async_callback(listener.aclose)
            running = asyncio.create_task(belonging.run())
            stack.callback(running.cancel)
            memberships.append(membership)
            addresses.append(listener.addresses[0])
        for i in range(n):
            peers[i] += [announce(j + 1, addresses=(addresses[j],)) for j in around(i, n)]
        yield memberships


def around(i: int, n: int) -> Sequence[int]:
    return [j for j in (i - 1, i + 1) if 0 <= j < n]


async def test_an_advisory_is_at_every_node_of_a_line_within_a_minute():
    """Published at one end, seven hops from the other, where nobody knows more than neighbours."""
    async with line(N_IN_LINE) as members:
        began_s = time.monotonic()
        members[0].merge(framed(advise(members[0].state, WARNERS[0])))
        async with asyncio.timeout(WITHIN_S):
            while not all(one.judge(MANIFEST).refused for one in members):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        print(f"{N_IN_LINE - 1} hops in {time.monotonic() - began_s:.2f} s")

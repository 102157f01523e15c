"""A private swarm of real nodes on real sockets: members are served, and only while they are."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import manyhands
from manyhands import AsyncClient
from manyhands.nearby import found_nearby, look_nearby
from node.node import Node
from protocol.announcement_table import Dropped, Merged
from protocol.clock import wall_ms
from protocol.errors import NotAMember, PeerRefused, UsageError
from protocol.identity import Identity
from protocol.membership.certificates import Certificate, Ruling, Verdict
from protocol.membership.exchange import exchange
from protocol.membership.gate import Membership
from protocol.membership.invites import METHOD as REDEEM
from protocol.membership.invites import Grant, Invite, Redemption
from protocol.membership.joining import accept
from protocol.membership.roles import ASKED, Roles
from protocol.membership.state import SwarmState
from protocol.signing import SigningKey
from protocol.transport.grpc import GrpcTransport
from protocol.transport.lan import is_installed
from scheduler import Client, Finished, Routed, Token
from tests.announcing import key_of
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, whole
from tests.membership import FOUNDER, HOUR_MS, USES, WORKS, found
from tests.test_failover import ask

SOON_S = 10.0
FOUNDING = found()


class Society:
    """The founder of a private swarm, who makes whoever asks a member."""

    def __init__(self) -> None:
        self.state = SwarmState(FOUNDING)
        self.roles: Roles = WORKS

    def membership_of(self, identity: Identity) -> Membership:
        now_ms = wall_ms()
        certificate = Certificate(
            peer=identity.public_key,
            roles=self.roles,
            issued_ms=now_ms,
            expires_ms=now_ms + HOUR_MS,
        )
        credential = certificate.seal(self.state.swarm_id, key_of(FOUNDER)).encode()
        return Membership(SwarmState(FOUNDING), credential)

    def nobody(self, identity: Identity) -> Membership:
        """Who knows everything about the swarm and has no certificate."""
        return Membership(SwarmState(FOUNDING))

    async def revoke(self, peer: Identity, by_way_of: LocalNode) -> None:
        """As an admin's command does: tell one node."""
        stamp_ms = wall_ms()
        ruling = Ruling(peer=peer.public_key, verdict=Verdict.REVOKED, stamp_ms=stamp_ms)
        self.state.learn(ruling.seal(self.state.swarm_id, key_of(FOUNDER)))
        admin = Identity(key_of(FOUNDER))
        telling = Membership(self.state)
        transport = GrpcTransport(admin, self.state.swarm_id, gate=telling)
        connection = await transport.dial(by_way_of.address)
        await exchange(connection, telling, timeout_s=5)
        await connection.aclose()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


def unused(identity: Identity) -> GrpcTransport:
    raise AssertionError("members make their own")


@asynccontextmanager
async def private(
    model: Path, home: Path, society: Society, *spans: tuple[int, int]
) -> AsyncIterator[Swarm]:
    built = Swarm(model, home, unused, society.membership_of)
    try:
        await built.start(*spans)
        yield built
    finally:
        await built.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110 (others' state, which nobody signals)
            await asyncio.sleep(0.05)


async def test_members_are_served_and_nobody_else_hears_a_word(model, tmp_path):
    society = Society()
    async with private(model, tmp_path, society, (0, 3), (3, 6)) as built:
        async with built.client() as client:
            result = await whole(client.generate(ask(built, max_tokens=8)))
        assert len(result.token_ids) == 8

        built.membership_of = society.nobody
        async with built.client("stranger") as client:
            with pytest.raises(NotAMember, match="does not talk to strangers"):
                await client.directory()
        counters = [local.node._transport.counters for local in built.nodes]
        assert any(counter.refused for counter in counters)
        assert all(local.node.sessions.refused == 0 for local in built.nodes)


@pytest.mark.libp2p
@pytest.mark.skipif(not is_installed(), reason="the libp2p extra is not installed")
async def test_members_on_one_network_find_each_other_without_an_address(model, tmp_path):
    society = Society()
    async with (
        private(model, tmp_path / "one", society, (0, 3)) as here,
        private(model, tmp_path / "other", society, (3, 6)) as there,
    ):
        one, other = here.nodes[0].node, there.nodes[0].node
        async with found_nearby(one, is_wanted=True):
            found = await look_nearby(society.state.swarm_id, "127.0.0.1")
            assert found == one.whereabouts.own()
            async with found_nearby(other, is_wanted=True):
                await until(lambda: len(one.announcements()) == len(other.announcements()) == 2)


async def test_every_call_of_a_node_takes_a_role_that_somebody_chose(model, tmp_path):
    async with private(model, tmp_path, Society(), (0, 3)) as built:
        assert {*built.nodes[0].node._calls(), "control", "data", "probe"} <= ASKED.keys()


async def test_a_member_that_may_only_use_announces_in_vain(model, tmp_path):
    society = Society()
    async with private(model, tmp_path, society, (0, 3)) as built:
        society.roles = USES
        (pretender,) = await built.start((3, 6))
        first = built.nodes[0].node
        pretender.node.gossip.table._may_announce = lambda peer_id, membership: True
        pretender.node.gossip.announce()

        await until(lambda: Dropped(pretender.node.peer_id, Merged.OUTSIDER) in dropped(first))

        assert [peer.peer_id for peer in first.announcements()] == [first.peer_id]


def dropped(node: Node) -> Counter[Dropped]:
    return node.gossip.table.dropped


async def test_a_client_revoked_in_mid_answer_is_told_and_its_room_is_free(model, tmp_path):
    society = Society()
    async with private(model, tmp_path, society, (0, 3), (3, 6)) as built:
        seen: list[object] = []
        async with built.client() as client:
            with pytest.raises(PeerRefused, match="its membership was revoked") as told:
                await answered(client, built, society, seen)
        assert "a new invite" in told.value.hint
        n_tokens = sum(isinstance(event, Token) for event in seen)

        assert 4 <= n_tokens < 200
        await until(lambda: all(local.node.n_sessions == 0 for local in built.nodes))


async def answered(client: Client, built: Swarm, society: Society, seen: list[object]) -> None:
    """An answer in whose beginning the client is revoked."""
    async with asyncio.timeout(60), client.generate(ask(built, max_tokens=200)) as run:
        async for event in run:
            seen.append(event)
            if isinstance(event, Token) and event.index == 3:
                await society.revoke(client.identity, built.nodes[0])


async def test_a_node_revoked_in_mid_answer_is_left_and_the_text_is_the_same(model, tmp_path):
    society = Society()
    async with private(model, tmp_path, society, (0, 3), (3, 6), (3, 6)) as built:
        async with built.client("before") as client:
            undisturbed = await whole(client.generate(ask(built, max_tokens=120)))
        routes: list[list[str]] = []
        revoked, result = "", undisturbed
        async with built.client() as client, client.generate(ask(built, max_tokens=120)) as run:
            async for event in run:
                if isinstance(event, Routed):
                    routes.append([step.peer for step in event.route])
                if isinstance(event, Token) and event.index == 3:
                    revoked = routes[-1][1]
                    local = next(n for n in built.nodes if n.node.peer_id == revoked)
                    await society.revoke(local.node.identity, built.nodes[0])
                if isinstance(event, Finished):
                    result = event.result
        assert result.token_ids == undisturbed.token_ids
        assert revoked not in routes[-1]
        others = [local.node for local in built.nodes if local.node.peer_id != revoked]
        await until(lambda: all(n.gossip.table.get(revoked, wall_ms()) is None for n in others))


def invited_by(society: Society, registrar: LocalNode) -> Invite:
    """For one home. The registrar is a node whose key the founder makes an admin's."""
    policy = society.state.policy.with_admin(registrar.node.identity.public_key)
    society.state.learn(policy.seal(society.state.swarm_id, key_of(FOUNDER)))
    belonging = registrar.node.belonging
    assert belonging is not None
    belonging._membership.merge(society.state.encode())
    token = SigningKey.generate()
    grant = Grant(
        token=token.public_key,
        roles=USES,
        n_uses=1,
        issued_ms=wall_ms(),
        expires_ms=wall_ms() + HOUR_MS,
        lifetime_ms=HOUR_MS,
        registrar=registrar.node.identity.public_key,
    )
    return Invite(
        name="home",
        swarm_id=society.state.swarm_id,
        grant=grant.seal(society.state.swarm_id, key_of(FOUNDER)),
        secret=token.seed,
        addresses=(registrar.address,),
    )


async def test_a_program_joins_by_an_invite_sees_who_serves_and_comes_back_by_name(model, tmp_path):
    society, home = Society(), tmp_path / "mine"
    async with private(model, tmp_path / "swarm", society, (0, 3), (2, 6)) as built:
        invite = str(invited_by(society, built.nodes[0]))
        async with await AsyncClient.join(invite, name="den", home=home) as client:
            seen = await client.swarm.coverage()
            answer = await client.generate([5, 6, 7], max_new_tokens=3, do_sample=False)
        async with AsyncClient(swarm="den", home=home) as again:
            assert (await again.swarm.coverage("test")).hosts == seen.hosts
        with pytest.raises(NotAMember, match="worth nothing"):
            await asyncio.to_thread(manyhands.Client.join, invite, home=tmp_path / "another")
        with pytest.raises(UsageError):
            await AsyncClient.join("mh://nonsense", home=home)

    assert seen.hosts == (1, 1, 2, 1, 1, 1)
    assert (seen.least, seen.missing, seen.is_complete) == (1, (), True)
    assert answer.usage.completion_tokens == 3


async def test_a_home_joins_over_the_wire_and_one_invite_lets_in_one(model, tmp_path):
    society = Society()
    async with private(model, tmp_path, society, (0, 3)) as built:
        registrar = built.nodes[0]
        invite = invited_by(society, registrar)

        async def join(n: int) -> Membership:
            identity = Identity(key_of(n))
            request = Redemption.request(
                invite.grant, invite.swarm_id, invite.token, {identity.key: USES}
            )
            transport = GrpcTransport(identity, invite.swarm_id)
            answer = await transport.ask_openly(registrar.address, REDEEM, request)
            joined = accept(answer, invite, [identity.public_key], wall_ms())
            return Membership(joined.state, joined.credentials[identity.peer_id])

        joined = await join(1)
        with pytest.raises(NotAMember, match="does not talk to strangers"):
            await join(2)
        again = await join(1)  # whose answer was lost

        assert again.credential != b""
        transport = GrpcTransport(Identity(key_of(1)), invite.swarm_id, gate=joined)
        connection = await transport.dial(registrar.address)
        assert await connection.call("ping", b"", timeout_s=5) == b""
        await connection.aclose()
        assert (registrar.home / "register.jsonl").read_text().count("\n") == 1

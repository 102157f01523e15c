"""Peers with a sound identity that abuse what a node offers them, while honest ones are served."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.gossip import METHOD as GOSSIP
from protocol.announcement_table import AnnouncementTable, Merged
from protocol.anti_entropy import Record
from protocol.asking import Handover
from protocol.clock import wall_ms
from protocol.codec import to_client_message, to_hop_bytes
from protocol.errors import ManyhandsError, PeerBusy, PeerRefused
from protocol.gossip_rules import tell
from protocol.handover import Note
from protocol.identity import Identity, public_key_from_peer_id
from protocol.messages import Failure, Reserve, Reserved, SessionId, Span
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport import Connection, decode_error
from protocol.transport.grpc import GrpcTransport
from scheduler import Client
from tests.announcing import NOW_MS, peer_of, record
from tests.checkpoints import write_checkpoint
from tests.gossiping import GossipSwarm, identity_of, until
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm, whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def node(model: Path, tmp_path: Path) -> AsyncIterator[Swarm]:
    async with swarm(
        model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID), (0, 6)
    ) as built:
        yield built


def transport() -> GrpcTransport:
    return GrpcTransport(Identity(SigningKey.generate()), OPEN_SWARM_ID)


def reserve(node: Swarm, **what: object) -> Reserve:
    request = Reserve(
        session=SessionId(secrets.token_bytes(16)),
        epoch=0,
        manifest=node.manifest.digest,
        span=Span(0, 6),
        n_blocks=6,
        capacity=64,
        max_tokens=32,
        budget_ms=10_000,
        client_nonce=secrets.token_bytes(16),
        salt_commit=bytes(32),
    )
    return replace(request, **what)  # type: ignore[arg-type]


async def says(connection: Connection, request: Reserve) -> object:
    """What a node answers to a reservation that is never committed; its stream stays open."""
    stream = await connection.open("control")
    stream.send(to_hop_bytes(request))
    message = to_client_message(await stream.receive())
    return decode_error(message.error, "") if isinstance(message, Failure) else message


async def serves(node: Swarm, client: Client) -> bool:
    result = await whole(client.generate(node.request([1, 2, 3], max_tokens=4, ignore_eos=True)))
    return len(result.token_ids) == 4


async def test_who_reserves_and_never_commits_holds_a_quarter_and_others_are_served(
    model: Path, tmp_path: Path
):
    node = Swarm(model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID))
    (local,) = await node.start((0, 6), kv_cache_bytes=2 << 20)
    sessions = local.node.sessions
    position_bytes = sessions.rows_bytes(reserve(node), 1)
    tenth = replace(reserve(node), capacity=(2 << 20) // position_bytes // 10)
    greedy = await transport().dial(node.nodes[0].address)

    answers = [
        await says(greedy, replace(tenth, session=SessionId(secrets.token_bytes(16))))
        for _ in range(10)
    ]

    assert [type(each) for each in answers[:2]] == [Reserved, Reserved]
    assert all(isinstance(each, PeerBusy) for each in answers[2:])
    async with node.client() as client:
        assert await serves(node, client)
    await greedy.aclose()
    await until(lambda: sessions.reserved_bytes == 0, timeout_s=5)
    await node.aclose()


def small_room(directory: Path) -> Path:
    """A model whose longest sessions take much of the smallest room a node may have."""
    return add_byte_tokenizer(write_checkpoint(directory / "wide", head_dim=64))


async def test_whoever_says_that_its_answer_has_begun_gains_an_eighth_and_passes_no_line_with_more(
    tmp_path: Path,
):
    node = Swarm(
        small_room(tmp_path), tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID)
    )
    (local,) = await node.start((0, 3), kv_cache_bytes=1 << 20)
    sessions = local.node.sessions
    base = reserve(node, span=Span(0, 3), has_begun=True, max_tokens=4, budget_ms=60_000)
    position_bytes = sessions.rows_bytes(base, 1)
    connections: list[Connection] = []

    async def asks(share: float, **what: object) -> object:
        connections.append(await transport().dial(local.address))
        session = SessionId(secrets.token_bytes(16))
        capacity = round((1 << 20) * share / position_bytes)
        asked = replace(base, session=session, capacity=capacity, **what)  # type: ignore[arg-type]
        return await says(connections[-1], asked)

    assert isinstance(await asks(0.1, has_begun=False), Reserved)
    assert isinstance(await asks(0.6), Reserved)  # as for anybody: there is room
    assert isinstance(await asks(0.25), PeerBusy)
    assert isinstance(await asks(0.2, has_begun=False), PeerBusy)
    local.node.batcher.load.backlog_s = 12.0
    claims = [await asks(0.06) for _ in range(3)]
    assert isinstance(claims[0], Reserved)
    assert isinstance(claims[2], PeerBusy)  # though there is room: of all who did not commit
    assert sessions.free_bytes > sessions.rows_bytes(base, 16)
    for connection in connections:
        await connection.aclose()
    await until(lambda: sessions.reserved_bytes == 0, timeout_s=5)
    await node.aclose()


async def test_a_large_newcomer_gets_its_room_beside_a_tiny_session(tmp_path: Path):
    node = Swarm(
        small_room(tmp_path), tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID)
    )
    (local,) = await node.start((0, 6), kv_cache_bytes=1 << 20)
    sessions = local.node.sessions
    position_bytes = sessions.rows_bytes(reserve(node), 1)
    connections = [await transport().dial(local.address) for _ in range(2)]
    large = (1 << 20) * 9 // 10 // position_bytes

    assert isinstance(await says(connections[0], reserve(node, capacity=8, max_tokens=4)), Reserved)
    assert isinstance(await says(connections[1], reserve(node, capacity=large)), Reserved)
    for connection in connections:
        await connection.aclose()
    await until(lambda: sessions.reserved_bytes == 0, timeout_s=5)
    await node.aclose()


async def test_heirs_that_never_commit_may_have_most_of_the_room_until_somebody_comes(
    model: Path, tmp_path: Path
):
    node = Swarm(model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID))
    (local,) = await node.start((0, 6), kv_cache_bytes=1 << 20)
    sessions, leaver = local.node.sessions, transport().peer_id
    connections: list[Connection] = []

    async def asks(as_heir: bool) -> object:
        identity, request = Identity(SigningKey.generate()), reserve(node, capacity=256)
        note = Note(
            session=request.session,
            epoch=request.epoch,
            giver=public_key_from_peer_id(leaver),
            taker=local.node.identity.public_key,
            span=request.span,
        )
        sealed = note.seal(OPEN_SWARM_ID, identity.key)
        handover = Handover(peer=leaver, addresses=("/ip4/127.0.0.1/tcp/9",), note=sealed)
        connection = await GrpcTransport(identity, OPEN_SWARM_ID).dial(local.address)
        connections.append(connection)
        return await says(connection, replace(request, handover=handover) if as_heir else request)

    heirs = [await asks(as_heir=True) for _ in range(2)]

    assert [type(each) for each in heirs] == [Reserved, Reserved]
    assert local.node.draft().kv_free_bytes == 1 << 20, "routes lead here all the same"
    assert isinstance(await asks(as_heir=False), Reserved)
    assert len(sessions) == 2, "one heir went"
    for connection in connections:
        await connection.aclose()
    await node.aclose()


async def test_thousands_of_calls_for_the_status_end_in_a_ban_and_others_are_answered(node: Swarm):
    local = node.nodes[0]
    flooding = await transport().dial(local.address)
    told: list[object] = []
    async with node.client() as client:
        for _ in range(6):
            calls = (flooding.call("status", b"", timeout_s=10) for _ in range(100))
            told += await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(PeerRefused, match="until"):
            await flooding.call("ping", b"", timeout_s=5)

        assert await serves(node, client)

    answered = [each for each in told if isinstance(each, bytes)]
    assert len(answered) < 200
    assert all(isinstance(each, bytes | ManyhandsError) for each in told)
    assert len(local.node.guard.bans.now()) == 1
    await flooding.aclose()


async def test_a_ban_ends_the_streams_of_who_is_banned_and_lifting_it_lets_them_back(node: Swarm):
    local, caller = node.nodes[0], transport()
    connection = await caller.dial(local.address)
    stream = await connection.open("data")
    guard = local.node.guard
    for _ in range(30):
        guard.offended(caller.peer_id, "junk")

    with pytest.raises(ManyhandsError):
        await asyncio.wait_for(stream.receive(), timeout=5)
    with pytest.raises(PeerRefused):
        await connection.call("ping", b"", timeout_s=5)
    guard.bans.lift(caller.peer_id)

    assert await connection.call("ping", b"", timeout_s=5) == b""
    await connection.aclose()


async def test_who_sends_forged_records_again_and_again_is_not_heard_any_more(node: Swarm):
    local, caller = node.nodes[0], transport()
    connection = await caller.dial(local.address)
    now_ms = wall_ms()
    stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 30_000}
    forged = [record(n, signer=n + 1, **stamp) for n in range(1, 6)]

    async def go_on() -> None:
        for _ in range(10):
            await connection.call(GOSSIP, tell(*forged), timeout_s=5)

    with pytest.raises(PeerRefused, match="nobody made"):
        await go_on()
    await connection.aclose()

    async with node.client() as client:
        assert await serves(node, client)


async def test_two_hundred_identities_that_announce_themselves_push_out_nobody():
    """An eclipse: the attacker fills the table of a node, and is then all it sees."""
    honest = GossipSwarm(lambda n: GrpcTransport(identity_of(n), OPEN_SWARM_ID))
    try:
        target = await honest.start(0)
        for n in range(1, 4):
            await honest.start(n, target.address)
        await until(honest.agree, timeout_s=15)

        await _announce_many(target.address, range(1_000, 1_200))
        late = await honest.start(9, target.address)
        everybody = {peer_of(n) for n in (0, 1, 2, 3, 9)}

        await until(lambda: everybody <= late.sees(), timeout_s=15)
        await until(lambda: all(everybody <= one.sees() for one in honest.nodes), timeout_s=15)
        assert len(target.sees()) >= 200  # they are in, and change nothing for the others
    finally:
        await honest.aclose()


async def _announce_many(address, numbers) -> None:
    now_ms = wall_ms()
    stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 60_000}
    for n in numbers:
        if n % 20:  # the others tell of themselves in one message of a twentieth identity
            continue
        connection = await GrpcTransport(identity_of(n), OPEN_SWARM_ID).dial(address)
        records = [_announced(each, stamp) for each in range(n, n + 20)]
        await connection.call(GOSSIP, tell(*records), timeout_s=10)
        await connection.aclose()


def _announced(n: int, stamp: dict[str, int]) -> Record:
    return record(n, ttl_ms=60_000, **stamp)


def test_in_a_table_that_is_full_who_was_there_stays():
    table = AnnouncementTable(OPEN_SWARM_ID, capacity=50)
    for n in range(50):
        assert table.merge(record(n), sender="x", now_ms=NOW_MS) is Merged.NEW

    results = {table.merge(record(n), sender="y", now_ms=NOW_MS) for n in range(1_000, 1_200)}

    assert results == {Merged.FULL}
    assert {each.peer_id for each in table.live(NOW_MS)} == {peer_of(n) for n in range(50)}

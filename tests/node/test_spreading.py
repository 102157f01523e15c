"""Spend logs among nodes: all end with the same books, whoever was told what, and by whom."""

import asyncio
import threading
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest

from ledger.checkpoint import Checkpoint, origin
from ledger.forks import Side, fork_fault
from ledger.spend_books import SpendBooks
from ledger.spend_learning import Learner
from ledger.spend_news import Changes
from ledger.spend_shelf import Forked, Shelf
from ledger.spend_words import (
    FAULT,
    FAULT_PATH,
    LOG,
    NEWS,
    PUBLISH,
    WITNESS,
    Known,
    News,
    Published,
    Since,
    Wanted,
    decode_answer,
    read_fault,
)
from ledger.tiles import unbundle
from ledger.witness import AddCheckpoint, WitnessBook
from node import spreading
from node.hearing import hear
from node.spreading import Spreading
from protocol.canonical import encode
from protocol.errors import PeerBusy, PeerMisbehaved, PeerRefused
from protocol.guard import Guard
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport
from tests.announcing import key_of
from tests.gossiping import identity_of, until
from tests.ledger.spenders import (
    ANN,
    ASSET,
    BEN,
    CY,
    ISSUER,
    SWARM,
    WITNESSES,
    allot,
    chained,
    grant,
)
from tests.ledger.test_spend_books import FOUR, KEYS, signed

QUORUM, ONE_SHORT = (0, 1, 2), (0, 1)
GRANTED = [grant(ANN, 100), grant(BEN, 50)]


KEYS.update({key_of(n).public_key: key_of(n) for n in range(100, 130)})


def told(owner, *entries, signers=QUORUM, start=0):
    leaves = [leaf.encode() for leaf in chained(*entries)]
    note = signed(owner.public_key, leaves, signers)
    return Published(owner.public_key, note, start, tuple(leaves[start:]))


class Peers:
    """Nodes that spread spend logs and do nothing else, on real sockets."""

    def __init__(self, directory, stack):
        self._directory, self._stack = directory, stack
        self.nodes = []

    async def start(self, n, *, at=None, knows=None, **more):
        transport = GrpcTransport(identity_of(n), SWARM)
        books = SpendBooks.open(self._directory / str(n), SWARM, FOUR)
        self._stack.callback(books.close)
        guard = Guard()
        node = SimpleNamespace(n=n, transport=transport, books=books, guard=guard)
        heard = self.nodes if knows is None else knows
        node.spreading = Spreading(
            books,
            transport,
            lambda: [one.peer for one in heard if one is not node],
            guard=guard,
            **more,
        )
        service = Service(calls=node.spreading.calls, guard=guard)
        node.listener = await transport.listen("127.0.0.1", 0, service)
        self._stack.push_async_callback(node.listener.aclose, grace_s=0)
        addresses = node.listener.addresses
        node.address = addresses[0]
        node.peer = SimpleNamespace(
            peer_id=transport.peer_id, addresses=addresses, to_dial=addresses
        )
        self.nodes.append(node)
        task = asyncio.create_task(node.spreading.run())
        self._stack.callback(task.cancel)
        return node

    async def call(self, node, method, request, *, who=50):
        connection = await GrpcTransport(identity_of(who), SWARM).dial(node.address, timeout_s=5)
        try:
            return await connection.call(method, request, timeout_s=10)
        finally:
            await connection.aclose()

    async def publish(self, node, published, **more):
        return Known.decode(await self.call(node, PUBLISH, published.encode(), **more))

    def agree(self):
        first, *others = [node.books.books() for node in self.nodes]
        return all(books == first for books in others)

    async def agreed(self):
        await until(self.agree, timeout_s=10)
        return self.nodes[0].books.books()


@pytest.fixture
async def peers(tmp_path, monkeypatch):
    monkeypatch.setattr(spreading, "EVERY_S", 0.05)
    async with AsyncExitStack() as stack:
        yield Peers(tmp_path, stack)


async def test_what_one_node_is_told_all_know_and_one_that_joins_late_as_well(peers):
    first, *_ = [await peers.start(n) for n in range(3)]

    await peers.publish(first, told(ISSUER, *GRANTED))
    await peers.publish(peers.nodes[1], told(ANN, allot(ANN, CY, 30)))
    await until(lambda: peers.nodes[2].books.available(ANN.public_key, ASSET) == 70, timeout_s=10)
    await peers.start(3)
    books = await peers.agreed()
    await peers.publish(peers.nodes[3], told(ISSUER, *GRANTED, grant(CY, 5), start=2))

    await until(lambda: first.books.available(CY.public_key, ASSET) == 5, timeout_s=10)
    assert books.available == {(ANN.public_key, ASSET): 70, (BEN.public_key, ASSET): 50}
    assert [len(node.books.books().allotted) for node in peers.nodes] == [1] * 4
    assert not any(node.guard.bans.now() for node in peers.nodes)


async def test_a_publisher_is_told_from_where_on_and_then_sends_no_more_than_that(peers):
    node = await peers.start(0)
    await peers.publish(node, told(ISSUER, *GRANTED))

    again = await peers.publish(node, told(ISSUER, *GRANTED))
    ahead = await peers.publish(node, told(ISSUER, *GRANTED, grant(CY, 1), grant(CY, 2), start=3))
    fits = await peers.publish(node, told(ISSUER, *GRANTED, grant(CY, 1), start=2))

    assert (again.size, ahead.size, fits.size) == (2, 2, 3)


async def test_what_no_quorum_signed_moves_nothing_and_is_refused_in_words(peers):
    node = await peers.start(0)

    with pytest.raises(PeerRefused, match="2 witnesses signed, 3 must"):
        await peers.publish(node, told(ISSUER, *GRANTED, signers=ONE_SHORT))

    assert node.books.size(ISSUER.public_key) == 0
    assert not node.guard.bans.now()


async def test_any_log_is_fetched_as_tiles_from_any_node_that_holds_it(peers):
    node = await peers.start(0)
    published = told(ISSUER, *GRANTED)
    await peers.publish(node, published)

    def fetch(path):
        return peers.call(node, LOG, Wanted(ISSUER.public_key, path).encode())

    assert (await fetch("checkpoint")).decode() == published.note
    assert unbundle(await fetch("tile/entries/000.p/2")) == list(published.leaves)
    assert len(await fetch("tile/0/000.p/2")) == 64
    with pytest.raises(PeerRefused, match="not as long"):
        await fetch("tile/0/000.p/3")
    with pytest.raises(PeerRefused, match="has no"):
        await fetch("../spend.sqlite")
    with pytest.raises(PeerRefused, match="no spend log"):
        await peers.call(node, LOG, Wanted(CY.public_key, "checkpoint").encode())


async def test_28_two_versions_told_to_two_nodes_are_a_fork_on_every_node(peers):
    """At most one gets a quorum; the proof stands alone, and the payer finds no new business."""
    nodes = [await peers.start(n) for n in range(3)]
    await peers.publish(nodes[0], told(ISSUER, *GRANTED))
    to_cy, to_ben = allot(ANN, CY, 100), allot(ANN, BEN, 100)
    with pytest.raises(PeerRefused, match="must"):
        await peers.publish(nodes[0], told(ANN, to_cy, signers=ONE_SHORT))

    await peers.publish(nodes[1], told(ANN, to_ben))

    await until(lambda: all(n.books.is_forked(ANN.public_key) for n in nodes), timeout_s=10)
    books = await peers.agreed()
    assert set(books.allotted) == {to_ben.object_id(SWARM)}
    proof = await peers.call(nodes[2], LOG, Wanted(ANN.public_key, FAULT_PATH).encode())
    stranger = await peers.start(9, knows=[])
    await peers.call(stranger, FAULT, proof)
    assert stranger.books.is_forked(ANN.public_key)
    assert read_fault(proof).accused == ANN.public_key


async def test_a_fork_is_kept_by_the_books_and_told_again_after_a_start(peers, tmp_path):
    first = await peers.start(0, knows=[])
    await peers.publish(first, told(ANN, allot(ANN, BEN, 10)))
    known = await peers.publish(first, told(ANN, allot(ANN, CY, 10), signers=()))
    books = SpendBooks.open(tmp_path / "0", SWARM, FOUR)

    again = Spreading(books, first.transport, list)
    news = News.decode(await again.calls[NEWS]("x", Since().encode()))
    books.close()

    assert known.is_forked
    assert news.forked == (Forked(ANN.public_key),)
    assert [head.size for head in news.heads] == [1]


async def test_27_of_two_allotments_beyond_the_credit_the_same_one_is_funded_everywhere(peers):
    nodes = [await peers.start(n) for n in range(3)]
    first, second = allot(ANN, BEN, 80), allot(ANN, CY, 80)

    await peers.publish(nodes[0], told(ANN, first))
    await peers.publish(nodes[2], told(ANN, first, second))
    await peers.publish(nodes[1], told(ISSUER, *GRANTED))

    await until(lambda: all(n.books.books().allotted for n in nodes), timeout_s=10)
    books = await peers.agreed()
    assert set(books.allotted) == {first.object_id(SWARM)}
    assert books.available[ANN.public_key, ASSET] == 20


async def test_44_a_flood_of_junk_is_refused_before_a_signature_is_looked_at(peers, monkeypatch):
    node = await peers.start(0, knows=[])
    looked = []
    monkeypatch.setattr(Learner, "take", lambda *_: looked.append(1))
    junk = told(ISSUER, *GRANTED).encode()[:-1]
    connection = await GrpcTransport(identity_of(66), SWARM).dial(node.address, timeout_s=5)
    seen = []

    for _ in range(100):
        try:
            await connection.call(PUBLISH, junk, timeout_s=5)
        except (PeerBusy, PeerMisbehaved, PeerRefused) as error:
            seen.append(type(error))
    await connection.aclose()

    assert not looked
    assert len(seen) == 100
    assert node.guard.bans.now()  # it goes on sending what is no log at all


async def test_44_new_logs_of_one_peer_are_bounded_and_others_are_heard_on(peers):
    node = await peers.start(0, knows=[])
    many = [key_of(100 + n) for n in range(int(spreading.NEW_LOGS.burst) + 1)]
    logs = [told(one, allot(one, BEN, 1, asset=ASSET)) for one in many]

    for log in logs[:-1]:
        await peers.publish(node, log)
    with pytest.raises(PeerBusy, match="new spend logs"):
        await peers.publish(node, logs[-1])

    assert (await peers.publish(node, logs[0])).size == 1
    assert (await peers.publish(node, logs[-1], who=51)).size == 1


def forked(key):
    """Two heads of one size: all it takes, and no witness was asked."""
    named = origin(SWARM, key.public_key, "spend")
    sides = (Side(Checkpoint(named, 1, bytes([n]) * 32).sign(key)) for n in (1, 2))
    return fork_fault(key.public_key, SWARM, *sides)


async def test_44_forks_of_keys_that_nobody_knows_are_bounded_and_go_no_further(peers):
    first, second = [await peers.start(n, knows=[]) for n in range(2)]
    many = [key_of(100 + n) for n in range(int(spreading.NEW_LOGS.burst) + 1)]
    first.books.believe(forked(ANN))

    for key in many[:-1]:
        await peers.call(first, FAULT, encode(forked(key).to_fields()))
    with pytest.raises(PeerBusy, match="new spend logs"):
        await peers.call(first, FAULT, encode(forked(many[-1]).to_fields()))
    await peers.call(first, FAULT, encode(forked(ANN).to_fields()))  # known: costs nothing
    connection = await second.transport.dial(first.address, timeout_s=5)
    since = await hear(connection, Learner(second.books), Since())
    heard = second.books.shelf.forked()
    first.books.learn(ANN.public_key, *told_apart(told(ANN, allot(ANN, BEN, 10))))
    await hear(connection, Learner(second.books), since)
    await connection.aclose()

    assert heard == []
    assert second.books.shelf.forked() == [Forked(ANN.public_key)]  # once it had the log


def told_apart(published):
    return published.note, published.leaves


async def test_44_the_loop_never_waits_for_books_that_another_thread_writes(peers, monkeypatch):
    node = await peers.start(0, knows=[])
    on_loop = []
    monkeypatch.setattr(Shelf, "head", recording(Shelf.head, on_loop))
    monkeypatch.setattr(Changes, "look", recording(Changes.look, on_loop))

    await peers.publish(node, told(ISSUER, *GRANTED))

    assert len(on_loop) >= 3
    assert not any(on_loop)


def recording(method, on_loop):
    def called(*args):
        on_loop.append(threading.current_thread() is threading.main_thread())
        return method(*args)

    return called


async def test_a_node_that_is_a_witness_signs_over_the_same_connection(peers, tmp_path):
    witness = FOUR.known[0]
    with WitnessBook.open(
        tmp_path / "w", witness.name, WITNESSES[0], lambda _: ISSUER.public_key
    ) as book:
        node = await peers.start(0, witness=book)
        request = AddCheckpoint(0, (), told(ISSUER, *GRANTED, signers=()).note)

        signed_now = await peers.call(node, WITNESS, request.encode())
        again = await peers.call(node, WITNESS, request.encode())
        junk = await peers.call(node, WITNESS, b"old x")

    assert decode_answer(signed_now).status == 200
    assert decode_answer(signed_now).body.decode().startswith(f"\N{EM DASH} {witness.name} ")
    assert (decode_answer(again).status, decode_answer(again).body) == (409, b"2\n")
    assert decode_answer(junk).status == 400


async def test_who_tells_false_news_is_believed_nothing_and_remembered_for_it(peers):
    liar = await peers.start(0, knows=[])
    honest = await peers.start(1, knows=[])
    await peers.publish(liar, told(ISSUER, *GRANTED))
    connection = await honest.transport.dial(liar.address, timeout_s=5)

    class Lying:
        peer_id = connection.peer_id

        async def call(self, method, request, *, timeout_s):
            answer = await connection.call(method, request, timeout_s=timeout_s)
            return answer.replace(b"mh/grant/1", b"mh/grant/2") if method == LOG else answer

    with pytest.raises(PeerMisbehaved):
        await hear(Lying(), Learner(honest.books), Since())
    assert honest.books.size(ISSUER.public_key) == 0

    asked = []

    class Boasting:
        peer_id = connection.peer_id

        async def call(self, method, request, *, timeout_s):
            asked.append(request)
            if method == NEWS:
                return await connection.call(method, request, timeout_s=timeout_s)
            leaves = [leaf.encode() for leaf in chained(*GRANTED)]
            return signed(ISSUER.public_key, leaves, ()).replace("\n2\n", "\n100000\n").encode()

    with pytest.raises(PeerMisbehaved, match="spend log of somebody: the signature"):
        await hear(Boasting(), Learner(honest.books), Since())
    assert len(asked) == 2  # news, a checkpoint, and not one leaf

    await hear(connection, Learner(honest.books), Since())
    assert honest.books.size(ISSUER.public_key) == 2
    await connection.aclose()

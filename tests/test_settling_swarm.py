"""Credit that was used is settled between real nodes and clients, over real sockets."""

import asyncio
from pathlib import Path

import pytest

from ledger.checkpoint import Checkpoint, origin
from ledger.forks import Side, fork_fault
from ledger.log import Ledger
from ledger.meter import Rates
from ledger.owed import owed_tabs
from ledger.pruning import plan
from ledger.reader import LedgerReader
from ledger.settle_visit import Visit
from ledger.settle_words import METHOD, PROPOSE, SIGNED, Asked, Proposed
from ledger.settling import Pair
from ledger.told_objects import FAULTS, OBJECTS, RECONCILE, SETTLEMENTS
from ledger.verify import verify_ledger
from manyhands.crediting.settle import due_of, settle_all
from manyhands.home import Home
from manyhands.party import Party
from node.reconciling import take_from
from protocol.canonical import encode
from protocol.clock import wall_ms
from protocol.errors import PeerBusy, PeerMisbehaved, PeerRefused
from protocol.identity import Identity
from protocol.signing import SigningKey
from scheduler.visiting import settle
from tests.checkpoints import write_checkpoint
from tests.granted import ISSUER, GrantedSwarm, granted_swarm
from tests.local_swarm import LocalNode, add_byte_tokenizer, whole
from tests.test_failover import ask

PRICED = Rates(prefill_tl=1_000_000_000, decode_tl=5_000_000_000)
PLENTY = 20_000_000
ASSET = ISSUER.public_key
DAY_S = 86_400


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


def visit(built: GrantedSwarm, payer: Identity, local: LocalNode, home: Path) -> Visit:
    pair = Pair(payer.public_key, local.node.identity.public_key, ASSET)

    def file(receipt):
        with Ledger.open(home, payer.key, built.swarm_id) as ledger:
            ledger.append(receipt)

    epoch = built.policy.epoch_of(wall_ms())
    return Visit(home, payer.key, built.swarm_id, built.policy, pair, epoch, file)


async def come(built: GrantedSwarm, payer: Identity, local: LocalNode, home: Path):
    """A visit to one node; what was settled."""
    transport, _ = built._transport(payer)
    connection = await transport.dial(local.address)
    try:
        return await settle(connection, visit(built, payer, local, home))
    finally:
        await connection.aclose()


async def tomorrow(built: GrantedSwarm) -> None:
    """The witnesses' clocks go on, and everybody hears of it by what they sign."""
    built.cosigners.ahead_s += 2 * DAY_S
    await built.grant(SigningKey.generate(), 1)


async def until(holds, *, within_s=20.0):
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_clients_settle_nodes_deposit_and_everybody_has_the_same_balances(model, tmp_path):
    payer, home = Identity(SigningKey.generate()), tmp_path / "client"
    async with granted_swarm(model, tmp_path, (0, 3), (3, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            answer = await whole(client.generate(ask(built, max_tokens=8)))
        built.tell(built.wallets[payer.public_key].log)
        with pytest.raises(PeerBusy, match="is not over"):
            await come(built, payer, built.nodes[0], home)
        await tomorrow(built)

        party, place = Party(Home(tmp_path), payer, built._member(payer)), Home(tmp_path)
        due = due_of(place, party, built.policy.epoch_of(wall_ms()))
        done = await settle_all(place, party, [built.nodes[0].address], due)
        made = sorted((m for each in done for m in each.made), key=lambda m: m.payee)
        assert [each.error for each in done] == [None, None]
        assert due_of(place, party, built.policy.epoch_of(wall_ms())) == []
        again = [each for n in built.nodes for each in await come(built, payer, n, home)]

        assert sorted(again, key=lambda m: m.payee) == made
        assert sum(each.net for each in made) == answer.cost_ncr > 0
        nodes = {local.node.identity.public_key: local for local in built.nodes}
        for each in made:
            books = built.books[each.payee]
            await until(lambda b=books, e=each: b.available(e.payee, ASSET) == e.net)
        books = [built.books[account] for account in nodes]
        await until(lambda: books[0].books() == books[1].books())
        whole_books = books[0].books()
        held = sum(each.held for each in whole_books.allotted.values())
        assert sum(whole_books.available.values()) + held == PLENTY + 1
        with LedgerReader.read(home) as reader:
            late = built.policy.epoch_of(wall_ms()) + 99
            reader.forget(plan(reader, built.policy, made, late).bodies)
            assert {tab.amount for tabs in owed_tabs(reader, built.policy).values() for tab in tabs}
        report = verify_ledger(home, payer.public_key)
        assert (report.holds, report.n_pruned) == (True, 2)


def forked(built: GrantedSwarm, reporter: Identity):
    """A proof that somebody signed two checkpoints of one size."""
    key = SigningKey.generate()
    name = origin(built.swarm_id, key.public_key, "spend")
    sides = [Side(Checkpoint(name, 3, bytes([n]) * 32).sign(key)) for n in range(2)]
    fault = fork_fault(key.public_key, built.swarm_id, *sides, 0)
    return fault.seal(built.swarm_id, reporter.key)


async def test_20_nodes_end_with_the_same_settlements_and_faults(model, tmp_path):
    payer, home = Identity(SigningKey.generate()), tmp_path / "client"
    async with granted_swarm(model, tmp_path, (0, 6), (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            await whole(client.generate(ask(built, max_tokens=8)))
        await tomorrow(built)
        made = [each for n in built.nodes for each in await come(built, payer, n, home)]
        assert len(made) == 1
        for books in built.books.values():
            await until(lambda b=books: b.size(made[0].payee) > 0)
        here, there = (built.objects[n.node.identity.public_key] for n in built.nodes)
        there.kinds[FAULTS].take(forked(built, built.nodes[1].node.identity))

        for objects, other in ((here, built.nodes[1]), (there, built.nodes[0])):
            transport, _ = built._transport(Identity(SigningKey.generate()))
            connection = await transport.dial(other.address)
            for kind in (SETTLEMENTS, FAULTS):
                await take_from(connection, objects, kind)
                assert await take_from(connection, objects, kind) == 0
            for method in (RECONCILE, OBJECTS):
                for nonsense in (b"", b"junk", encode((SETTLEMENTS, b"junk")), encode((7, ()))):
                    with pytest.raises(PeerMisbehaved):
                        await connection.call(method, nonsense, timeout_s=5)
                body = encode(("riches", b"" if method == RECONCILE else (bytes(32),)))
                with pytest.raises(PeerRefused, match="are kept here"):
                    await connection.call(method, body, timeout_s=5)
            await connection.aclose()

        for kind in (SETTLEMENTS, FAULTS):
            assert here.kinds[kind].ids().keys == there.kinds[kind].ids().keys
            assert len(here.kinds[kind].ids()) == 1


async def test_46_a_payer_that_never_comes_is_collected_from_by_itself(model, tmp_path):
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            answer = await whole(client.generate(ask(built, max_tokens=8)))
        built.tell(built.wallets[payer.public_key].log)
        (local,) = built.nodes
        account = local.node.identity.public_key
        await local.node.accounts.settling.settle()
        assert built.books[account].available(account, ASSET) == 0

        await tomorrow(built)
        await local.node.accounts.settling.settle()

        assert built.books[account].available(account, ASSET) == answer.cost_ncr


async def test_an_epoch_ends_for_whom_it_matters_to_where_nobody_signs_anything(model, tmp_path):
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 3), (3, 6), (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            answer = await whole(client.generate(ask(built, max_tokens=8)))
        paid = {step.peer for step in answer.route}
        built.tell(built.wallets[payer.public_key].log)
        before = built.cosigners.n_asked

        built.cosigners.ahead_s += 3 * DAY_S
        for local in built.nodes:
            for _ in range(3):
                await local.node.accounts.settling.settle()

        gained = 0
        for local in built.nodes:
            account = local.node.identity.public_key
            got = built.books[account].available(account, ASSET)
            assert (got > 0) == (local.node.peer_id in paid)
            gained += got
        assert gained == answer.cost_ncr
        # What time it is, and what was collected: each who is owed asks once for both of these.
        assert built.cosigners.n_asked - before <= 2 * len(paid)


async def test_whoever_comes_to_settle_has_the_time_asked_and_not_over_and_over(model, tmp_path):
    payer, home = Identity(SigningKey.generate()), tmp_path / "client"
    async with granted_swarm(model, tmp_path, (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            await whole(client.generate(ask(built, max_tokens=8)))
        before = built.cosigners.n_asked
        (local,) = built.nodes
        for _ in range(2):
            with pytest.raises(PeerBusy, match="is not over"):
                await come(built, payer, local, home)
        assert built.cosigners.n_asked == before

        built.cosigners.ahead_s += DAY_S
        made = [await come(built, payer, local, home) for _ in range(2)]

        assert len(made[0]) == 1
        assert made[0] == made[1]


async def test_whoever_asks_nonsense_is_refused_and_the_node_serves_on(model, tmp_path):
    payer, home = Identity(SigningKey.generate()), tmp_path / "client"
    async with granted_swarm(model, tmp_path, (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            await whole(client.generate(ask(built, max_tokens=8)))
        await tomorrow(built)
        (local,) = built.nodes
        transport, _ = built._transport(stranger := Identity(SigningKey.generate()))
        connection = await transport.dial(local.address)
        epoch = built.policy.epoch_of(wall_ms())
        told = await connection.call(METHOD, Asked(PROPOSE, epoch, ASSET).encode(), timeout_s=5)
        assert Proposed.decode(told).settlements == ()
        for nonsense in (b"", b"junk", Asked(SIGNED, data=b"junk").encode(), bytes(70_000)):
            with pytest.raises(PeerMisbehaved):
                await connection.call(METHOD, nonsense, timeout_s=5)
        await connection.aclose()
        assert stranger.public_key != payer.public_key

        assert len(await come(built, payer, local, home)) == 1

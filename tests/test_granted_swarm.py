"""Credit that an issuer grants, from the grant to balances that are equal everywhere.

Real nodes and clients over real sockets; see `tests/granted.py` for what is told directly.
"""

import asyncio
from pathlib import Path

import pytest

from ledger.errors import DamagedLedger
from ledger.log import Ledger
from ledger.meter import Rates
from ledger.receipts import open_receipt
from ledger.spending import Allotment
from ledger.wallet import Stake
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, NoQuorum, NotFunded, PeerRefused
from protocol.identity import Identity, peer_id_from_public_key
from protocol.signing import SigningKey
from scheduler import Finished, Token
from tests.checkpoints import write_checkpoint
from tests.granted import ISSUER, GrantedSwarm, granted_swarm
from tests.local_swarm import add_byte_tokenizer, whole
from tests.test_failover import ask

PRICED = Rates(prefill_tl=1_000_000_000, decode_tl=5_000_000_000)  # 5,000 ncr a token-block
PLENTY = 20_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


async def test_an_issuer_grants_a_client_allots_three_nodes_serve_and_all_books_are_equal(
    model, tmp_path
):
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 2), (2, 4), (4, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            first = await whole(client.generate(ask(built, max_tokens=8)))
            n_asked = built.cosigners.n_asked
            second = await whole(client.generate(ask(built, max_tokens=8)))

        assert first.cost_ncr == second.cost_ncr > 0
        assert built.cosigners.n_asked == n_asked  # the second asked nobody but its hops
        wallet = built.wallets[payer.public_key]
        wallet_oids = {oid for oid, _ in wallet.made()}
        built.tell(wallet.log)
        account, asset = payer.public_key, ISSUER.public_key
        kept = [built.books[local.node.identity.public_key].books() for local in built.nodes]
        for books in (*kept, wallet.books.books()):
            assert books.available[account, asset] == wallet.available(asset)
            assert (
                sum(books.available.values()) + sum(each.held for each in books.allotted.values())
                == PLENTY
            )
        claimed = [sum(a.claimed for a in books.allotted.values()) for books in kept]
        assert sum(claimed) == first.cost_ncr + second.cost_ncr
        assert all(claimed)
    tabs = closed(built, tmp_path / "client")
    assert len(tabs) == 6
    assert {tab.terms.allot_oid for tab in tabs} == wallet_oids
    assert {tab.terms.asset for tab in tabs} == {ISSUER.public_key}


def closed(built: GrantedSwarm, home: Path):
    """The tabs in the receipt log that lies there."""
    with Ledger.open(home, *built.owners[home]) as ledger:
        ids = [ledger.id_at(index) for index in range(len(ledger))]
        return [open_receipt(ledger.receipt(id_), built.swarm_id) for id_ in ids if id_]


async def test_a_node_that_has_not_heard_of_a_grant_asks_others_before_it_refuses(model, tmp_path):
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 3), (3, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY, n_told=1)
        async with built.client(identity=payer) as client:
            await whole(client.generate(ask(built, max_tokens=8)))
        assert len(built.wallets[payer.public_key].log) == 2  # nobody was set aside for twice


async def test_sessions_without_credit_are_refused_with_what_to_do(model, tmp_path):
    async with granted_swarm(model, tmp_path, (0, 6), rates=PRICED) as built:
        async with built.client() as client:
            with pytest.raises(NotFunded, match="credit") as caught:
                await whole(client.generate(ask(built, max_tokens=8)))
        assert "ask your issuer for a grant" in caught.value.hint

        built.purse_of = lambda identity, home: None  # a client that shows nothing
        async with built.client("bare") as client:
            with pytest.raises(ManyhandsError, match="none was shown"):
                await whole(client.generate(ask(built, max_tokens=8)))


async def test_free_sessions_need_no_allotment(model, tmp_path):
    async with granted_swarm(model, tmp_path, (0, 6)) as built:
        async with built.client() as client:
            result = await whole(client.generate(ask(built, max_tokens=8)))
        assert (len(result.token_ids), result.cost_ncr) == (8, 0)
        assert built.cosigners.n_asked == 0


async def test_without_a_quorum_nothing_new_is_allotted_and_what_is_there_still_pays(
    model, tmp_path
):
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        built.cosigners.away = {"w1.example", "w2.example"}
        async with built.client(identity=payer) as client:
            with pytest.raises(NoQuorum, match=r"w1\.example, w2\.example") as caught:
                await whole(client.generate(ask(built, max_tokens=8)))
            assert caught.value.exit_code == 75

            built.cosigners.away = set()
            await whole(client.generate(ask(built, max_tokens=8)))
            built.cosigners.away = {"w1.example", "w2.example"}
            await whole(client.generate(ask(built, max_tokens=8)))
        assert len(built.wallets[payer.public_key].log) == 1  # what had no quorum got one later


async def test_27_credit_promised_to_two_payees_is_had_by_the_same_one_on_every_node(
    model, tmp_path
):
    """The payer's own program would refuse; this one writes both allotments all the same."""
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 3), (3, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            wallet = built.wallets[payer.public_key]
            payees = [local.node.identity.public_key for local in built.nodes]
            both = [allotment(payer, payee, PLENTY * 3 // 4) for payee in payees]
            wallet.log.append(*(each.seal(built.swarm_id, payer.key) for each in both))
            await built.cosigners.cosign(wallet.log)
            assert wallet.ready()

            with pytest.raises(NotFunded):
                await whole(client.generate(ask(built, max_tokens=8)))

        built.tell(wallet.log)
        kept = [built.books[payee].books() for payee in payees]
        assert kept[0].allotted.keys() == kept[1].allotted.keys()
        assert {each.payee for each in kept[0].allotted.values()} == {payees[0]}


@pytest.mark.slow  # a provider waits ten seconds for a voucher
async def test_32_a_client_that_stops_paying_costs_a_provider_a_window_and_no_claim_more(
    model, tmp_path
):
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            generation = client.generate(ask(built, max_tokens=64))
            tab_of = generation.session._settlement.tabs
            payments = generation.session._payments
            pay = payments.pay

            def stingy(peer: str, *, final: bool = False, now: bool = False) -> None:
                if not tab_of[peer].promised_ncr:
                    pay(peer, final=final, now=now)

            payments.pay = stingy  # type: ignore[method-assign]
            with pytest.raises(ManyhandsError):
                await whole(generation)
        (node,) = built.nodes
        books = built.books[node.node.identity.public_key]
        await built.stop(node)
        ((oid, allotted),) = books.books().allotted.items()
        (tab,) = closed(built, node.home)
        window = tab.terms.credit_window
        assert tab.offer.price(tab.statement.meter) <= tab.amount + window
        assert books.claimed(oid) == tab.amount == allotted.claimed
        assert built.escrows[node.node.identity.public_key].held(oid) == 0


async def test_33_a_provider_that_vanishes_has_no_more_than_was_promised_it(model, tmp_path):
    """Nothing is prepaid, so it cannot take more than the work the client saw is worth."""
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 6), (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            generation = client.generate(ask(built, max_tokens=64))
            n_seen, gone = 0, ""
            async with generation:
                async for event in generation:
                    if isinstance(event, Token):
                        n_seen += 1
                        if n_seen == 8:
                            gone = generation.session.rules.hops[0].peer
                            lost = next(n for n in built.nodes if n.node.identity.peer_id == gone)
                            assert lost.node._listener is not None
                            await lost.node._listener.aclose()
                    if isinstance(event, Finished):
                        result = event.result
        assert (len(result.token_ids), result.failovers) == (64, 1)
    tabs = closed(built, tmp_path / "client")
    seen = next(tab for tab in tabs if peer_id_from_public_key(tab.terms.payee) == gone)
    assert seen.terms.prepaid == 0
    assert seen.amount <= seen.offer.price(seen.statement.meter) if seen.statement else True


async def test_45_an_allotment_pays_for_no_more_than_it_is_good_for_whoever_asks_at_once(
    model, tmp_path
):
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            request = ask(built, max_tokens=8)
            answers = [whole(client.generate(request)) for _ in range(12)]
            results = await asyncio.gather(*answers)
        books = built.books[built.nodes[0].node.identity.public_key]
        allotted = books.books().allotted
        assert sum(result.cost_ncr for result in results) == sum(
            each.claimed for each in allotted.values()
        )
        assert all(each.claimed <= each.amount and not each.unfunded for each in allotted.values())


async def test_whoever_shows_an_allotment_of_another_is_refused(model, tmp_path):
    payer, thief = Identity(SigningKey.generate()), Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        async with built.client(identity=payer) as client:
            await whole(client.generate(ask(built, max_tokens=8)))
            rightful = built.wallets[payer.public_key]
            node = built.nodes[0].node.identity.public_key
            stolen = rightful.take(node, ISSUER.public_key, 1, built.policy.epoch_of(wall_ms()))
        assert stolen is not None
        async with built.client("thief", identity=thief) as client:

            async def stakes(wants: dict[bytes, int], asset: bytes) -> dict[bytes, Stake]:
                return dict.fromkeys(wants, stolen)

            assert client.purse is not None
            client.purse.stakes = stakes  # type: ignore[method-assign, assignment]
            with pytest.raises(PeerRefused, match="lets no other key pay"):
                await whole(client.generate(ask(built, max_tokens=8, wait_s=0.5)))
        books = built.books[node].books()
        (tab,) = closed(built, tmp_path / "client")
        assert sum(each.claimed for each in books.allotted.values()) == tab.amount


@pytest.mark.slow
async def test_an_heir_is_paid_from_an_allotment_of_its_own(model, tmp_path):
    payer = Identity(SigningKey.generate())
    spans = (0, 2), (2, 5), (5, 6), (2, 5)
    async with granted_swarm(model, tmp_path, *spans, rates=PRICED, drain_s=20.0) as built:
        await built.grant(payer.key, 10 * PLENTY)
        async with built.client(identity=payer) as client:
            generation = client.generate(ask(built, max_tokens=200))
            leaving, n_seen = None, 0
            async with generation:
                async for event in generation:
                    n_seen += isinstance(event, Token)
                    if n_seen == 4 and leaving is None:
                        middle = generation.session.rules.hops[1].peer
                        gone = next(n for n in built.nodes if n.node.identity.peer_id == middle)
                        leaving = asyncio.create_task(built.stop(gone))
                    if isinstance(event, Finished):
                        result = event.result
            assert leaving is not None
            await leaving
        assert (len(result.token_ids), result.handovers + result.failovers) == (200, 1)
    tabs = closed(built, tmp_path / "client")
    assert len(tabs) == 4
    assert len({tab.terms.allot_oid for tab in tabs}) == 4
    assert sum(tab.amount for tab in tabs) == result.cost_ncr


async def test_a_client_whose_home_was_put_back_signs_no_second_version_of_its_log(model, tmp_path):
    payer = Identity(SigningKey.generate())
    async with granted_swarm(model, tmp_path, (0, 6), rates=PRICED) as built:
        await built.grant(payer.key, PLENTY)
        (tmp_path / "client").mkdir()
        async with built.client(identity=payer) as client:
            await whole(client.generate(ask(built, max_tokens=8)))
        for path in (tmp_path / "client").iterdir():
            if path.name.startswith(("spend", "wallet")):
                path.unlink()
        async with built.client(identity=payer) as client:
            with pytest.raises(DamagedLedger, match="a witness signed 1 entries"):
                await whole(client.generate(ask(built, max_tokens=8)))


def allotment(payer: Identity, payee: bytes, amount: int) -> Allotment:
    return Allotment(
        payer=payer.public_key,
        asset=ISSUER.public_key,
        payee=payee,
        allot_no=0,
        amount=amount,
        expires_epoch=wall_ms() // 86_400_000 + 1,
    )

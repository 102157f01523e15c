"""What all open tabs of an allotment may claim never adds up to more than it is good for."""

from dataclasses import replace
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger, Rates, Usage, open_receipt
from ledger.escrow import Escrow, checkpoint_hash
from ledger.fold import TabClaim
from ledger.funding import Funded, SpendProof
from ledger.objects import Offer
from ledger.opening import most
from protocol.errors import IntegrityError, NotFunded
from tests.ledger.parties import PROVIDER, SWARM, closed_receipt, make_offer, open_tab, ran, settle
from tests.ledger.spenders import ANN, ASSET, BEN, allot
from tests.ledger.test_funding import EPOCH, Scene, scene

__all__ = ["Scene", "scene"]
FUNDS = {"asset": ASSET, "allot_oid": b"a" * 32, "checkpoint_hash": b"c" * 32}


class OneAllotment:
    """A purse that finds one allotment good for what tabs have not claimed of it so far."""

    def __init__(self, amount):
        self.amount, self.claimed, self.books = amount, {}, self

    def judge(self, proof, payer, epoch):
        left = self.amount - sum(self.claimed.values())
        return Funded(b"a" * 32, None, left, is_cosigned=True)

    def claim(self, tabs: list[TabClaim]):
        for tab in tabs:
            self.claimed[tab.session_id] = max(tab.amount, self.claimed.get(tab.session_id, 0))


PROOF = SpendProof(b"", (), "a/log\n1\n" + "A" * 43 + "=\n\n" + "— a/log " + "A" * 92 + "\n")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), max_size=40))
def test_holds_and_claims_together_never_pass_what_the_allotment_is_good_for(steps):
    purse = OneAllotment(100)
    escrow, tabs, promised = Escrow(purse), {}, 0

    for number, (what, amount) in enumerate(steps):
        if what == 0:
            try:
                tabs[number] = escrow.hold(PROOF, b"", 0, amount)
            except NotFunded:
                free = 100 - promised - sum(hold.amount for hold in tabs.values())
                assert amount > free
        elif what == 1 and tabs:
            hold = next(iter(tabs.values()))
            before = hold.amount
            assert escrow.raise_to(hold, amount) == (hold.amount >= amount)
            assert hold.amount >= before
        elif what == 2 and tabs:
            key, hold = tabs.popitem()
            used = min(amount, hold.amount)
            escrow.close(hold, key.to_bytes(16, "big"), used)
            promised += used
            assert not escrow.raise_to(hold, hold.amount)
        elif tabs:
            escrow.drop(tabs.popitem()[1])
        held = sum(hold.amount for hold in tabs.values())
        assert escrow.held(b"a" * 32) == held
        assert held + sum(purse.claimed.values()) <= 100


def test_whoever_comes_at_once_from_many_threads_gets_no_more_than_there_is():
    purse = OneAllotment(100)
    escrow, taken = Escrow(purse), []

    def serve(number):
        for turn in range(20):
            try:
                hold = escrow.hold(PROOF, b"", 0, 7)
            except NotFunded:
                continue
            taken.append(hold)
            escrow.close(hold, bytes([number, turn]) + bytes(14), 3)

    threads = [Thread(target=serve, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(purse.claimed.values()) == 3 * len(taken) <= 100
    assert len(taken) >= 31  # as many as fit: the last hold of 7 needs 7 to be left


def test_an_allotment_pays_for_as_many_sessions_as_it_has_room_for(scene):
    proof = scene.allots(allot(ANN, BEN, 60, expires_epoch=EPOCH))
    escrow = Escrow(scene.purse)

    first = escrow.hold(proof, ANN.public_key, EPOCH, 40)
    with pytest.raises(NotFunded, match="20 are left"):
        escrow.hold(proof, ANN.public_key, EPOCH, 21)
    escrow.close(first, b"1" * 16, 15)

    assert escrow.hold(proof, ANN.public_key, EPOCH, 45).checkpoint_hash == checkpoint_hash(
        scene.ann.checkpoint()
    )
    assert scene.known.claimed(first.oid) == 15


def test_45_a_tab_never_goes_beyond_its_part_of_the_allotment_window_or_not():
    payer, provider = open_tab(**FUNDS, credit_window=400)
    limit = payer.offer.price(ran(12).meter())
    payer, provider = open_tab(**FUNDS, credit_window=400, limit=lambda cost: cost <= limit)

    settle(payer, provider, ran(12).meter(), final=False)

    assert provider.promised == limit
    assert not provider.may_run(ran(13).meter())
    assert open_tab(**FUNDS, credit_window=400)[1].may_run(ran(13).meter())


def test_45_a_client_signs_no_more_than_it_set_aside_whatever_is_stated():
    payer, provider = open_tab(**FUNDS)
    limit = payer.offer.price(ran(12).meter())
    payer, provider = open_tab(**FUNDS, limit=lambda cost: cost <= limit)

    settle(payer, provider, ran(12).meter(), final=False)
    settle(payer, provider, ran(20).meter())

    assert payer.promised == provider.promised == limit
    assert open_receipt(provider.receipt(), SWARM).terms.allot_oid == FUNDS["allot_oid"]


def test_priced_terms_in_an_issuers_credit_cite_an_allotment_and_free_ones_need_none():
    with pytest.raises(IntegrityError, match="cite no allotment"):
        open_tab(asset=ASSET)
    open_tab(asset=ASSET, rates=Rates())


@pytest.mark.parametrize(
    "wrong",
    [
        {"allot_oid": b"a" * 32},
        {"payer_checkpoint_hash": b"c" * 32},
        {"allot_oid": b"a" * 32, "payer_checkpoint_hash": b"c" * 32, "asset": b""},
        {"allot_oid": b"short", "payer_checkpoint_hash": b"c" * 32},
    ],
)
def test_terms_that_cite_half_an_allotment_are_none(wrong):
    _, provider = open_tab(**FUNDS)
    with pytest.raises(IntegrityError):
        replace(provider.terms, **({"allot_oid": None, "payer_checkpoint_hash": None} | wrong))


def test_42_a_session_that_could_cost_more_than_an_amount_can_say_is_refused():
    offer = Offer.open(make_offer(rates=Rates(decode_tl=2**63 - 1)), SWARM, PROVIDER.public_key)

    with pytest.raises(IntegrityError, match="2\\^63"):
        most(offer, Usage.opened(80, 10**6, 60), 10, 10**6, 4)


def test_the_most_a_session_can_cost_is_what_it_costs_to_its_end():
    payer, _ = open_tab(**FUNDS)
    opened = Usage.opened(4, max_positions=2048, lease_s=60)
    cost = most(payer.offer, opened, 8, 20, 256)

    assert cost >= payer.offer.price(ran(20).meter())
    assert most(payer.offer, opened, 0, 20, 256) >= cost


def test_what_a_dead_process_left_unclaimed_is_claimed_at_the_next_start(scene, memory_path):
    """Its receipts say what tabs came to, whatever its memory held."""
    proof = scene.allots(allot(ANN, BEN, 60, expires_epoch=EPOCH))
    hold = Escrow(scene.purse).hold(proof, ANN.public_key, EPOCH, 10)
    funds = {"asset": ASSET, "allot_oid": hold.oid, "checkpoint_hash": hold.checkpoint_hash}
    funds["rates"] = Rates(prefill_tl=10**6)
    tabs = [
        closed_receipt(2, provider=BEN, client=ANN, nonce=bytes([n]) * 16, **funds)
        for n in range(3)
    ]
    with Ledger.open(memory_path / "receipts", BEN, SWARM) as ledger:
        ledger.append_all(tabs[:2])
        ledger.save_tab(tabs[2])  # and dies

    for _ in range(2):
        with Ledger.open(memory_path / "receipts", BEN, SWARM) as ledger:
            Escrow(scene.purse).recover(ledger)

    cost = sum(open_receipt(tab, SWARM).amount for tab in tabs)
    assert scene.known.claimed(hold.oid) == cost == 24
    assert scene.known.claimed_upto() == 3
    with pytest.raises(NotFunded):
        Escrow(scene.purse).hold(proof, ANN.public_key, EPOCH, 60 - cost + 1)

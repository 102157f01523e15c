"""A payer's wallet: what it sets aside, for whom, and how much of it is promised already."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.escrow import Escrow
from ledger.funding import Purse, SpendProof
from ledger.owners import Owner
from ledger.spend_books import SpendBooks
from ledger.wallet import AHEAD_EPOCHS, BELIEVED, Wallet
from protocol.errors import NotFunded, UsageError
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
from tests.ledger.test_funding import EPOCH, POLICY
from tests.ledger.test_spend_books import signed
from tests.ledger.test_spend_log import ask

__all__ = ["WITNESSES"]
TO_BEN, TO_CY = BEN.public_key, CY.public_key


def granted(wallet, amount):
    leaves = [leaf.encode() for leaf in chained(grant(ANN, amount))]
    note = signed(ISSUER.public_key, leaves, (0, 1, 2))
    wallet.books.learn(ISSUER.public_key, note, leaves)


@pytest.fixture
def wallet(memory_path):
    with Wallet.open(memory_path / "ann", ANN, SWARM, POLICY) as opened:
        granted(opened, 1000)
        yield opened


def test_what_is_needed_is_set_aside_a_few_times_and_half_of_the_rest_stays(wallet, books):
    wallet.make({TO_BEN: 20, TO_CY: 30}, ASSET, EPOCH)

    assert [each.amount for _, each in wallet.made()] == [80, 120]
    assert {each.expires_epoch for _, each in wallet.made()} == {EPOCH + AHEAD_EPOCHS}
    assert wallet.available(ASSET) == 800
    wallet.make({TO_BEN: 700}, ASSET, EPOCH)
    assert wallet.available(ASSET) == 50  # of a hundred that it did not need


def test_more_than_there_is_is_not_set_aside_and_nothing_is_logged(wallet):
    with pytest.raises(NotFunded, match="1000 of credit") as caught:
        wallet.make({TO_BEN: 600, TO_CY: 401}, ASSET, EPOCH)

    assert "manyhands ledger grant 12D3Koo" in caught.value.hint
    assert not wallet.made()


def test_nothing_is_taken_of_an_allotment_before_a_quorum_signed_it(wallet, books):
    wallet.make({TO_BEN: 10}, ASSET, EPOCH)
    assert not wallet.ready()
    assert wallet.take(TO_BEN, ASSET, 10, EPOCH) is None

    ask(wallet.log, books)

    assert wallet.ready()
    stake = wallet.take(TO_BEN, ASSET, 10, EPOCH)
    assert SpendProof.decode(stake.proof).leaf == wallet.log.leaves()[0]
    assert wallet.take(TO_CY, ASSET, 1, EPOCH) is None
    assert wallet.take(TO_BEN, ASSET, 1, EPOCH + AHEAD_EPOCHS + 1) is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=25))
def test_stakes_and_what_was_promised_never_pass_the_allotment(tmp_path_factory, steps):
    home = tmp_path_factory.mktemp("wallet")
    with Wallet.open(home, ANN, SWARM, POLICY) as wallet:
        granted(wallet, 40)
        wallet.log.append(allot(ANN, BEN, 40, expires_epoch=EPOCH))
        leaves = wallet.log.leaves()
        note = signed(ANN.public_key, leaves, (0, 1, 2))
        (oid,) = (oid for oid, _ in wallet.made())
        proof = SpendProof(leaves[0], (), note).encode()
        wallet.ready()
        wallet._store.execute("UPDATE allot SET proof = ?", (proof,))
        open_, promised = [], 0
        for takes, amount in steps:
            if takes:
                stake = wallet.take(TO_BEN, ASSET, amount, EPOCH)
                fits = promised + sum(each.amount for each in open_) + amount <= 40
                assert (stake is not None) == fits
                open_ += [stake] if stake else []
            elif open_:
                stake = open_.pop()
                used = min(amount, stake.amount)
                wallet.settle(stake, used)
                wallet.settle(stake, used)  # twice counts once
                promised += used
        assert all(each.oid == oid for each in open_)


def test_stakes_of_a_process_that_died_count_as_promised(wallet, books, memory_path):
    wallet.make({TO_BEN: 10}, ASSET, EPOCH, least=40)
    ask(wallet.log, books)
    wallet.ready()
    dead = Owner(wallet.log.directory)  # whose lock nobody holds
    wallet._store.execute(
        "INSERT INTO stake SELECT ?, oid, 30, ? FROM allot", (bytes(16), dead.name)
    )
    assert wallet.take(TO_BEN, ASSET, 11, EPOCH) is None

    with Wallet.open(wallet.log.directory, ANN, SWARM, POLICY) as again:
        assert again.take(TO_BEN, ASSET, 11, EPOCH) is None
        assert again.take(TO_BEN, ASSET, 10, EPOCH) is not None
        # and what this one holds is nobody's to give up
        with Wallet.open(wallet.log.directory, ANN, SWARM, POLICY) as third:
            assert third.take(TO_BEN, ASSET, 1, EPOCH) is None


def test_an_entry_beyond_the_credit_holds_up_all_that_follow(wallet, books):
    wallet.log.append(allot(ANN, BEN, 2000, expires_epoch=EPOCH))
    ask(wallet.log, books)
    wallet.ready()

    assert wallet.available(ASSET) == 0
    with pytest.raises(NotFunded):
        wallet.make({TO_CY: 1}, ASSET, EPOCH)


def test_a_payee_that_knows_nothing_is_shown_the_log_up_to_the_proof(wallet, books, memory_path):
    wallet.make({TO_BEN: 10}, ASSET, EPOCH)
    ask(wallet.log, books)
    wallet.ready()
    stake = wallet.take(TO_BEN, ASSET, 10, EPOCH)
    wallet.log.append(allot(ANN, CY, 5, expires_epoch=EPOCH))  # later, and signed by nobody

    with SpendBooks.open(memory_path / "ben", SWARM, POLICY.quorum()) as known:
        escrow = Escrow(Purse(TO_BEN, POLICY, known))
        leaves = [leaf.encode() for leaf in chained(grant(ANN, 1000))]
        known.learn(ISSUER.public_key, signed(ISSUER.public_key, leaves, (0, 1, 2)), leaves)
        proof = SpendProof.decode(stake.proof)
        escrow.learn(ANN.public_key, proof, wallet.leaves_for(stake, 0), 0)
        assert escrow.hold(proof, ANN.public_key, EPOCH, 10).oid == stake.oid
    with pytest.raises(UsageError):
        wallet.leaves_for(stake, 1)


def test_a_payee_that_says_all_is_used_up_is_believed_twice_and_strands_no_more(wallet, books):
    for n in range(BELIEVED + 1):
        wallet.make({TO_BEN: 10}, ASSET, EPOCH)
        ask(wallet.log, books)
        assert wallet.ready()
        stake = wallet.take(TO_BEN, ASSET, 10, EPOCH)
        assert stake is not None

        assert wallet.used_up(stake) is (n < BELIEVED)

    assert wallet.take(TO_BEN, ASSET, 10, EPOCH) is not None  # what was not written off pays


def test_what_a_command_logs_while_a_wallet_looks_is_read_the_next_time(wallet, monkeypatch):
    wallet.make({TO_BEN: 10}, ASSET, EPOCH)
    leaves, late = wallet.log.leaves, allot(ANN, CY, 5, no=7)

    def before_another(*args):
        seen = leaves(*args)
        monkeypatch.undo()
        wallet.log.append(late)
        return seen

    monkeypatch.setattr(wallet.log, "leaves", before_another)
    with wallet._store.transaction():
        wallet._read_log()
    with wallet._store.transaction():
        wallet._read_log()

    rows = wallet._store.execute("SELECT payee FROM allot ORDER BY amount")
    assert [payee for (payee,) in rows] == [TO_CY, TO_BEN]

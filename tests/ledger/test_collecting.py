"""A payer that settles nothing pays all the same: its vouchers are its signature."""

import pytest

from ledger.chain import read_chain
from ledger.collecting import collections, open_collection
from ledger.errors import BadObject
from ledger.fold import TabClaim, fold
from ledger.receipts import Receipt, open_receipt
from ledger.spending import MAX_COLLECTED, Collection
from protocol.errors import IntegrityError
from protocol.signing import Envelope
from tests.ledger.logs import branch
from tests.ledger.parties import PROVIDER, closed_receipt
from tests.ledger.spenders import (
    ANN,
    ASSET,
    BEN,
    CY,
    ISSUER,
    SWARM,
    allot,
    chained,
    collect,
    credit_note,
    deposit,
    grant,
    promise,
    release,
    settle,
)

WHOLE = allot(ANN, BEN, 100)
OID = WHOLE.object_id(SWARM)
GRANTED = [branch(ISSUER, grant(ANN, 150)), branch(ANN, WHOLE)]


def left(books, who):
    return books.available.get((who.public_key, ASSET), 0)


def after(*entries, tabs=()):
    """What Ben has, and what became of the allotment, once he logged these."""
    books = fold([*GRANTED, branch(BEN, *entries)], SWARM, tabs)
    return left(books, BEN), books.allotted[OID]


def test_46_who_is_refused_a_settlement_collects_what_was_promised():
    earned, made = after(
        collect(BEN, promise(ANN, BEN, OID, 30), promise(ANN, BEN, OID, 25, tab=2))
    )

    assert (earned, made.deposited, made.held, made.unfunded) == (55, 55, 45, 0)


def test_46_what_is_collected_twice_or_settled_too_counts_once():
    two = (promise(ANN, BEN, OID, 30), promise(ANN, BEN, OID, 25, tab=2))
    settled = settle(ANN, BEN, (OID, 30))

    assert after(collect(BEN, *two), collect(BEN, two[0]))[0] == 55
    assert after(settled, deposit(BEN, settled, 30), collect(BEN, two[0]))[0] == 30
    assert after(settled, deposit(BEN, settled, 30), collect(BEN, *two))[0] == 55
    assert after(collect(BEN, two[1]), settled, deposit(BEN, settled, 5))[0] == 30


def test_25_of_several_vouchers_of_a_tab_the_highest_counts():
    older, newer = promise(ANN, BEN, OID, 30), promise(ANN, BEN, OID, 40, seq=1)

    assert after(collect(BEN, older), collect(BEN, newer), collect(BEN, older, older))[0] == 40


def test_45_what_is_collected_beyond_the_allotment_is_unfunded():
    earned, made = after(collect(BEN, promise(ANN, BEN, OID, 130)))

    assert (earned, made.deposited, made.unfunded) == (100, 100, 30)


def test_what_was_credited_or_given_back_is_not_collected():
    noted = credit_note(BEN, bytes([1]) * 16, 12)

    assert after(noted, collect(BEN, promise(ANN, BEN, OID, 30)))[0] == 18
    assert after(release(BEN, WHOLE, 20), collect(BEN, promise(ANN, BEN, OID, 30)))[0] == 20


def test_what_was_credited_after_it_was_collected_is_taken_off_what_is_collected_next():
    """As in settlements: 100 and 50 less 30 credited are 120. A tab that is not shown stands."""
    one, two = promise(ANN, BEN, OID, 60), promise(ANN, BEN, OID, 30, tab=2)
    noted = credit_note(BEN, bytes([1]) * 16, 20)

    assert after(collect(BEN, one), noted, collect(BEN, one, two))[0] == 70
    assert after(noted, collect(BEN, one), collect(BEN, two))[0] == 70
    assert after(collect(BEN, one), noted, collect(BEN, one))[0] == 60
    assert after(collect(BEN, one), noted, collect(BEN, two))[0] == 90
    lower = promise(ANN, BEN, OID, 10)
    assert after(collect(BEN, one), noted, collect(BEN, lower, two))[0] == 70


def test_collected_claims_are_not_added_to_those_of_the_same_tabs():
    tabs = [TabClaim(bytes([1]) * 16, OID, 30)]

    assert after(collect(BEN, promise(ANN, BEN, OID, 30)), tabs=tabs)[1].claimed == 30


def test_39_what_others_promise_of_an_allotment_takes_nothing_from_it():
    """Cy signs vouchers on Ann's allotment; she signed a tenth of that."""
    bogus = (promise(CY, BEN, OID, 90), promise(ANN, BEN, OID, 90, tab=3, asset=CY.public_key))

    assert after(collect(BEN, *bogus))[0] == 0
    assert after(collect(BEN, promise(ANN, BEN, OID, 9, tab=2), *bogus))[0] == 9
    assert after(collect(BEN, *bogus), collect(BEN, promise(ANN, BEN, OID, 9, tab=2)))[0] == 0


@pytest.mark.parametrize(
    "broken",
    [
        collect(BEN, promise(ANN, CY, OID, 9)),  # promised to somebody else
        collect(BEN, promise(ANN, BEN, None, 9)),  # of no allotment
        collect(BEN, (promise(ANN, BEN, OID, 9)[0], promise(ANN, BEN, OID, 9, tab=2)[1])),
        collect(BEN, (promise(ANN, BEN, OID, 9)[0], promise(CY, BEN, OID, 9)[1])),
        collect(BEN, (b"junk", b"junk")),
    ],
    ids=["another payee", "no allotment", "another tab", "another signer", "junk"],
)
def test_24_what_does_not_hold_ends_the_log(broken):
    assert len(read_chain(BEN.public_key, chained(broken), SWARM)) == 0


def test_46_receipts_of_real_tabs_are_collected_in_as_many_entries_as_they_need():
    receipt = closed_receipt(20, asset=ASSET, allot_oid=OID, checkpoint_hash=bytes(32))
    tab = open_receipt(receipt, SWARM)

    (one,) = collections([receipt, Receipt(offer=receipt.offer, terms=receipt.terms)])
    (promised,) = open_collection(one, PROVIDER.public_key, SWARM)

    assert (promised.amount, promised.allot_oid) == (tab.amount, OID)
    many = collections([receipt] * (2 * MAX_COLLECTED))
    assert sum(len(each.promises) for each in many) == 2 * MAX_COLLECTED
    for each in many:
        chained(each.seal(SWARM, PROVIDER))[0].encode()  # fits a leaf


def test_a_collection_holds_promises_and_not_too_many():
    for promises in ((), ((b"", b""),) * (MAX_COLLECTED + 1), ((b"", 1),)):
        with pytest.raises(BadObject):
            Collection(promises=promises)
    envelope = collect(BEN, promise(ANN, BEN, OID, 30))
    forged = Envelope(envelope.type, b"\x82\x01\x81\x41\x00", envelope.signatures)
    with pytest.raises(IntegrityError):
        Collection.open(forged, SWARM, BEN.public_key)

"""What others tell of settlements and faults is asked for, bounded, and has to hold."""

import pytest

from ledger.errors import BadObject
from ledger.findings import Findings
from ledger.fold import Allotted
from ledger.policy import GRANTED
from ledger.settled import SettledBook
from ledger.told_objects import (
    FAULTS,
    MAX_OF_A_PAIR,
    SETTLEMENTS,
    KeptFaults,
    KeptSettlements,
    ToldObjects,
    ask_compare,
    ask_objects,
)
from protocol.errors import IntegrityError
from protocol.signing import Envelope
from tests.ledger.spenders import ANN, ASSET, BEN, CY, DOT, SWARM, settle
from tests.ledger.test_epochs import POLICY

NOW, OID, OTHER = 20, bytes(32), b"o" * 32
FUNDED = {
    oid: Allotted(payer=payer.public_key, payee=BEN.public_key, asset=ASSET, amount=100)
    for oid, payer in ((OID, ANN), (OTHER, CY))
}


@pytest.fixture
def keep(tmp_path):
    """Makes a place for objects."""
    opened = []

    def make(name):
        book = SettledBook.open(tmp_path / name, SWARM)
        opened.append(book)
        found = Findings.open(tmp_path / name, SWARM)
        kinds = {
            SETTLEMENTS: KeptSettlements(book, POLICY, FUNDED.get, lambda: NOW, DOT.public_key),
            FAULTS: KeptFaults(found),
        }
        return ToldObjects(kinds, SWARM)

    assert POLICY.mode == GRANTED
    yield make
    for each in opened:
        each.close()


def test_only_what_was_asked_for_and_holds_is_kept(keep):
    here, there = keep("a"), keep("b")
    one, other = settle(ANN, BEN, (OID, 5)), settle(CY, BEN, (OTHER, 6))
    for each in (one, other):
        assert there.kinds[SETTLEMENTS].take(each)
    ids = [each.object_id(SWARM) for each in (one, other)]
    told = there.tell(ask_objects(SETTLEMENTS, ids))

    with pytest.raises(BadObject, match="not asked for"):
        here.take(SETTLEMENTS, ids[:1], told)
    with pytest.raises(BadObject, match="before they are whole"):
        here.take(SETTLEMENTS, ids, told[:-1])
    forged = Envelope(one.type, one.payload, ((ANN.public_key, bytes(64)), one.signatures[1]))
    data = forged.encode()
    with pytest.raises(IntegrityError):
        here.take(SETTLEMENTS, ids, len(data).to_bytes(4, "big") + data)

    assert here.take(SETTLEMENTS, ids, told) == 2
    assert here.kinds[SETTLEMENTS].ids().keys == there.kinds[SETTLEMENTS].ids().keys


def test_what_no_credit_stands_behind_is_passed_over(keep):
    kept = keep("a").kinds[SETTLEMENTS]

    assert not kept.take(settle(ANN, BEN, (OID, 5), asset=BEN.public_key))
    assert not kept.take(settle(ANN, CY, (OID, 5)))  # which was made to another
    assert not kept.take(settle(ANN, BEN, (OID, 5), (b"made up".ljust(32), 5)))
    assert not kept.take(settle(ANN, BEN, (OTHER, 5)))
    for epoch in (NOW, 10**15):
        assert not kept.take(settle(ANN, BEN, (OID, 5), epoch=epoch))
    assert kept.take(settle(ANN, BEN, (OID, 5), epoch=NOW - 1))


def test_settlements_of_long_ago_are_neither_taken_nor_told(keep):
    there = keep("a").kinds[SETTLEMENTS]
    assert there.take(settle(ANN, BEN, (OID, 5), epoch=3))
    late = KeptSettlements(there._book, POLICY, FUNDED.get, lambda: 99, DOT.public_key)

    assert not late.take(settle(ANN, BEN, (OID, 6), epoch=4))
    assert (len(late.ids()), len(there.ids())) == (0, 1)


def test_20_of_too_many_settlements_of_a_pair_all_nodes_keep_the_same(keep):
    made = [settle(ANN, BEN, (OID, n)) for n in range(1, MAX_OF_A_PAIR + 9)]
    one, two = keep("a").kinds[SETTLEMENTS], keep("b").kinds[SETTLEMENTS]

    for kept, told in ((one, made), (two, reversed(made))):
        for each in told:
            kept.take(each)
            assert len(kept.ids()) <= MAX_OF_A_PAIR

    assert one.ids().keys == two.ids().keys
    assert len(one.ids()) == MAX_OF_A_PAIR


def test_what_one_does_not_want_keeps_nothing_else_from_being_found(keep):
    """Another node knows of credit that we do not know of; we look at few objects at a time."""
    here, there = keep("a"), keep("b")
    more = KeptSettlements(
        there.kinds[SETTLEMENTS]._book, POLICY, lambda oid: FUNDED[OID], lambda: NOW, b""
    )
    for n in range(8):
        assert more.take(settle(ANN, BEN, (bytes([n, 1]) * 16, 1), epoch=n // 4))
    wanted = settle(ANN, BEN, (OID, 5), epoch=9)
    assert more.take(wanted)

    def heard():
        asker = here.asker(SETTLEMENTS, 4)
        while not asker.is_over:
            asker.take(there.compare(ask_compare(SETTLEMENTS, asker.message())))
        lacking = sorted(oid for _, oid in asker.lacking)
        return here.take(SETTLEMENTS, lacking, there.tell(ask_objects(SETTLEMENTS, lacking)))

    assert sum(heard() for _ in range(3)) == 1
    assert here.kinds[SETTLEMENTS].get(wanted.object_id(SWARM)) == wanted


def test_a_settlement_is_no_fault(keep):
    with pytest.raises(IntegrityError):
        keep("a").kinds[FAULTS].take(settle(ANN, BEN, (OID, 5)))

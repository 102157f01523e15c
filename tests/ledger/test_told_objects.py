"""What others tell of settlements and faults is asked for, bounded, and has to hold."""

import pytest

from ledger.errors import BadObject
from ledger.findings import Findings
from ledger.policy import GRANTED
from ledger.settled import SettledBook
from ledger.told_objects import (
    FAULTS,
    MAX_OF_A_PAIR,
    SETTLEMENTS,
    KeptFaults,
    KeptSettlements,
    ToldObjects,
    ask_objects,
)
from protocol.errors import IntegrityError
from protocol.signing import Envelope
from tests.ledger.spenders import ANN, ASSET, BEN, CY, SWARM, settle
from tests.ledger.test_epochs import POLICY

OID = bytes(32)


@pytest.fixture
def keep(tmp_path):
    """Makes a place for objects."""
    opened = []

    def make(name):
        book = SettledBook.open(tmp_path / name, SWARM)
        opened.append(book)
        found = Findings.open(tmp_path / name, SWARM)
        kinds = {
            SETTLEMENTS: KeptSettlements(book, POLICY, lambda who: who != CY.public_key),
            FAULTS: KeptFaults(found),
        }
        return ToldObjects(kinds, SWARM)

    assert POLICY.mode == GRANTED
    yield make
    for each in opened:
        each.close()


def test_only_what_was_asked_for_and_holds_is_kept(keep):
    here, there = keep("a"), keep("b")
    one, other = settle(ANN, BEN, (OID, 5)), settle(CY, BEN, (OID, 6))
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


def test_foreign_assets_strangers_and_more_than_a_pair_can_need_are_passed_over(keep):
    kept = keep("a").kinds[SETTLEMENTS]

    assert not kept.take(settle(ANN, BEN, (OID, 5), asset=BEN.public_key))
    assert not kept.take(settle(ANN, CY, (OID, 5)))  # who has no spend log
    taken = [kept.take(settle(ANN, BEN, (OID, n))) for n in range(1, MAX_OF_A_PAIR + 3)]

    assert (taken.count(True), taken[-1]) == (MAX_OF_A_PAIR, False)
    assert kept.take(settle(ANN, BEN, (OID, 5), epoch=8, asset=ASSET))


def test_a_settlement_is_no_fault(keep):
    with pytest.raises(IntegrityError):
        keep("a").kinds[FAULTS].take(settle(ANN, BEN, (OID, 5)))

"""What moves credit: one spelling each, signed by whom it binds, and never beyond 2^63."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import BadObject
from ledger.spend_leaf import MAX_LEAF_BYTES, NO_LEAF, SpendLeaf
from ledger.spending import Allotment, Fault, Grant, Settlement, open_spending
from protocol.canonical import MAX_BYTES, NotCanonical, decode, encode
from protocol.errors import IntegrityError
from protocol.signing import Envelope, seal
from tests.ledger.spenders import (
    ANN,
    ASSET,
    BEN,
    CY,
    ISSUER,
    SWARM,
    allot,
    chained,
    credit_note,
    deposit,
    grant,
    release,
    settle,
)

ALLOTTED = allot(ANN, BEN, 100)
SETTLED = settle(ANN, BEN, (ALLOTTED.object_id(SWARM), 40))
ENTRIES = {  # whose log each is an entry of
    "grant": (ISSUER, grant(ANN, 500)),
    "allot": (ANN, ALLOTTED),
    "settle": (BEN, SETTLED),
    "deposit": (BEN, deposit(BEN, SETTLED, 40)),
    "release": (BEN, release(BEN, ALLOTTED, 40)),
    "creditnote": (BEN, credit_note(BEN, bytes(16), 3)),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_12_an_entry_reads_as_what_was_signed(name):
    owner, envelope = ENTRIES[name]

    read = open_spending(Envelope.decode(envelope.encode()), owner.public_key, SWARM)

    assert read is not None
    assert encode(read.to_fields()) == envelope.payload


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(ENTRIES)), st.data())
def test_12_every_changed_byte_of_an_entry_is_found(name, data):
    owner, envelope = ENTRIES[name]
    bytes_ = bytearray(envelope.encode())
    bytes_[data.draw(st.integers(0, len(bytes_) - 1))] ^= data.draw(st.integers(1, 255))

    try:
        read = open_spending(Envelope.decode(bytes(bytes_)), owner.public_key, SWARM)
    except IntegrityError:
        return
    assert read is None  # another type's name: nothing that moves credit


@pytest.mark.parametrize("name", ENTRIES)
def test_24_an_entry_of_another_swarm_or_type_is_refused(name):
    owner, envelope = ENTRIES[name]

    with pytest.raises(IntegrityError):
        open_spending(envelope, owner.public_key, bytes(32))
    for other, (_, lent) in ENTRIES.items():
        if other != name:
            with pytest.raises(IntegrityError):
                open_spending(
                    Envelope(lent.type, envelope.payload, envelope.signatures),
                    owner.public_key,
                    SWARM,
                )


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_in_a_strangers_log_is_refused(name):
    with pytest.raises(IntegrityError):
        open_spending(ENTRIES[name][1], CY.public_key, SWARM)


def test_an_entry_that_speaks_for_another_account_is_refused():
    forged = Allotment(
        payer=CY.public_key,
        asset=ASSET,
        payee=BEN.public_key,
        allot_no=0,
        amount=1,
        expires_epoch=1,
    )
    minted = Grant(
        issuer=ISSUER.public_key, account=ANN.public_key, asset=ASSET, grant_no=0, amount=1
    )

    for lie in (forged, minted):
        with pytest.raises(IntegrityError, match="another account"):
            open_spending(lie.seal(SWARM, ANN), ANN.public_key, SWARM)


def test_a_settlement_binds_nobody_who_did_not_sign_it():
    settled = Settlement.from_fields(decode(SETTLED.payload))

    for signers in ((ANN,), (BEN,), (BEN, CY), (ANN, BEN, CY)):
        with pytest.raises(IntegrityError):
            open_spending(settled.seal(SWARM, *signers), BEN.public_key, SWARM)


@pytest.mark.parametrize("amount", [2**63, 2**64 + 5, -1, 0, 1.0, True, None])
def test_42_an_amount_out_of_range_has_no_object_and_no_bytes(amount):
    for name in ("grant", "allot", "deposit", "creditnote"):
        owner, envelope = ENTRIES[name]
        read = open_spending(envelope, owner.public_key, SWARM)
        field = "amount_cum" if name == "creditnote" else "amount"

        with pytest.raises(BadObject):
            dataclasses.replace(read, **{field: amount})


def test_42_a_claim_out_of_range_is_refused():
    for cumulative in (2**63, 0, -1, None):
        with pytest.raises((BadObject, TypeError)):
            settle(ANN, BEN, (ALLOTTED.object_id(SWARM), cumulative))


def test_a_settlement_names_each_allotment_once_in_order():
    settled = Settlement.from_fields(decode(SETTLED.payload))
    one, two = (b"1" * 32, 1), (b"2" * 32, 1)

    dataclasses.replace(settled, claims=(one, two))
    for claims in ((two, one), (one, one), (), tuple((bytes([i]) * 32, 1) for i in range(256)) * 2):
        with pytest.raises(BadObject):
            dataclasses.replace(settled, claims=claims)


def test_an_object_of_another_kind_is_an_entry_that_moves_nothing():
    note = seal("mh/keyevent/1", SWARM, (1, b"whatever"), ANN)

    assert open_spending(note, ANN.public_key, SWARM) is None


def test_a_leaf_reads_as_it_was_written_and_names_the_one_before():
    leaves = chained(*(envelope for _, envelope in ENTRIES.values()))

    for index, leaf in enumerate(leaves):
        assert SpendLeaf.decode(leaf.encode()) == leaf
        assert leaf.previous == (leaves[index - 1].hash() if index else NO_LEAF)


def test_a_leaf_of_another_form_is_refused():
    envelope = ALLOTTED.encode()
    for fields in (
        (2, 0, NO_LEAF, envelope),
        (True, 0, NO_LEAF, envelope),
        (1, 0, b"1" * 32, envelope),  # the first follows nothing
        (1, 1, NO_LEAF, envelope),  # the second follows the first
        (1, 0, b"", envelope),
        (1, 0, NO_LEAF, b""),
        (1, 0, NO_LEAF),
    ):
        with pytest.raises(IntegrityError):
            SpendLeaf.decode(encode(fields))


def test_a_leaf_that_no_bundle_could_hold_is_refused():
    big = seal("mh/other/1", SWARM, (1, bytes(MAX_LEAF_BYTES - 100)), ANN)

    with pytest.raises((BadObject, NotCanonical)):
        chained(big)[0].encode()
    with pytest.raises(IntegrityError):
        SpendLeaf.decode(bytes(MAX_BYTES))


def test_a_fault_says_who_and_shows_why():
    fault = Fault(kind="fork", accused=ANN.public_key, evidence=(b"one", b"two"))

    assert Fault.open(fault.seal(SWARM, BEN), SWARM, BEN.public_key) == fault
    for evidence in ((), ("text",), (b"piece",) * 9):
        with pytest.raises(BadObject):
            dataclasses.replace(fault, evidence=evidence)


def test_no_two_kinds_of_object_share_a_type():
    """A signature says its type: two kinds of one name could pass for each other."""
    defined = [
        name
        for room in ("protocol", "ledger", "node", "scheduler", "manyhands")
        for path in Path(__file__).parents[2].joinpath(room).rglob("*.py")
        for name in re.findall(r'^\s*\w+(?:: [\w\[\]]+)? = "(mh/[^"]+)"$', path.read_text(), re.M)
    ]

    assert "mh/giveback/1" in defined
    assert len(defined) == len(set(defined)), sorted(defined)

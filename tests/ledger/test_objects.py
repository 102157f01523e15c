"""Signed objects: what survives, what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Meter, Offer, Route, Statement, Terms, Voucher, tab_id
from ledger.errors import BadObject
from ledger.fields import check_text
from ledger.policy import OPEN_POLICY, Policy
from protocol.canonical import MAX_UINT, decode, encode
from protocol.errors import IntegrityError
from protocol.signing import OPEN_SWARM_ID, Envelope, object_id
from tests.ledger.parties import CLIENT, NOW_MS, PROVIDER, SWARM, closed_receipt, make_offer

uints = st.integers(0, MAX_UINT)
ids = st.binary(min_size=32, max_size=32)
meters = st.lists(uints, min_size=7, max_size=7).map(lambda values: Meter(*values))
vouchers = st.builds(
    Voucher,
    session_id=st.binary(min_size=16, max_size=16),
    terms_oid=ids,
    seq=uints,
    meter=meters,
    amount=uints,
    statement_oid=ids,
    issued_ms=uints,
    final=st.booleans(),
)
statements = st.builds(
    Statement,
    session_id=st.binary(min_size=16, max_size=16),
    terms_oid=ids,
    seq=uints,
    epoch=uints,
    last_step=uints,
    meter=meters,
    in_root=ids,
    out_root=ids,
    voucher_oid_held=st.none() | ids,
    issued_ms=uints,
)


@settings(deadline=None)
@given(vouchers | statements)
def test_an_object_survives_being_signed_and_read(thing):
    envelope = thing.seal(SWARM, CLIENT)

    assert type(thing).open(envelope, SWARM, CLIENT.public_key) == thing


@settings(deadline=None)
@given(st.data())
def test_every_changed_byte_of_a_signed_object_is_found(data):
    encoded = bytearray(closed_receipt().voucher.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(IntegrityError):
        Voucher.open(Envelope.decode(bytes(encoded)), SWARM, CLIENT.public_key)


ROUTE = Route(session=bytes(16), epoch=0, hops=((bytes(32), 0, 4), (bytes(32), 4, 5)))


def test_a_route_survives_being_signed_and_read():
    assert Route.open(ROUTE.seal(SWARM, CLIENT), SWARM, CLIENT.public_key) == ROUTE


@pytest.mark.parametrize(
    "hops",
    [
        (),
        ((bytes(32), 4, 4),),
        ((bytes(32), -1, 4),),
        ((bytes(32), True, 4),),
        ((bytes(32), 0, 4), (bytes(32), 5, 6)),
        ((bytes(32), 0, 4), (bytes(32), 3, 6)),
        ((bytes(32), 0, 0),),
        ((bytes(31), 0, 4),),
        ((bytes(32), 0, True),),
        ((bytes(32), 0, 4.0),),
        ((bytes(32), 0),),
        [(bytes(32), 0, 4)],
    ],
)
def test_a_route_covers_every_block_once(hops):
    with pytest.raises((BadObject, ValueError)):
        Route(session=bytes(16), epoch=0, hops=hops)


def test_a_stranger_cannot_send_a_route_that_could_not_be_made():
    for hops in ([], [1], [[bytes(32), 0]], [[bytes(32), 0, 1, 2]], [[bytes(32), 2, 2]], "x", None):
        with pytest.raises(BadObject):
            Route.from_fields([1, bytes(16), 0, hops])


@pytest.mark.parametrize(
    "change",
    [
        {"layer_hi": 0},
        {"min_charge": 1},
        {"expires_ms": 0},
        {"provider": bytes(31)},
        {"manifest": "x" * 32},
        {"max_ctx": -1},
        {"max_ctx": True},
        {"exec_profile": "x" * 200},
        {"exec_profile": b"float32"},
        {"rates": Meter()},
        {"asset": b"gold"},
        {"credit_window": MAX_UINT + 1},
    ],
    ids=repr,
)
def test_an_offer_that_makes_no_sense_does_not_exist(change):
    offer = Offer.open(make_offer(), SWARM, PROVIDER.public_key)
    values = {name: getattr(offer, name) for name in Offer.__slots__}

    with pytest.raises(BadObject):
        Offer(**values | change)


@pytest.mark.parametrize("name", ["sample_commit", "prev_hop_key"])
def test_reserved_fields_stay_empty(name):
    terms = Terms.from_fields(decode(closed_receipt().terms.payload))
    values = {field: getattr(terms, field) for field in Terms.__slots__}

    with pytest.raises(BadObject, match="reserved"):
        Terms(**values | {name: bytes(32)})


def test_an_object_of_another_version_or_length_is_refused():
    fields = decode(closed_receipt().voucher.payload)

    for changed in ([2, *fields[1:]], [True, *fields[1:]], fields[:-1], [*fields, None], []):
        with pytest.raises(BadObject, match="not the fields"):
            Voucher.from_fields(changed)


def test_neither_side_alone_decides_the_name_of_a_tab():
    parts = (b"c" * 16, b"p" * 16, CLIENT.public_key, PROVIDER.public_key, bytes(32))
    names = {tab_id(*parts)}
    for i, part in enumerate(parts):
        names.add(tab_id(*parts[:i], bytes([part[0] ^ 1]) + part[1:], *parts[i + 1 :]))

    assert len(names) == 6


def test_the_policy_of_the_open_swarm_is_what_its_id_commits_to():
    payload = encode(OPEN_POLICY.to_fields())

    assert object_id(Policy.TYPE, bytes(32), payload) == OPEN_SWARM_ID
    assert OPEN_POLICY.epoch_of(NOW_MS) == NOW_MS // 86_400_000


@pytest.mark.parametrize("text", ["float32\x00", "a\nb", "\x1b[2J", "\x9b", "\u202egnp.exe"])
def test_text_that_would_command_a_terminal_or_stop_a_database_is_no_text(text):
    with pytest.raises(BadObject, match="control characters"):
        check_text(text)
    check_text("Größe 4 µm, 模型, 🦙")

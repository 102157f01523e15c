"""Errors that cross the wire keep their class, and junk never becomes a crash."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import (
    ChainBroken,
    ManyhandsError,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerUnreachable,
    SwarmIncomplete,
)
from protocol.transport.error_codec import BY_CODE, MAX_ERROR_BYTES, decode_error, encode_error

printable = st.text(st.characters(exclude_categories=("C", "Z")), max_size=200)


@given(
    kind=st.sampled_from([k for k in BY_CODE.values() if k not in (SwarmIncomplete, ChainBroken)]),
    message=printable,
    hint=printable,
)
def test_an_error_survives_the_wire(kind, message, hint):
    error = (
        kind("", message, hint=hint) if issubclass(kind, PeerError) else kind(message, hint=hint)
    )

    arrived = decode_error(encode_error(error), "sender")

    assert type(arrived) is kind
    assert arrived.hint == hint
    assert message in str(arrived)
    assert not isinstance(arrived, PeerError) or arrived.peer_id == "sender"


def test_fields_of_their_own_survive():
    busy = decode_error(encode_error(PeerBusy("", "full", queue_depth=7)), "sender")
    incomplete = decode_error(encode_error(SwarmIncomplete([(0, 2)], model="tiny")), "sender")
    broken = decode_error(encode_error(ChainBroken([PeerUnreachable("a", "gone")])), "sender")
    third = decode_error(encode_error(PeerUnreachable("third", "gone")), "sender")

    assert isinstance(busy, PeerBusy)
    assert busy.queue_depth == 7
    assert isinstance(incomplete, SwarmIncomplete)
    assert incomplete.missing == ((0, 2),)
    assert str(incomplete) == "nobody serves blocks 0:2 of tiny"
    assert isinstance(broken, ChainBroken)
    assert str(broken) == "a: gone"
    assert isinstance(third, PeerUnreachable)
    assert third.peer_id == "third"


def test_a_code_of_a_newer_peer_is_a_plain_peer_error():
    data = json.dumps({"code": "sun_too_bright", "message": "ouch"}).encode()

    arrived = decode_error(data, "sender")

    assert type(arrived) is PeerError
    assert "sun_too_bright" in str(arrived)


def test_control_characters_of_strangers_do_not_reach_the_terminal():
    data = json.dumps({"code": "usage", "message": "\x1b[2Jgone\n", "hint": "\x07"}).encode()

    arrived = decode_error(data, "sender")

    assert str(arrived).isprintable()
    assert arrived.hint.isprintable()


@given(message=st.text(max_size=5000), hint=st.text(max_size=5000))
def test_an_error_is_bounded(message, hint):
    data = encode_error(PeerBusy("x" * 5000, message, hint=hint, queue_depth=2**62))

    assert len(data) <= MAX_ERROR_BYTES
    assert isinstance(decode_error(data, "sender"), PeerBusy)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    data=st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"code": st.sampled_from(sorted(BY_CODE)) | json_values, "message": json_values},
        optional={"hint": json_values, "missing": json_values, "queue_depth": json_values},
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_decode_to_an_error_of_ours(data):
    assert isinstance(decode_error(data, "sender"), ManyhandsError)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"text"', b"[" * 100_000])
def test_what_cannot_be_read_is_misbehaviour(data):
    assert isinstance(decode_error(data, "sender"), PeerMisbehaved)

"""One value, one encoding: what the canonical form accepts and all that it refuses."""

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.canonical import MAX_BYTES, MAX_DEPTH, MAX_UINT, NotCanonical, decode, encode

scalars = (
    st.integers(0, MAX_UINT)
    | st.binary(max_size=80)
    | st.text(max_size=40)
    | st.booleans()
    | st.none()
)


def nested(depth):
    """Arrays that hold scalars and, while `depth` lasts, further arrays."""
    return st.lists(scalars if depth == 1 else scalars | nested(depth - 1), max_size=4)


arrays = nested(MAX_DEPTH)


@settings(deadline=None)
@given(arrays)
def test_fields_survive_the_encoding(fields):
    assert decode(encode(fields)) == fields


@settings(deadline=None)
@given(arrays)
def test_a_field_keeps_its_type(fields):
    assert [type(item) for item in decode(encode(fields))] == [type(item) for item in fields]


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_12_bytes_that_decode_are_the_only_spelling_of_their_fields(data):
    try:
        fields = decode(data)
    except NotCanonical:
        return

    assert encode(fields) == data


@settings(deadline=None)
@given(arrays, st.data())
def test_every_changed_byte_is_refused_or_means_something_else(fields, data):
    encoded = bytearray(encode(fields))
    index = data.draw(st.integers(0, len(encoded) - 1))
    encoded[index] ^= data.draw(st.integers(1, 255))

    try:
        changed = decode(bytes(encoded))
    except NotCanonical:
        return

    assert encode(changed) != encode(fields)


@pytest.mark.parametrize(
    ("spelling", "why"),
    [
        ("01", "no array"),
        ("40", "no array"),
        ("", "nothing"),
        ("8101ff", "trailing bytes"),
        ("810181", "trailing bytes"),
        ("811801", "integer not in its shortest form"),
        ("81190001", "integer not in its shortest form"),
        ("811b0000000000000001", "integer not in its shortest form"),
        ("980101", "array length not in its shortest form"),
        ("81580101", "byte string length not in its shortest form"),
        ("9f01ff", "indefinite array"),
        ("815f4101ff", "indefinite byte string"),
        ("817f6161ff", "indefinite text"),
        ("8120", "a negative integer"),
        ("811b8000000000000000", "2^63"),
        ("811bffffffffffffffff", "2^64 - 1"),
        ("81c24101", "a bignum"),
        ("81f90000", "a half float that equals 0"),
        ("81fa00000000", "a float that equals 0"),
        ("81fb0000000000000000", "a double that equals 0: it re-encodes to itself"),
        ("81f7", "undefined"),
        ("81e0", "an unassigned simple value"),
        ("81a0", "a map"),
        ("a10102", "a map"),
        ("81c074323031332d30332d32315432303a30343a30305a", "a date"),
        ("d9d9f78101", "the tag that only says this is CBOR"),
        ("d81c81d81d00", "an array that contains itself"),
        ("8161ff", "text that is not UTF-8"),
        ("9bffffffffffffffff", "a length nobody could send"),
        ("815bffffffffffffffff", "a length nobody could send"),
        ("8181818181", "nested too deep, and cut off"),
        ("818181818101", "nested five deep"),
        ("82", "cut off"),
    ],
)
def test_13_other_spellings_are_refused(spelling, why):
    with pytest.raises(NotCanonical):
        decode(bytes.fromhex(spelling))


@pytest.mark.parametrize(
    "value",
    [-1, MAX_UINT + 1, 1.0, {}, bytearray(b"x"), {1}, NotImplemented, "\ud800", (0, [0, [0, [0]]])],
    ids=repr,
)
def test_values_without_a_canonical_form_are_refused(value):
    with pytest.raises(NotCanonical):
        encode([value])


def test_13_arrays_nest_four_deep_and_no_deeper():
    nested = [[[[7]]]]

    assert MAX_DEPTH == 4
    assert decode(encode(nested)) == nested
    with pytest.raises(NotCanonical):
        encode([nested])


def test_13_an_object_is_at_most_64_kib():
    fits = encode([bytes(MAX_BYTES - 4)])

    assert len(fits) == MAX_BYTES
    assert decode(fits) == [bytes(MAX_BYTES - 4)]
    with pytest.raises(NotCanonical):
        encode([bytes(MAX_BYTES - 3)])
    with pytest.raises(NotCanonical):
        decode(cbor2.dumps([bytes(MAX_BYTES - 3)]))


def test_the_bytes_are_pinned():
    fields = [1, 0, 23, 24, 255, 256, MAX_UINT, b"\x00\xff", "é", True, False, None, [[], [b""]]]

    assert encode(fields).hex() == (
        "8d010017181818ff1901001b7fffffffffffffff4200ff62c3a9f5f4f682808140"
    )

"""What rows are on the wire: exact where a format promises it, bounded where it rounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from protocol.errors import UsageError
from protocol.profile import Profile
from protocol.wire import (
    BFLOAT16,
    BLOCK,
    FLOAT16,
    FLOAT32,
    FORMATS,
    INT8_64,
    decode,
    encode,
    wire_format,
)

rows_of_floats = st.tuples(st.integers(1, 5), st.integers(1, 200)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-1e4, 1e4, width=32))
)


@pytest.mark.parametrize(
    ("name", "row_bytes"),
    [("float32", 16_384), ("bfloat16", 8_192), ("float16", 8_192), ("int8-64", 4_224)],
)
def test_a_row_of_4096_values_takes(name, row_bytes):
    assert wire_format(name).row_bytes(4096) == row_bytes


@given(rows_of_floats, st.sampled_from(list(FORMATS.values())))
def test_what_was_sent_has_the_announced_size_and_comes_back_as_close_as_the_format_says(
    rows, wire
):
    data = encode(wire, rows)
    back = decode(wire, data, rows.shape[1])

    assert len(data) == len(rows) * wire.row_bytes(rows.shape[1])
    assert back.shape == rows.shape
    assert back.dtype == np.float32
    assert (np.abs(back - rows) <= tolerance(wire, rows)).all()


def tolerance(wire, rows):
    if wire is FLOAT32:
        return 0.0
    if wire is BFLOAT16:
        return np.abs(rows) * 2**-8 + 1e-38
    if wire is FLOAT16:
        return np.abs(rows) * 2**-11 + 2**-25
    blocks = -(-rows.shape[1] // BLOCK)
    padded = np.pad(np.abs(rows), ((0, 0), (0, blocks * BLOCK - rows.shape[1])))
    peaks = padded.reshape(len(rows), blocks, BLOCK).max(2).repeat(BLOCK, 1)[:, : rows.shape[1]]
    return peaks * (0.5 / 127 + 2**-10) + 127 * 2**-24  # half a step, and the scale's own rounding


@given(rows_of_floats, st.sampled_from(list(FORMATS.values())))
def test_what_a_format_can_hold_it_holds_exactly(rows, wire):
    once = decode(wire, encode(wire, rows), rows.shape[1])

    if wire is not INT8_64:
        assert np.array_equal(decode(wire, encode(wire, once), rows.shape[1]), once)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wire", FORMATS.values(), ids=str)
def test_a_value_that_is_not_finite_never_becomes_one(wire, bad):
    rows = np.ones((2, 130), np.float32)
    rows[1, 100] = bad

    back = decode(wire, encode(wire, rows), 130)

    assert np.isfinite(back[0]).all()
    assert not np.isfinite(back[1, 100])


def test_a_block_of_zeros_and_one_too_large_for_its_scale_survive():
    rows = np.zeros((1, 128), np.float32)
    rows[0, 64:] = 1e30

    back = decode(INT8_64, encode(INT8_64, rows), 128)

    assert (back[0, :64] == 0).all()
    assert (back[0, 64:] == 127 * 65504.0).all(), "as large as it can be, not infinite"


def test_golden_bytes():
    rows = np.array([[0.0, 1.0, -2.5, 100.0]], np.float32)

    assert encode(FLOAT32, rows).hex() == "000000000000803f000020c00000c842"
    assert encode(BFLOAT16, rows).hex() == "0000803f20c0c842"
    assert encode(FLOAT16, rows).hex() == "0000003c00c14056"
    assert encode(INT8_64, rows).hex() == "0001fd7f4d3a"


def test_profiles_name_these_formats_and_no_others():
    assert str(Profile.parse("bfloat16/none/int8-64")) == "bfloat16/none/int8-64"
    with pytest.raises(UsageError, match="int4"):
        wire_format("int4")
    with pytest.raises(UsageError):
        Profile.parse("bfloat16/none/int8")

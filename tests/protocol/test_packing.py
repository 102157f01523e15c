"""Packed frames: the same rows with fewer bytes, and nothing that a stranger can blow up."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import HEADER_LENGTH, data_bytes, data_message
from protocol.errors import PeerMisbehaved
from protocol.frames import Frame, RowGroup
from protocol.messages import SessionId
from protocol.packing import LEAST_BYTES, WIDTHS, pack, unpack
from protocol.pb import hop_pb2 as pb
from protocol.wire import BFLOAT16, FLOAT32, encode


def states(n_values: int, width: int, seed: int = 1) -> bytes:
    rows = np.random.default_rng(seed).standard_normal((1, n_values), dtype=np.float32)
    return encode(FLOAT32 if width == 4 else BFLOAT16, rows)


def frame_of(body: bytes, row_bytes: int) -> Frame:
    group = RowGroup(SessionId(bytes(16)), 0, 0, 0, 0, len(body) // row_bytes)
    return Frame((group,), row_bytes, body)


@given(
    width=st.sampled_from(WIDTHS),
    extra=st.integers(0, 500),
    seed=st.integers(0, 99),
    zeros=st.booleans(),
)
def test_what_was_packed_comes_back_to_the_last_bit(width, extra, seed, zeros):
    body = states(LEAST_BYTES // width + extra, width, seed)
    if zeros:
        body = bytes(len(body))

    packed = pack(body, width)

    assert packed is not None
    assert bytes(unpack(memoryview(packed), width, len(body))) == body


@pytest.mark.parametrize(("width", "most"), [(2, 0.7), (4, 0.86)])
def test_hidden_states_lose_most_of_their_high_bytes(width, most):
    body = states(100_000, width)

    packed = pack(body, width)

    assert packed is not None
    assert len(packed) < most * len(body)


def test_small_frames_other_formats_and_noise_stay_as_they_are():
    noise = np.random.default_rng(1).bytes(LEAST_BYTES)

    assert pack(bytes(LEAST_BYTES - 4), 4) is None
    assert pack(bytes(LEAST_BYTES), 0) is None
    assert pack(bytes(LEAST_BYTES), 1) is None
    assert pack(noise, 2) is None


def test_a_frame_is_packed_on_the_way_alone():
    message = frame_of(states(64 * 1024, 2), 2048)

    packed = data_bytes(message, pack_width=2)
    arrived = data_message(packed)

    assert len(packed) < 0.72 * len(message.body)
    assert isinstance(arrived, Frame)
    assert arrived.groups == message.groups
    assert bytes(arrived.body) == message.body


def packed_message(body: bytes, *, rows: int, row_bytes: int, width: int) -> bytes:
    group = pb.RowGroup(session=bytes(16), rows=rows)
    header = pb.DataHeader(groups=[group], row_bytes=row_bytes, packed=width)
    data = header.SerializeToString()
    return HEADER_LENGTH.pack(len(data)) + data + body


def deflated(n_bytes: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(bytes(n_bytes)) + deflate.flush()


@pytest.mark.parametrize(
    ("body", "rows", "width"),
    [
        (deflated(1 << 26), 1 << 13, 2),  # more inside than announced, and too little before
        (bytes(1000) + deflated(1 << 26), 1, 2),  # a bomb behind honest low bytes
        (bytes(1000) + deflated(999), 1, 2),  # less than announced
        (bytes(1000) + deflated(1000) + b"x", 1, 2),  # something behind it
        (bytes(1000) + deflated(1000)[:-1], 1, 2),  # cut short
        (bytes(1000) + b"\xff" * 50, 1, 2),  # no deflate at all
        (bytes(1000), 1, 2),  # nothing
        (deflated(1 << 20), 1 << 24, 4),  # announced without end
        (bytes(1000) + deflated(1000), 1, 3),  # of a width that is none
        (bytes(1000) + deflated(1000), 1, 1),
    ],
)
def test_a_packed_frame_that_lies_is_refused_before_it_takes_memory(body, rows, width):
    with pytest.raises(PeerMisbehaved):
        data_message(packed_message(body, rows=rows, row_bytes=2000, width=width))


@given(st.integers(0, 2**32), st.integers(0, 255))
def test_a_damaged_frame_is_refused_or_has_its_announced_size(at, value):
    body = bytearray(pack(states(LEAST_BYTES // 2, 2), 2) or b"")
    body[at % len(body)] ^= value
    message = packed_message(bytes(body), rows=LEAST_BYTES // 2048, row_bytes=2048, width=2)
    try:
        arrived = data_message(message)
    except PeerMisbehaved:
        return
    assert isinstance(arrived, Frame)
    assert len(arrived.body) == LEAST_BYTES

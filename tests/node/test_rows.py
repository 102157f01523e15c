"""Tensors and wire bytes: what the reference in numpy says, and no copy where none is due."""

from unittest.mock import sentinel

import numpy as np
import pytest
import torch

from node.rows import from_wire, ids_from_wire, joined, to_wire
from node.work import Work
from protocol.actions import Run
from protocol.codec import data_bytes, data_message
from protocol.frames import Frame, RowGroup
from protocol.messages import SessionId
from protocol.wire import BFLOAT16, FLOAT16, FLOAT32, FORMATS, INT8_64, decode, encode

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

CPU = torch.device("cpu")
WIDTHS = (64, 100, 7)


def some_rows(hidden_size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(hidden_size)
    rows = torch.randn(5, hidden_size, generator=generator) * 3
    rows[0] = 0
    rows[1, 0] = 4e4
    return rows.to(dtype)


@pytest.mark.parametrize("hidden_size", WIDTHS)
@pytest.mark.parametrize("wire", FORMATS.values(), ids=str)
def test_tensors_and_the_reference_write_and_read_the_same_bytes(wire, hidden_size):
    rows = some_rows(hidden_size)
    data = encode(wire, rows.numpy())

    assert bytes(to_wire(wire, rows)) == data
    read = from_wire(wire, data, hidden_size, torch.float32, CPU)
    assert np.array_equal(read.numpy(), decode(wire, data, hidden_size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wire", FORMATS.values(), ids=str)
def test_any_engine_may_speak_any_format(wire, dtype):
    rows = some_rows(100, dtype)

    back = from_wire(wire, to_wire(wire, rows), 100, dtype, CPU)

    assert back.dtype == dtype
    assert torch.allclose(back, rows, rtol=2**-7, atol=4e4 / 127 if wire is INT8_64 else 1e-6)


@pytest.mark.parametrize(
    ("wire", "dtype"),
    [(FLOAT32, torch.float32), (BFLOAT16, torch.bfloat16), (FLOAT16, torch.float16)],
    ids=str,
)
def test_nothing_is_copied_or_rounded_where_the_wire_is_the_engines_dtype(wire, dtype):
    rows = some_rows(64, dtype)

    sent = to_wire(wire, rows[1:3])
    received = from_wire(wire, sent, 64, dtype, CPU)

    assert torch.equal(received, rows[1:3])
    assert received.data_ptr() == rows[1:3].data_ptr()


def test_nothing_is_copied_from_a_received_frame_to_the_tensor():
    rows = some_rows(64)
    group = RowGroup(SessionId(bytes(16)), 0, 0, 0, 0, len(rows))
    received = data_bytes(Frame((group,), 256, bytes(to_wire(FLOAT32, rows))))

    arrived = data_message(received)
    assert isinstance(arrived, Frame)
    run = Run(1, 0, len(rows), arrived.body, sample=False)
    payload = Work(sentinel.lane, run, 0, at=2).payload(2)  # the second chunk of it
    tensor = from_wire(FLOAT32, payload, 64, torch.float32, CPU)

    assert torch.equal(tensor, rows[2:4])
    began = np.frombuffer(received, np.uint8).ctypes.data
    assert tensor.data_ptr() == began + len(received) - 3 * 256


def test_rows_may_begin_anywhere_in_a_frame():
    """A header's length is any, so a row's address need not be a multiple of four."""
    rows = some_rows(64)
    for offset in range(1, 9):
        frame = memoryview(bytes(offset) + bytes(to_wire(FLOAT32, rows)))[offset:]
        got = from_wire(FLOAT32, frame, 64, torch.float32, CPU)
        assert torch.equal(got, rows)
        assert torch.allclose(got @ got.T, rows @ rows.T)  # kernels may sum in another order


def test_ids_use_all_their_bits():
    ids = np.array([0, 5, 2**31 + 7, 2**32 - 1], dtype="<u4")

    assert ids_from_wire(ids.tobytes(), CPU).tolist() == ids.tolist()


def test_rows_of_several_frames_are_one_run():
    rows = some_rows(64)

    assert joined([rows]) is rows
    assert torch.equal(joined([rows[:2], rows[2:]]), rows)

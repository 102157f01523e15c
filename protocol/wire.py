"""What hidden rows are on the wire and in journals: four formats, described and computed in numpy.

In: rows of float32. Out: the bytes that peers exchange, and back. A row is `hidden_size` values,
little-endian, and nothing else, but for `int8-64`: there it is `hidden_size` signed bytes, then a
float16 scale for each block of 64 of them, the last block perhaps shorter. A value is its byte
times its block's scale.

float32, bfloat16 and float16 carry rows of their own dtype without loss. int8-64 halves bfloat16
and rounds; a swarm uses it only where its operators chose it. Nothing here loads torch:
`node.rows` does the same for tensors, and its tests hold the two together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol.errors import UsageError

Rows = np.ndarray[Any, np.dtype[np.float32]]

BLOCK = 64  # values that share a scale
MOST = 127  # the largest value of a byte; -128 is not used
LARGEST_SCALE = 65504.0  # of a float16


@dataclass(frozen=True, slots=True)
class WireFormat:
    """One way of writing rows down."""

    name: str
    bytes_per_value: int
    is_blockwise: bool = False

    def row_bytes(self, hidden_size: int) -> int:
        """Of one row; journals and frames count in these."""
        scales = 2 * -(-hidden_size // BLOCK) if self.is_blockwise else 0
        return hidden_size * self.bytes_per_value + scales

    @property
    def pack_width(self) -> int:
        """For `protocol.packing`; 0 where there is nothing to gain."""
        return 0 if self.is_blockwise else self.bytes_per_value

    def __str__(self) -> str:
        return self.name


FLOAT32 = WireFormat("float32", 4)
BFLOAT16 = WireFormat("bfloat16", 2)
FLOAT16 = WireFormat("float16", 2)
INT8_64 = WireFormat("int8-64", 1, is_blockwise=True)
FORMATS = {known.name: known for known in (FLOAT32, BFLOAT16, FLOAT16, INT8_64)}


def wire_format(name: str) -> WireFormat:
    """The format of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"no wire format {name!r}", hint=f"one of {', '.join(FORMATS)}")
    return FORMATS[name]


def encode(wire: WireFormat, rows: Rows) -> bytes:
    """Rows [n, hidden_size] as they travel."""
    if wire is FLOAT32:
        return rows.astype("<f4").tobytes()
    if wire is FLOAT16:
        with np.errstate(over="ignore"):  # beyond 65504 is infinite, and refused where it arrives
            return rows.astype("<f2").tobytes()
    if wire is BFLOAT16:
        return _to_bfloat16(rows).tobytes()
    values, scales = _to_int8(rows)
    return np.concatenate([values.view(np.uint8), scales.view(np.uint8)], axis=1).tobytes()


def decode(wire: WireFormat, data: bytes | memoryview, hidden_size: int) -> Rows:
    """Back to [n, hidden_size], perhaps a view. `data` has whole rows; whoever took it in has
    checked that.
    """
    if wire is FLOAT32:
        return np.frombuffer(data, "<f4").reshape(-1, hidden_size).astype(np.float32, copy=False)
    if wire is FLOAT16:
        return np.frombuffer(data, "<f2").reshape(-1, hidden_size).astype(np.float32)
    if wire is BFLOAT16:
        high = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return high.view(np.float32).reshape(-1, hidden_size)
    raw = np.frombuffer(data, np.uint8).reshape(-1, wire.row_bytes(hidden_size))
    values = raw[:, :hidden_size].view(np.int8).astype(np.float32)
    scales = raw[:, hidden_size:].copy().view("<f2").astype(np.float32)
    return values * np.repeat(scales, BLOCK, axis=1)[:, :hidden_size]


def _to_bfloat16(rows: Rows) -> "np.ndarray[Any, np.dtype[np.uint16]]":
    """The upper half of each float, rounded to nearest, ties to even."""
    bits = rows.astype("<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    is_nan = np.isnan(rows)
    return np.where(is_nan, (bits >> 16) | 0x40, rounded).astype("<u2")


def _to_int8(
    rows: Rows,
) -> "tuple[np.ndarray[Any, np.dtype[np.int8]], np.ndarray[Any, np.dtype[np.float16]]]":
    """Bytes [n, hidden_size] and scales [n, blocks]. What is not finite makes its scale a NaN."""
    n, hidden_size = rows.shape
    n_blocks = -(-hidden_size // BLOCK)
    padded = np.zeros((n, n_blocks * BLOCK), np.float32)
    padded[:, :hidden_size] = rows
    blocks = padded.reshape(n, n_blocks, BLOCK)
    peaks = np.abs(blocks).max(axis=2)
    scales = np.minimum(peaks / np.float32(MOST), np.float32(LARGEST_SCALE)).astype("<f2")
    scales[~np.isfinite(peaks)] = np.nan
    divisors = scales.astype(np.float32)
    divisors[~(divisors > 0)] = np.inf  # a block of zeros, or of nothing that can be scaled
    with np.errstate(invalid="ignore"):
        quotients = np.rint(blocks / divisors[:, :, None]).clip(-MOST, MOST)
    quotients[np.isnan(quotients)] = 0
    return quotients.astype(np.int8).reshape(n, -1)[:, :hidden_size], scales

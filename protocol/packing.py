"""Large frames of floats made smaller without loss, for links slower than the packing.

In: values of 2 or 4 bytes, as rows travel. Out: all their lowest bytes, then all the next, as they
are, and last the highest, deflated; and back. The high byte of a float holds its sign and most of
its exponent, of which hidden states use few: Huffman coding takes it to a third. The low bytes are
noise, which no codec shortens. So a bfloat16 frame becomes two thirds, a float32 frame five sixths
(benchmarks/wire.py has codecs side by side). zlib's Huffman-only mode is in every Python and lets
the interpreter go on meanwhile.
"""

import zlib

import numpy as np

from protocol.errors import PeerMisbehaved

LEAST_BYTES = 48 << 10  # of a frame: below, the time is in the round trip, not in the bytes
WIDTHS = (2, 4)  # bytes of a value that can be packed
_RAW = -15  # deflate without header: the frame says what it is


def pack(body: bytes | memoryview, width: int) -> bytes | None:
    """`body`, values of `width` bytes, packed; None where it stays as it is."""
    if width not in WIDTHS or len(body) < LEAST_BYTES or len(body) % width:
        return None
    values = np.frombuffer(body, np.uint8).reshape(-1, width)
    deflate = zlib.compressobj(1, zlib.DEFLATED, _RAW, 9, zlib.Z_HUFFMAN_ONLY)
    high = deflate.compress(values[:, -1].tobytes()) + deflate.flush()
    if len(high) >= len(values):
        return None
    return b"".join([*(values[:, at].tobytes() for at in range(width - 1)), high])


def unpack(packed: memoryview, width: int, n_bytes: int) -> memoryview:
    """The `n_bytes` that `pack` was given; at most twice the size of `packed`, whatever it says.

    Raises:
        PeerMisbehaved: it does not hold exactly so many.
    """
    if width not in WIDTHS or n_bytes % width:
        raise PeerMisbehaved("", f"{n_bytes} bytes cannot be packed by {width}")
    n_values = n_bytes // width
    low = n_bytes - n_values
    if low > len(packed):
        raise PeerMisbehaved("", f"{n_bytes} bytes announced, packed in {len(packed)}")
    inflate = zlib.decompressobj(_RAW)
    try:
        high = inflate.decompress(packed[low:], n_values + 1)  # never more, whatever is in there
    except zlib.error as error:
        raise PeerMisbehaved("", f"a packed frame that is none: {error}") from error
    if len(high) != n_values or not inflate.eof or inflate.unused_data:
        raise PeerMisbehaved("", f"a packed frame does not hold the {n_bytes} bytes announced")
    values = np.empty((n_values, width), np.uint8)
    planes = np.frombuffer(packed[:low], np.uint8).reshape(width - 1, n_values)
    for at, plane in enumerate((*planes, np.frombuffer(high, np.uint8))):
        values[:, at] = plane  # one by one: a transposed copy of all takes four times as long
    view: memoryview = values.reshape(-1).data
    return view

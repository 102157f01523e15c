"""What a GGUF file holds, read from its header alone: llama.cpp's format, version 2 and 3.

In: a path. Out: the file's plain metadata, and a `TensorEntry` per tensor. No tensor is read, and
vocabularies are stepped over. Whatever does not fit the format, or would reach outside the file, is
refused here, before any library looks at it.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from protocol.errors import BadModel
from protocol.tensor_table import GGUF_DTYPES, TensorEntry

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_ENTRIES, MAX_DIMENSIONS, MAX_NAME_BYTES = 1 << 20, 4, 1 << 16
STRING, ARRAY = 8, 9
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class GgufTable:
    """`metadata` has the single values, arrays left out."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorEntry]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "unnamed"))


def read_gguf_table(path: Path) -> GgufTable:
    """The header of one file.

    Raises:
        BadModel: the file is missing, truncated, or no GGUF file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(data).read()
    except OSError as error:
        raise BadModel(f"weights file {path.name} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise BadModel(
            f"weights file {path.name} is corrupt: {error}",
            hint="fetch the file again and compare its sha256 with the publisher's",
        ) from error


def _check_apart(tensors: Mapping[str, TensorEntry]) -> None:
    """No byte belongs to two tensors: a header that says so describes another model than it was."""
    ordered = sorted(tensors.items(), key=lambda item: item[1].start)
    for (name, entry), (other, later) in pairwise(ordered):
        if later.start < entry.stop:
            raise ValueError(f"tensors {name[:60]!r} and {other[:60]!r} overlap")


class _Header:
    """A place in the header that moves on with every value."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def read(self) -> GgufTable:
        if self._take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version, n_tensors, n_values = self._unpack("IQQ")
        if version not in VERSIONS:
            raise ValueError(f"it is of GGUF version {version}, and 2 and 3 are read")
        if max(n_tensors, n_values) > MAX_ENTRIES:
            raise ValueError(f"its header counts {n_tensors} tensors and {n_values} values")
        metadata: dict[str, Value] = {}
        for _ in range(n_values):
            name = self._string()
            value = self._value(int(self._unpack("I")[0]))
            if value is not None:
                metadata[name] = value
        found = [self._tensor() for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16:
            raise ValueError(f"an alignment of {alignment}")
        base = -(-self._at // alignment) * alignment
        tensors: dict[str, TensorEntry] = {}
        for name, entry in found:
            if name in tensors or entry[2] % alignment:
                raise ValueError(f"tensor {name[:60]!r} is there twice, or not where one begins")
            tensors[name] = self._placed(entry, base)
        _check_apart(tensors)
        return GgufTable(metadata, tensors)

    def _tensor(self) -> tuple[str, tuple[str, tuple[int, ...], int]]:
        name, n_dimensions = self._string(), self._unpack("I")[0]
        if not 0 < n_dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"tensor {name[:60]!r} with {n_dimensions} dimensions")
        shape = tuple(int(size) for size in reversed(self._unpack("Q" * n_dimensions)))
        kind, offset = self._unpack("IQ")
        if kind not in GGUF_DTYPES:
            raise ValueError(f"tensor {name[:60]!r} of unknown type {kind}")
        return name, (GGUF_DTYPES[kind], shape, int(offset))

    def _placed(self, entry: tuple[str, tuple[int, ...], int], base: int) -> TensorEntry:
        dtype, shape, offset = entry
        n_bytes = TensorEntry.bytes_of(dtype, prod(shape))
        start = base + offset
        if start + n_bytes > len(self._data):
            raise ValueError(f"it is truncated: {len(self._data)} of {start + n_bytes} bytes")
        return TensorEntry(dtype, shape, start, start + n_bytes)

    def _value(self, kind: int) -> Value | None:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._unpack(SCALARS[kind])[0]
        kind, count = self._unpack("IQ")
        if kind in SCALARS:
            self._skip(count * struct.calcsize(f"<{SCALARS[kind]}"))
        elif kind == STRING:
            for _ in range(count):
                self._skip(int(self._unpack("Q")[0]))
        else:
            raise ValueError(f"an array of type {kind}")
        return None

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        if length > MAX_NAME_BYTES and length > len(self._data) - self._at:
            raise ValueError(f"a text of {length} bytes")
        return self._take(length).decode()

    def _unpack(self, layout: str) -> tuple[int, ...]:
        layout = f"<{layout}"
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._skip(count)
        return taken

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("it ends in the middle of its header")

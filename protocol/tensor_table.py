"""What a safetensors file holds, read from its header alone.

In: a path, or the first bytes of a file that lies elsewhere. Out: a `TensorEntry` per tensor:
dtype, shape and where its bytes lie in the file. No tensor is read. The layout is that of the
safetensors format: eight bytes of header length, a JSON header, the tensors without gaps. Whatever
does not fit that layout is refused here, before any library maps the file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

from protocol.errors import BadModel

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_NONSENSE = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError),
    OverflowError,  # JSON has numbers without end: `Infinity`, 1e999
)

BITS: Mapping[str, float] = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
    "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    # Of GGUF: blocks of elements with their scales, so many bits per element.
    "Q4_0": 4.5, "Q4_1": 5, "Q5_0": 5.5, "Q5_1": 6, "Q8_0": 8.5,
    "Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625,
    "IQ2_XXS": 2.0625, "IQ2_XS": 2.3125, "IQ3_XXS": 3.0625, "IQ1_S": 1.5625, "IQ4_NL": 4.5,
    "IQ3_S": 3.4375, "IQ2_S": 2.5625, "IQ4_XS": 4.25, "IQ1_M": 1.75, "MXFP4": 4.25,
}  # fmt: skip

GGUF_DTYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 30: "BF16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 39: "MXFP4",
}  # fmt: skip
"""By the number that stands in a file: `ggml_type` of llama.cpp."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: bytes `[start, stop)` of its file hold `shape` elements of `dtype`."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.dtype not in BITS:
            raise ValueError(f"unknown dtype {self.dtype!r}")
        if any(size < 0 for size in self.shape) or not 0 <= self.start <= self.stop:
            raise ValueError("sizes and offsets are never negative")
        if self.n_bytes * 8 != prod(self.shape) * BITS[self.dtype]:
            raise ValueError(f"{self.dtype} {list(self.shape)} does not take {self.n_bytes} bytes")

    @staticmethod
    def bytes_of(dtype: str, n_elements: int) -> int:
        """What so many elements take.

        Raises:
            ValueError: they fill no whole number of bytes.
        """
        n_bytes = n_elements * BITS[dtype] / 8
        if n_elements >= 2**48 or n_bytes != int(n_bytes):
            raise ValueError(f"{n_elements} elements of {dtype}")
        return int(n_bytes)

    @property
    def n_bytes(self) -> int:
        return self.stop - self.start


def read_tensor_table(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, by name.

    Raises:
        BadModel: the file is missing, truncated, or no safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            n_bytes = header_bytes(path.name, size, file.read(8))
            header = file.read(n_bytes)
    except OSError as error:
        raise BadModel(
            f"weights file {path.name} cannot be read: {error.strerror or error}",
            hint="fetch the checkpoint again, or choose a span whose files are here",
        ) from error
    return parse_table(path.name, size, header)


def header_bytes(name: str, size: int, first: bytes) -> int:
    """How many bytes of header follow the `first` eight of the file `name`, of `size` bytes.

    Raises:
        BadModel: no header can be that long.
    """
    n_bytes = int.from_bytes(first, "little")
    if len(first) < 8 or n_bytes > min(size - 8, MAX_HEADER_BYTES):
        raise _corrupt(name, f"its header should take {n_bytes} of {size} bytes")
    return n_bytes


def parse_table(name: str, size: int, header: bytes) -> dict[str, TensorEntry]:
    """The tensors that the JSON `header` of the file `name`, of `size` bytes, tells of.

    Raises:
        BadModel: it is no header, or not that of a file of this size.
    """
    table = _parse_header(name, header, base=8 + len(header))
    end = max((entry.stop for entry in table.values()), default=8 + len(header))
    if end != size:
        what = "truncated" if size < end else "followed by bytes that belong to no tensor"
        raise _corrupt(name, f"it is {what}: {size} bytes where its header names {end}")
    return table


def _parse_header(name: str, header: bytes, *, base: int) -> dict[str, TensorEntry]:
    try:
        fields = cast("dict[str, Any]", json.loads(header))
        fields.pop("__metadata__", None)
        return {
            str(tensor): TensorEntry(
                dtype=str(field["dtype"]),
                shape=tuple(int(size) for size in field["shape"]),
                start=base + int(field["data_offsets"][0]),
                stop=base + int(field["data_offsets"][1]),
            )
            for tensor, field in fields.items()
        }
    except _NONSENSE as error:
        raise _corrupt(name, f"its header is not a table of tensors ({error})") from error


def _corrupt(name: str, reason: str) -> BadModel:
    return BadModel(
        f"weights file {name} is corrupt: {reason}",
        hint="fetch the file again and compare its sha256 with the publisher's",
    )

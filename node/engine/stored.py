"""Tensors on disk, read when somebody asks for them, into memory of their own.

transformers' loader takes anything that answers `tensor[...]`; it asks for each tensor once, when
its turn comes. Reading rather than mapping keeps two promises: what is served does not change when
a file does, and memory that is said to be taken is taken. `bytes_read` is kept for whoever wants
to know what was touched.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from protocol.errors import BadModel
from protocol.files import BINARY, read_into
from protocol.tensor_table import TensorEntry

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(slots=True)
class TensorFile:
    """An open weights file."""

    name: str
    descriptor: int
    bytes_read: int = 0

    def read(self, start: int, stop: int) -> Tensor:
        """Bytes `[start, stop)`.

        Raises:
            BadModel: the file ends before that, or cannot be read.
        """
        data = torch.empty(stop - start, dtype=torch.uint8)
        view, done = memoryview(cast("Any", data.numpy())), 0
        while done < len(view):
            try:
                count = read_into(self.descriptor, view[done:], start + done)
            except OSError as error:
                raise BadModel(f"{self.name} cannot be read: {error.strerror}") from error
            if not count:
                raise BadModel(
                    f"{self.name} was cut short while it was read",
                    hint="leave a checkpoint alone while it is being loaded",
                )
            done += count
        self.bytes_read += done
        return data


@contextmanager
def opened(path: Path) -> Iterator[TensorFile]:
    """A weights file, open for reading.

    Raises:
        BadModel: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | BINARY)
    except OSError as error:
        raise BadModel(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        yield TensorFile(path.name, descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a safetensors file."""

    file: TensorFile
    entry: TensorEntry
    name: str = field(default="", compare=False)

    def __getitem__(self, _: Any) -> Tensor:
        dtype = DTYPES.get(self.entry.dtype)
        if dtype is None:
            raise BadModel(f"tensor {self.name} holds {self.entry.dtype}, which torch has not")
        data = self.file.read(self.entry.start, self.entry.stop)
        return data.view(dtype).reshape(self.entry.shape)

    def get_dtype(self) -> str:
        """As the safetensors library answers it; transformers asks."""
        return self.entry.dtype

    def get_shape(self) -> list[int]:
        return list(self.entry.shape)


def stored(file: TensorFile, table: Mapping[str, TensorEntry]) -> dict[str, StoredTensor]:
    """The tensors of one file, by name."""
    return {name: StoredTensor(file, entry, name) for name, entry in table.items()}

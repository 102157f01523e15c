"""Small weights on disk: a span is quantized once, and read in seconds from then on.

In: what a span is made from, and how. Out: the same tensors the next time, as long as checkpoint
and libraries are the same ones. An entry is a directory with one safetensors file and a note that
says what it was made from and what the file hashes to; it appears whole or not at all, and one
that does not hold is made anew. A disk that is full costs time, never the span.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from node.engine.checkpoint import Checkpoint
from node.engine.stored import StoredTensor, opened, stored
from protocol.file_hashes import hash_file
from protocol.files import stamp
from protocol.messages import Span
from protocol.tensor_table import read_tensor_table

log = logging.getLogger(__name__)

WEIGHTS, NOTE = "weights.safetensors", "made-from.json"
LIBRARIES = ("bitsandbytes", "torch", "transformers")
FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SpanCache:
    """The place of one span in one form; `directory` None keeps nothing."""

    directory: Path | None
    source: Mapping[str, Any]  # what the tensors are made from: JSON

    @classmethod
    def of(
        cls,
        directory: Path | None,
        checkpoint: Checkpoint,
        span: Span,
        made: str,
        dtype: torch.dtype,
        files: Iterable[str],
    ) -> "SpanCache":
        source = {
            "format": FORMAT,
            "checkpoint": str(checkpoint.directory.resolve()),
            "span": [span.start, span.stop],
            "made": made,
            "dtype": str(dtype),
            "files": _identity(checkpoint.directory, ["config.json", *sorted(files)]),
            "libraries": {name: version(name) for name in LIBRARIES},
        }
        return cls(directory, source)

    @property
    def entry(self) -> Path:
        assert self.directory is not None
        names = ("checkpoint", "span", "made", "dtype")
        place = json.dumps([self.source[name] for name in names]).encode()
        # By what it is for, not by what it is made from: a stale entry is replaced, not piled on.
        return self.directory / hashlib.sha256(place).hexdigest()[:32]

    def read(self, build: Callable[[dict[str, StoredTensor]], T]) -> T | None:
        """What `build` makes of the kept tensors; None when there are none that can be used."""
        if self.directory is None:
            return None
        weights = self.entry / WEIGHTS
        try:
            note = json.loads((self.entry / NOTE).read_bytes())
            if note["source"] != json.loads(json.dumps(self.source)):
                log.info("a kept span is stale", extra={"entry": str(self.entry)})
                return None
            if hash_file(weights).hex() != note["sha256"]:
                raise ValueError("its bytes are not those that were written")
            with opened(weights) as file:
                return build(stored(file, read_tensor_table(weights)))
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a damaged entry leads to, the span is made anew
            where = {"entry": str(self.entry), "why": str(error)}
            log.warning("a kept span is damaged, it is made again", extra=where)
            return None

    def write(self, state: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Keep these tensors for the next time, if the disk lets us."""
        if self.directory is None:
            return
        fresh: Path | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix="making-", dir=self.directory))
            save_file(_once(state()), fresh / WEIGHTS, metadata={"format": "pt"})
            _flush(fresh / WEIGHTS)
            note = {"sha256": hash_file(fresh / WEIGHTS).hex(), "source": self.source}
            (fresh / NOTE).write_text(json.dumps(note, indent=1))
            shutil.rmtree(self.entry, ignore_errors=True)
            fresh.rename(self.entry)
            size = (self.entry / WEIGHTS).stat().st_size
            log.info("kept a quantized span", extra={"entry": str(self.entry), "bytes": size})
        except (OSError, SafetensorError) as error:
            log.warning(
                "the quantized span cannot be kept on disk: it will be made again next time",
                extra={"directory": str(self.directory), "why": str(error)},
            )
            if fresh is not None:
                shutil.rmtree(fresh, ignore_errors=True)


def _identity(directory: Path, names: list[str]) -> list[list[object]]:
    """Which files these are, without reading them: name, place, size, when changed."""
    found = []
    for name in names:
        with suppress(FileNotFoundError):
            path = (directory / name).resolve()
            found.append([name, str(path), *stamp(path)])
    return found


def _once(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor under one name: tied ones are tied again by the library."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            seen.add(tensor.data_ptr())
            kept[name] = tensor.contiguous()
    return kept


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

"""A manifest: what a model is, so that two strangers can tell they mean the same one.

In: what `describing.py` found in a directory or was told by a hub, or a manifest that travelled.
Out: a `Manifest`: the files with their hashes, where each tensor lies and what it hashes to, the
shape of the model. Its `digest` is the model's fingerprint: SHA-256 over canonical bytes of the
files and of where tensors lie, so that equal files have equal digests. The tensor table enters as
the hash of its own canonical rows, for it may be large.

Outside the digest are `name`, `licence` and `revision`, which are for people, and the hashes of
single tensors: files have hashes that a hub publishes, tensors only once somebody has read them.
Whoever holds whole files can derive them; what a stranger says of them is its word.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from protocol.canonical import Field, encode
from protocol.config_limits import MAX_BLOCKS, MAX_SIZE
from protocol.errors import BadModel, IntegrityError
from protocol.file_hashes import hash_file
from protocol.tensor_table import TensorEntry

SCHEMA = "manyhands/manifest/v2"
OLDER = "manyhands/manifest/v1"  # the same without hashes of tensors
DOMAIN = "manyhands/manifest/v1"  # of the digest, which covers what it always did
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_NONSENSE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
SIGNATURE = "model.sig"  # lies beside the files, and is none of them: see `model_signature.py`
MAX_SMALL_BYTES = 32 * 2**20  # what any peer serves to a client that has nothing (DESIGN 5a.14)
MAX_MANIFEST_BYTES = 64 * 2**20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")  # a plain name in one directory


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the model, by plain name."""

    name: str
    n_bytes: int
    sha256: bytes

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise BadModel(f"a manifest names a file {self.name!r}, which is no plain name")
        if self.n_bytes < 0 or len(self.sha256) != 32:
            raise BadModel(f"a manifest gives {self.name} no size or no SHA-256")

    @property
    def is_weights(self) -> bool:
        return self.name.endswith((".safetensors", ".gguf"))

    def check(self, path: Path, *, cache: Path | None = None) -> None:
        """Whether `path` holds this file.

        Raises:
            IntegrityError: it is missing, of another size, or of other content.
        """
        try:
            size = path.stat().st_size
            holds = size == self.n_bytes and hash_file(path, cache=cache) == self.sha256
        except OSError as error:
            raise IntegrityError(f"{self.name} cannot be read: {error.strerror}") from error
        if not holds:
            raise IntegrityError(
                f"{self.name} is not the file the manifest describes",
                hint="remove it and fetch it again",
            )


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor's bytes lie: a file of the model, and the entry of its header.

    `sha256` is of these bytes, as far as whoever made the manifest has read or been told it.
    """

    file: str
    entry: TensorEntry
    sha256: bytes = b""

    def __post_init__(self) -> None:
        if len(self.sha256) not in (0, 32):
            raise BadModel("a manifest gives a tensor a hash that is no SHA-256")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A model. Two manifests with one digest describe the same bytes."""

    name: str
    licence: str
    architecture: str
    n_blocks: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    files: tuple[FileEntry, ...]
    tensors: Mapping[str, TensorPlace] = field(hash=False)
    revision: str = ""  # of the publisher: a commit on a hub

    def __post_init__(self) -> None:
        sizes = {file.name: file.n_bytes for file in self.files}
        names = [file.name for file in self.files]
        if names != sorted(set(names)) or "config.json" not in sizes:
            raise BadModel("a manifest lists config.json and its files once, in order")
        counts = (self.n_blocks, self.hidden_size, self.vocab_size, self.max_positions)
        limits = (MAX_BLOCKS, MAX_SIZE, MAX_SIZE, 2**32 - 1)
        if not all(1 <= n <= limit for n, limit in zip(counts, limits, strict=True)):
            raise BadModel(f"a manifest describes an impossible model: {counts}")
        for name, place in self.tensors.items():
            if place.entry.stop > sizes.get(place.file, -1):
                raise BadModel(f"a manifest places tensor {name} outside {place.file}")
        if sum(file.n_bytes for file in self.small_files()) > MAX_SMALL_BYTES:
            raise BadModel(f"a model's small files take more than {MAX_SMALL_BYTES} bytes")

    @cached_property
    def digest(self) -> bytes:
        """The model's fingerprint, 32 bytes."""
        return hashlib.sha256(self.canonical()).digest()

    def canonical(self) -> bytes:
        """The bytes the digest covers."""
        table = hashlib.sha256()
        for name, place in sorted(self.tensors.items()):
            entry = place.entry
            row: list[Field] = [name, place.file, entry.dtype, list(entry.shape)]
            table.update(encode([*row, entry.start, entry.stop]))
        files: list[Field] = [[file.name, file.n_bytes, file.sha256] for file in self.files]
        shape = [self.n_blocks, self.hidden_size, self.vocab_size, self.max_positions]
        return encode([DOMAIN, self.architecture, *shape, files, table.digest()])

    def small_files(self) -> tuple[FileEntry, ...]:
        """What a client with nothing may ask of any peer: all but weights and their index."""
        return tuple(file for file in self.files if not file.is_weights and file.name != INDEX)

    def file(self, name: str) -> FileEntry:
        """The entry of a file.

        Raises:
            KeyError: the model has no such file.
        """
        for file in self.files:
            if file.name == name:
                return file
        raise KeyError(name)

    def check_file(self, directory: Path, name: str, *, cache: Path | None = None) -> None:
        """Whether `directory` holds this file of the model.

        Raises:
            IntegrityError: it does not.
        """
        self.file(name).check(directory / name, cache=cache)

    def with_hashes(self, hashes: Mapping[str, bytes]) -> Self:
        """The same model, with the hashes of these tensors said as well."""
        tensors = {
            name: replace(place, sha256=hashes.get(name, place.sha256))
            for name, place in self.tensors.items()
        }
        return replace(self, tensors=tensors)

    def to_json(self) -> bytes:
        """The manifest as it travels and lies beside the files it describes."""
        tensors = {
            name: [
                place.file,
                place.entry.dtype,
                place.entry.shape,
                place.entry.start,
                place.entry.stop,
                *([place.sha256.hex()] if place.sha256 else []),
            ]
            for name, place in sorted(self.tensors.items())
        }
        files = [
            {"name": file.name, "n_bytes": file.n_bytes, "sha256": file.sha256.hex()}
            for file in self.files
        ]
        fields = {
            "schema": SCHEMA,
            "digest": self.digest.hex(),
            "name": self.name,
            "licence": self.licence,
            "revision": self.revision,
            "architecture": self.architecture,
            "n_blocks": self.n_blocks,
            "hidden_size": self.hidden_size,
            "vocab_size": self.vocab_size,
            "max_positions": self.max_positions,
            "files": files,
            "tensors": tensors,
        }
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """What `to_json` made; further fields are for people and ignored.

        Raises:
            BadModel: it is no manifest, breaks a rule, or its digest is not its own.
        """
        try:
            if len(data) > MAX_MANIFEST_BYTES:
                raise ValueError(f"longer than {MAX_MANIFEST_BYTES} bytes")
            fields = json.loads(data)
            if fields["schema"] not in (SCHEMA, OLDER):
                raise ValueError(f"its schema is {fields['schema']!r}, not {SCHEMA!r}")
            manifest = cls(
                name=str(fields["name"]),
                licence=str(fields["licence"]),
                architecture=str(fields["architecture"]),
                n_blocks=int(fields["n_blocks"]),
                hidden_size=int(fields["hidden_size"]),
                vocab_size=int(fields["vocab_size"]),
                max_positions=int(fields["max_positions"]),
                files=tuple(
                    FileEntry(str(f["name"]), int(f["n_bytes"]), bytes.fromhex(f["sha256"]))
                    for f in fields["files"]
                ),
                tensors={str(name): _place(row) for name, row in fields["tensors"].items()},
                revision=str(fields.get("revision", "")),
            )
            stated = fields.get("digest")
        except BadModel:
            raise
        except _NONSENSE as error:
            raise BadModel(f"this is no manifest: {type(error).__name__}: {error}") from error
        if stated not in (None, manifest.digest.hex()):
            raise BadModel("a manifest states a digest that is not its own")
        return manifest


def _place(row: Any) -> TensorPlace:
    file, dtype, shape, start, stop, *sha256 = row
    entry = TensorEntry(str(dtype), tuple(map(int, shape)), int(start), int(stop))
    if len(sha256) > 1:
        raise ValueError("a tensor has one hash")
    return TensorPlace(str(file), entry, *map(bytes.fromhex, sha256))

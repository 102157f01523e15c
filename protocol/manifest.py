"""Manifest v1: what a model is, so that two strangers can tell they mean the same one.

In: a full checkpoint directory, or a manifest that travelled. Out: a `Manifest`: the files with
their hashes, where each tensor lies, the shape of the model. Its `digest` is the model's
fingerprint: SHA-256 over canonical bytes of everything but `name` and `licence`, which are for
people; equal files have equal digests, whatever a directory is called. The tensor table enters as
the hash of its own canonical rows, for it may be large.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from protocol.canonical import Field, encode
from protocol.errors import BadModel, IntegrityError
from protocol.file_hashes import hash_file
from protocol.tensor_table import TensorEntry, read_tensor_table
from protocol.text import TEXT_FILES

SCHEMA = "manyhands/manifest/v1"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
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
        return self.name.endswith(".safetensors")

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
    """Where a tensor's bytes lie: a file of the model, and the entry of its header."""

    file: str
    entry: TensorEntry


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

    def __post_init__(self) -> None:
        sizes = {file.name: file.n_bytes for file in self.files}
        names = [file.name for file in self.files]
        if names != sorted(set(names)) or "config.json" not in sizes:
            raise BadModel("a manifest lists config.json and its files once, in order")
        counts = (self.n_blocks, self.hidden_size, self.vocab_size, self.max_positions)
        if min(counts) < 1 or max(counts) >= 2**32:
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
        return encode([SCHEMA, self.architecture, *shape, files, table.digest()])

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

    def to_json(self) -> bytes:
        """The manifest as it travels and lies beside the files it describes."""
        tensors = {
            name: [
                place.file,
                place.entry.dtype,
                place.entry.shape,
                place.entry.start,
                place.entry.stop,
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
            "architecture": self.architecture,
            "n_blocks": self.n_blocks,
            "hidden_size": self.hidden_size,
            "vocab_size": self.vocab_size,
            "max_positions": self.max_positions,
            "files": files,
            "tensors": tensors,
        }
        return json.dumps(fields, indent=1, ensure_ascii=False).encode()

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
            if fields["schema"] != SCHEMA:
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
                tensors={
                    str(name): TensorPlace(
                        str(file),
                        TensorEntry(str(dtype), tuple(map(int, shape)), int(start), int(stop)),
                    )
                    for name, (file, dtype, shape, start, stop) in fields["tensors"].items()
                },
            )
            stated = fields.get("digest")
        except BadModel:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadModel(f"this is no manifest: {type(error).__name__}: {error}") from error
        if stated not in (None, manifest.digest.hex()):
            raise BadModel("a manifest states a digest that is not its own")
        return manifest


def make_manifest(
    directory: Path,
    *,
    name: str = "",
    licence: str = "",
    cache: Path | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Manifest:
    """Describe a full checkpoint directory; every file is hashed, unless `cache` knows it.

    Raises:
        BadModel: a file is missing or damaged, or config.json does not give the model's shape.
    """
    if not directory.is_dir():
        raise BadModel(f"no model directory at {directory}")
    config = _read_config(directory)
    weights = _weights_files(directory)
    listed = [*(n for n in (*TEXT_FILES, INDEX) if (directory / n).is_file()), *weights]
    tensors = {
        tensor: TensorPlace(file, entry)
        for file in weights
        for tensor, entry in read_tensor_table(directory / file).items()
    }
    entries = []
    for file in sorted(listed):
        report = (lambda fraction, file=file: progress(file, fraction)) if progress else None
        try:
            n_bytes = (directory / file).stat().st_size
            entries.append(
                FileEntry(file, n_bytes, hash_file(directory / file, cache=cache, progress=report))
            )
        except OSError as error:
            raise BadModel(f"{file} cannot be read: {error.strerror}") from error
    architectures = config.get("architectures") or [config.get("model_type", "")]
    return Manifest(
        name=name or directory.resolve().name,
        licence=licence,
        architecture=str(architectures[0]),
        **_shape(config),
        files=tuple(entries),
        tensors=tensors,
    )


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{directory} has no readable config.json: {error}") from error
    if not isinstance(config, dict):
        raise BadModel(f"config.json in {directory} does not hold a JSON object")
    return config


def _weights_files(directory: Path) -> list[str]:
    if not (directory / INDEX).is_file():
        return [SINGLE]
    try:
        weight_map = json.loads((directory / INDEX).read_bytes())["weight_map"]
        files = sorted({str(file) for file in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"{INDEX} in {directory} is no index: {error}") from error
    for file in files:
        if not NAME.fullmatch(file) or not file.endswith(".safetensors"):
            raise BadModel(f"{INDEX} names a weights file {file!r}, which is no plain name")
    return files or [SINGLE]


def _shape(config: Mapping[str, Any]) -> dict[str, int]:
    """The model's measures, by the names that families give them."""
    spellings = {
        "n_blocks": ("num_hidden_layers", "n_layer", "num_layers"),
        "hidden_size": ("hidden_size", "n_embd", "d_model"),
        "vocab_size": ("vocab_size",),
        "max_positions": ("max_position_embeddings", "n_positions", "seq_length"),
    }
    text = config.get("text_config")
    sources = [text, config] if isinstance(text, dict) else [config]
    shape = {}
    for field_name, names in spellings.items():
        stated = [s[n] for s in sources for n in names if isinstance(s.get(n), int)]
        if not stated and field_name != "max_positions":
            raise BadModel(f"config.json gives no {names[0]}")
        shape[field_name] = stated[0] if stated else 2**20
    return shape

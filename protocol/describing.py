"""Making a manifest: of a directory that holds a whole model, or of what a hub says of one.

In: a checkpoint directory, whose files are read once for the hashes of files and tensors; or a
configuration, hashes of files and their headers, from which the same digest follows without any
weights. Out: a `Manifest`, or a `BadModel` that says which file is wrong. A manifest that lies in
the directory is what its files must match.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from protocol.config_limits import check_config
from protocol.errors import BadModel, ManyhandsError
from protocol.file_hashes import hash_tensors
from protocol.gguf_table import read_gguf_table
from protocol.manifest import INDEX, NAME, SINGLE, FileEntry, Manifest, TensorPlace
from protocol.tensor_table import TensorEntry, read_tensor_table
from protocol.text import TEXT_FILES

MANIFEST_FILE = "manifest.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
BLOB = re.compile(r"[0-9a-f]{64}")  # what the hub's cache calls a file: its SHA-256
REFETCH = "fetch it again; who changed it on purpose removes manifest.json"
DAMAGED = "fetch the checkpoint again"
DIRECTORY = "give the directory that holds config.json beside *.safetensors"
_TEXT = r"(?:(?:model|language_model|transformer|gpt_neox)\.)*"  # around the blocks of text
BLOCK = re.compile(_TEXT + r"(?:layers|h|blocks)\.(\d+)\.")
EMBEDDING = re.compile(_TEXT + r"(?:embed_tokens|word_embeddings|embed_in|wte)\.weight$")
UNKNOWN_POSITIONS = 2**20


def make_manifest(
    directory: Path,
    *,
    name: str = "",
    licence: str = "",
    revision: str = "",
    cache: Path | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Manifest:
    """Describe a full checkpoint directory; every file is hashed, unless `cache` knows it.

    Raises:
        BadModel: a file is missing or damaged, or config.json does not give the model's shape.
    """
    if not directory.is_dir():
        raise BadModel(f"no model directory at {directory}", hint=DIRECTORY)
    config = parse_config(_read(directory / "config.json"), str(directory))
    index = _read(directory / INDEX) if (directory / INDEX).is_file() else None
    weights = weights_files(index, [path.name for path in directory.iterdir()], str(directory))
    tables = {file: _tensor_table(directory / file) for file in weights}
    listed = [*(n for n in (*TEXT_FILES, INDEX) if (directory / n).is_file()), *weights]
    entries: list[FileEntry] = []
    hashes: dict[str, bytes] = {}
    for file in sorted(listed):
        report = (lambda fraction, file=file: progress(file, fraction)) if progress else None
        try:
            n_bytes = (directory / file).stat().st_size
            found = hash_tensors(
                directory / file, tables.get(file, {}), cache=cache, progress=report
            )
        except OSError as error:
            raise BadModel(f"{file} cannot be read: {error.strerror}", hint=DAMAGED) from error
        _check_blob(directory / file, found.sha256)
        entries.append(FileEntry(file, n_bytes, found.sha256))
        hashes.update(found.tensors)
    manifest = describe(
        config,
        entries,
        tables,
        name=name or directory.resolve().name,
        licence=licence,
        revision=revision,
    ).with_hashes(hashes)
    return _check_stated(directory, manifest)


def describe(
    config: Mapping[str, Any],
    files: list[FileEntry],
    tables: Mapping[str, Mapping[str, TensorEntry]],
    *,
    name: str,
    licence: str = "",
    revision: str = "",
) -> Manifest:
    """The manifest of these files; `tables` has the tensors of those that hold weights.

    Raises:
        BadModel: the configuration does not give the model's shape, or the files do not fit.
    """
    architectures = config.get("architectures") or [config.get("model_type", "")]
    return Manifest(
        name=name,
        licence=licence,
        revision=revision,
        architecture=str(architectures[0]),
        **_shape(
            config, {name: entry for table in tables.values() for name, entry in table.items()}
        ),
        files=tuple(sorted(files, key=lambda file: file.name)),
        tensors={
            tensor: TensorPlace(file, entry)
            for file in sorted(tables)
            for tensor, entry in tables[file].items()
        },
    )


def stated_manifest(directory: Path) -> Manifest | None:
    """What the directory says of itself, unchecked; None where it says nothing.

    Raises:
        BadModel: what it says is damaged.
    """
    try:
        data = (directory / MANIFEST_FILE).read_bytes()
    except OSError:
        return None
    if b"manyhands/manifest/" not in data[:200]:
        return None  # somebody else's file of that name
    return Manifest.from_json(data)


def parse_config(data: bytes, where: str) -> dict[str, Any]:
    """config.json as an object.

    Raises:
        BadModel: it is none, or holds numbers that no model has.
    """
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadModel(f"config.json in {where} is not JSON: {error}", hint=DAMAGED) from error
    if not isinstance(config, dict):
        raise BadModel(f"config.json in {where} does not hold a JSON object", hint=DAMAGED)
    check_config(config, where)
    return config


def weights_files(index: bytes | None, there: list[str], where: str) -> list[str]:
    """The files that hold a model's weights, by its `index` or, without one, by what is `there`.

    Raises:
        BadModel: the index is none or leads elsewhere, or there are pickled weights only.
    """
    if index is None:
        packed = [name for name in there if name.endswith(".gguf")]
        if SINGLE not in there and len(packed) == 1:
            return packed
        if SINGLE not in there and any(name.endswith(PICKLES) for name in there):
            raise BadModel(
                f"{where} holds pickled weights only, and loading a pickle runs what its author "
                "wrote",
                hint="choose a model with *.safetensors files; most are published with them",
            )
        return [SINGLE]
    try:
        files = sorted({str(file) for file in json.loads(index)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadModel(f"{INDEX} in {where} is no index: {error}", hint=DAMAGED) from error
    for file in files:
        if not NAME.fullmatch(file) or not file.endswith(".safetensors"):
            raise BadModel(
                f"{INDEX} names a weights file {file!r}, which is no plain name",
                hint="do not use this checkpoint: its index reaches outside its directory; "
                "fetch it again, from a publisher you trust",
            )
    return files or [SINGLE]


def _tensor_table(path: Path) -> Mapping[str, TensorEntry]:
    return read_gguf_table(path).tensors if path.suffix == ".gguf" else read_tensor_table(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadModel(
            f"{path.parent} has no readable {path.name}: {error.strerror or error}", hint=DIRECTORY
        ) from error


def _check_blob(path: Path, sha256: bytes) -> None:
    """A file of the hub's cache is called by its hash, and must be what it is called."""
    name = path.resolve().name
    if path.is_symlink() and BLOB.fullmatch(name) and name != sha256.hex():
        raise BadModel(
            f"{path.name} is damaged: it is not what the hub published",
            hint=f"remove {path.resolve()}",
        )


def _check_stated(directory: Path, manifest: Manifest) -> Manifest:
    """Where the directory says what it holds, it must; what it says of itself is kept."""
    try:
        stated = stated_manifest(directory)
    except ManyhandsError as error:
        raise BadModel(f"{MANIFEST_FILE} in {directory}: {error}", hint=REFETCH) from error
    if stated is None:
        return manifest
    if stated.digest != manifest.digest:
        raise BadModel(f"{_damage(stated, manifest)}, says {MANIFEST_FILE}", hint=REFETCH)
    wrong = _differing(stated, manifest)
    if wrong:
        raise BadModel(
            f"{MANIFEST_FILE} gives tensor {wrong[0]} a hash it has not", hint="remove that file"
        )
    return replace(
        manifest,
        licence=manifest.licence or stated.licence,
        revision=manifest.revision or stated.revision,
    )


def _damage(stated: Manifest, found: Manifest) -> str:
    """What is wrong, as close as hashes tell."""
    if tensors := _differing(stated, found):
        more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
        place = stated.tensors[tensors[0]]
        return f"tensor {tensors[0]}{more} in {place.file} is damaged"
    had = {file.name: file for file in found.files}
    for file in stated.files:
        if had.get(file.name) != file:
            return f"{file.name} is {'damaged' if file.name in had else 'missing'}"
    return "there are files too many, or tensors in other places"


def _differing(stated: Manifest, found: Manifest) -> list[str]:
    return [
        name
        for name, place in found.tensors.items()
        if name in stated.tensors
        and stated.tensors[name].sha256
        and stated.tensors[name].sha256 != place.sha256
    ]


def _shape(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry]) -> dict[str, int]:
    """The model's measures, by the names that families give them.

    What a configuration leaves to its class, the tensors tell; a context of unknown length is
    taken to be long, and nodes refuse what is too long.
    """
    spellings = {
        "n_blocks": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        "hidden_size": ("hidden_size", "n_embd", "d_model", "n_embed"),
        "vocab_size": ("vocab_size",),
        "max_positions": ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"),
    }
    text = config.get("text_config")
    sources = [text, config] if isinstance(text, dict) else [config]
    measured = _measured(tensors) | {"max_positions": UNKNOWN_POSITIONS}
    shape = {}
    for field_name, names in spellings.items():
        stated = [s[n] for s in sources for n in names if type(s.get(n)) is int]
        if not stated and field_name not in measured:
            raise BadModel(f"config.json gives no {names[0]}", hint=DAMAGED)
        shape[field_name] = stated[0] if stated else measured[field_name]
    n_held = measured.get("n_blocks", shape["n_blocks"])
    if shape["n_blocks"] > n_held:  # fewer may be meant: some files have blocks for drafting, too
        raise BadModel(
            f"config.json says {shape['n_blocks']} blocks, the weights hold {n_held}", hint=DAMAGED
        )
    return shape


def _measured(tensors: Mapping[str, TensorEntry]) -> dict[str, int]:
    """What the embedding and the blocks' numbers say."""
    found = {}
    numbers = [int(block[1]) for name in tensors if (block := BLOCK.match(name))]
    if numbers:
        found["n_blocks"] = max(numbers) + 1
    for name, entry in tensors.items():
        if EMBEDDING.match(name) and len(entry.shape) == 2:
            found["vocab_size"], found["hidden_size"] = entry.shape
    return found

"""A checkpoint directory as the publisher left it: configuration and where each tensor lies.

In: a directory in the Hugging Face layout, whole or holding only some weights files. Out: a
`Checkpoint`, or a typed error that says what is wrong with the directory. Tensors are handed out
unread, and no code of the checkpoint is ever run; see `weights.py` for loading.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from node.engine.outline import Outline
from node.engine.stored import StoredTensor, opened
from node.engine.text_part import text_names
from protocol.config_limits import REFETCH, check_config
from protocol.errors import BadModel
from protocol.tensor_table import TensorEntry, read_tensor_table

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
MAX_JSON_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`files` names the weights file of every tensor; the files themselves may be elsewhere."""

    directory: Path
    config: Mapping[str, Any]
    files: Mapping[str, str]

    @property
    def architecture(self) -> str:
        named = self.config.get("architectures") or [self.config.get("model_type", "unnamed")]
        return str(named[0] if isinstance(named, list) else named)

    def select(self, outline: Outline) -> "Selection":
        """The tensors that a span needs, once their files proved sound.

        Raises:
            BadModel: a file is missing, corrupt or truncated, or lacks a tensor the index names.
        """
        stored = {name: at for name, at in text_names(self.files).items() if outline.needs(name)}
        files = sorted({self.files[at] for at in stored.values()})
        tables = {file: read_tensor_table(self.directory / file) for file in files}
        places = {}
        for tensor, at in stored.items():
            file = self.files[at]
            if at not in tables[file]:
                raise BadModel(
                    f"weights file {file} lacks tensor {at}, which the index places there",
                    hint="fetch the checkpoint again: its index and files do not belong together",
                )
            places[tensor] = file, tables[file][at]
        return _Selected(self.directory, places)


class Selection(Protocol):
    """The tensors of one span, not read yet."""

    @property
    def files(self) -> Collection[str]:
        """The weights files they lie in."""

    @property
    def entries(self) -> Collection[TensorEntry]:
        """What each of them is, on disk."""

    def tensors(self) -> AbstractContextManager[Mapping[str, Any]]:
        """By the names the library looks for; each is read when it asks for it."""


@dataclass(frozen=True, slots=True)
class _Selected:
    """In safetensors files: a file and an entry for each tensor."""

    directory: Path
    places: Mapping[str, tuple[str, TensorEntry]]

    @property
    def files(self) -> Collection[str]:
        return {file for file, _ in self.places.values()}

    @property
    def entries(self) -> Collection[TensorEntry]:
        return [entry for _, entry in self.places.values()]

    @contextmanager
    def tensors(self) -> Iterator[Mapping[str, StoredTensor]]:
        with ExitStack() as stack:
            files = {
                file: stack.enter_context(opened(self.directory / file)) for file in self.files
            }
            yield {
                tensor: StoredTensor(files[file], entry, tensor)
                for tensor, (file, entry) in self.places.items()
            }


def open_checkpoint(directory: Path, *, weights: bool = True) -> Checkpoint:
    """Read configuration and index; without `weights`, only the configuration need be there.

    Raises:
        BadModel: no such directory, no sound config.json, or no safetensors weights.
    """
    if not directory.is_dir():
        raise BadModel(
            f"no model directory at {directory}",
            hint="give a directory with config.json and *.safetensors, or a model's name",
        )
    config = read_json(directory / "config.json")
    check_config(config, str(directory))
    if packed := _packed_file(directory):
        from node.engine.gguf import GgufCheckpoint

        return GgufCheckpoint(directory, config, {}, packed)
    return Checkpoint(directory, config, _weight_map(directory) if weights else {})


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object from a checkpoint's directory.

    Raises:
        BadModel: it is missing, too large, or not a JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BadModel(f"{path.name} is larger than {MAX_JSON_BYTES} bytes", hint=REFETCH)
        parsed = json.loads(path.read_bytes())
    except OSError as error:
        raise BadModel(
            f"{path.parent} has no readable {path.name}: {error.strerror or error}",
            hint="a model directory holds config.json beside its weights",
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{path} is not valid JSON: {error}", hint=REFETCH) from error
    if not isinstance(parsed, dict):
        raise BadModel(f"{path} does not hold a JSON object", hint=REFETCH)
    return parsed


def _weight_map(directory: Path) -> Mapping[str, str]:
    if (directory / INDEX).exists():
        named = read_json(directory / INDEX).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise BadModel(f"{directory / INDEX} has no weight_map", hint=REFETCH)
        _check_names(named.values())
        return {str(tensor): str(file) for tensor, file in named.items()}
    if (directory / SINGLE).exists():
        return dict.fromkeys(read_tensor_table(directory / SINGLE), SINGLE)
    if any(path.suffix in PICKLES for path in directory.iterdir()):
        raise BadModel(
            f"{directory} holds pickled weights only, and loading a pickle runs what its author "
            "wrote",
            hint="choose a model with *.safetensors files; most are published with them",
        )
    raise BadModel(
        f"{directory} holds no safetensors weights",
        hint=f"expected {SINGLE}, {INDEX} or one GGUF file; pickled checkpoints are never loaded",
    )


def _packed_file(directory: Path) -> str | None:
    """The one GGUF file of a directory that has no other weights."""
    found = [path.name for path in directory.glob("*.gguf")]
    plain = any((directory / name).exists() for name in (INDEX, SINGLE))
    return found[0] if len(found) == 1 and not plain else None


def _check_names(files: Iterable[object]) -> None:
    """A file of the index is a plain name: an index must not reach outside its directory."""
    for file in files:
        plain = isinstance(file, str) and Path(file).name == file and "\\" not in file
        if not plain or not str(file).endswith(".safetensors"):
            raise BadModel(
                f"the index names a weights file {file!r}, which is no plain file name",
                hint=REFETCH,
            )

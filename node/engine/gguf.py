"""GGUF files, llama.cpp's form of a model: a span of one is read without the others' bytes.

In: a file. Out: the small files of a checkpoint directory (`unpack`), and a `GgufCheckpoint` whose
tensors are expanded when the library asks for them, one by one. Names, and how llama.cpp stores
what it stores, are what transformers knows of them; block formats are expanded by the gguf package.
Architectures are those our tests prove, others are refused: a wrong permutation of a weight gives
fluent nonsense.
"""

import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from node.engine.checkpoint import Checkpoint, Selection
from node.engine.outline import Outline
from node.engine.stored import TensorFile, opened
from protocol.config_limits import MAX_BLOCKS, MAX_COUNT, REFETCH
from protocol.errors import BadModel, ConfigError
from protocol.files import stamp
from protocol.gguf_table import GgufTable, read_gguf_table
from protocol.tensor_table import TensorEntry
from protocol.text import TEXT_FILES

log = logging.getLogger(__name__)

ARCHITECTURES = ("gemma2", "gemma3", "llama", "qwen2", "qwen3", "qwen3moe")
FILE = "model.gguf"
EXTRA = "pip install 'manyhands[gguf]'"
LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}  # blocks of the 27B: it scales queries otherwise
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original": 8192}


def unpack(file: Path, place: Path) -> Path:
    """A checkpoint directory for a GGUF file: configuration and tokenizer from it, a link to it.

    Made anew only when the file has changed.

    Raises:
        BadModel: it is damaged, or of an architecture we do not serve from GGUF.
        ConfigError: the extra that reads such files is not installed.
    """
    identity = "-".join(f"{part:x}" for part in stamp(file))
    directory = place / f"{file.stem[:60]}-{identity}"
    if (directory / "config.json").exists():
        return directory
    table = _checked(file)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=place) as name:
        fresh = Path(name) / "made"
        fresh.mkdir()
        _refer(fresh / FILE, file.resolve())
        (fresh / "config.json").write_text(json.dumps(_config(fresh, table), indent=1))
        _write_tokenizer(fresh)
        shutil.rmtree(directory, ignore_errors=True)
        fresh.rename(directory)
    return directory


def _refer(name: Path, file: Path) -> None:
    """The same file under another name; Windows lets few make links, and then it is a copy."""
    for way in (os.symlink, os.link, shutil.copyfile):
        try:
            way(file, name)
        except OSError:
            if way is shutil.copyfile:
                raise
        else:
            return


def _checked(file: Path) -> GgufTable:
    table = read_gguf_table(file)
    if table.architecture not in ARCHITECTURES:
        raise BadModel(
            f"GGUF files of architecture {table.architecture[:40]!r} are not served",
            hint=f"served from GGUF are {', '.join(ARCHITECTURES)}; others as safetensors",
        )
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError("GGUF files need the gguf package, which is not installed", hint=EXTRA)
    for name, limit in (("block_count", MAX_BLOCKS), ("expert_count", MAX_COUNT)):
        count = table.metadata.get(f"{table.architecture}.{name}", 0)
        if not isinstance(count, int) or count > limit:
            raise BadModel(
                f"{file.name} says {name} is {str(count)[:40]}, and no model has more than {limit}",
                hint=REFETCH,
            )
    scaling = table.metadata.get(f"{table.architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise BadModel(
            f"{file.name} scales its rotary positions ({scaling}); transformers does not read that",
            hint="serve the model from safetensors",
        )
    return table


def _config(directory: Path, table: GgufTable) -> dict[str, Any]:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(directory, gguf_file=FILE, local_files_only=True)
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__
    except Exception as error:  # the library raises whatever its many mappings raise
        raise BadModel(f"no configuration can be made from {directory / FILE}: {error}") from error
    fields: dict[str, Any] = config.to_diff_dict()
    for name in ("transformers_version", "_name_or_path", "_model_name_or_path"):
        fields.pop(name, None)
    fields |= _what_the_library_leaves_out(config, table)
    if factors := table.tensors.get("rope_freqs.weight"):
        fields["rope_parameters"] = _llama3_rope(directory / FILE, factors, fields)
    return fields | {"architectures": [architecture], "dtype": _dtype(table)}


def _what_the_library_leaves_out(config: Any, table: GgufTable) -> dict[str, Any]:
    """Settings whose defaults are one model's values, from the file, as llama.cpp reads them."""
    found: dict[str, Any] = {}
    for key, name in (
        ("attention.key_length", "head_dim"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
    ):
        value = table.metadata.get(f"{table.architecture}.{key}")
        if isinstance(value, int) and hasattr(config, name):
            found[name] = value
    if table.architecture in LARGEST_GEMMA:
        is_largest = config.num_hidden_layers == LARGEST_GEMMA[table.architecture]
        per_head = config.hidden_size // config.num_attention_heads
        found["query_pre_attn_scalar"] = per_head if is_largest else found.get("head_dim", per_head)
    return found


def _dtype(table: GgufTable) -> str:
    stored = {entry.dtype for entry in table.tensors.values() if len(entry.shape) > 1}
    return "float32" if stored <= {"F32"} else "bfloat16"


def _llama3_rope(path: Path, entry: TensorEntry, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Llama 3's rope scaling, which llama.cpp keeps as the factors it comes to.

    Raises:
        BadModel: the factors are not those of Llama 3.
    """
    with opened(path) as file:
        stored = _expanded(file, entry)
    rope = dict(fields.get("rope_parameters") or {})
    head_dim = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    theta = float(rope.get("rope_theta", 10_000.0))
    frequencies = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    low, high = LLAMA3_ROPE["low_freq_factor"], LLAMA3_ROPE["high_freq_factor"]
    factor, original = float(stored.max()), LLAMA3_ROPE["original"]
    smooth = (original * frequencies / (2 * np.pi) - low) / (high - low)
    expected = 1 / ((1 - np.clip(smooth, 0, 1)) / factor + np.clip(smooth, 0, 1))
    if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=1e-3):
        raise BadModel(
            f"{path.name} scales its rotary positions by factors that are not Llama 3's",
            hint="serve the model from safetensors",
        )
    return {
        **rope,
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _write_tokenizer(directory: Path) -> None:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as name:
        try:
            AutoTokenizer.from_pretrained(
                directory, gguf_file=FILE, local_files_only=True
            ).save_pretrained(name)
        except Exception as error:  # as above; a span without the head does well without one
            log.warning("no tokenizer can be made from this file", extra={"why": str(error)[:200]})
            return
        for file in TEXT_FILES:
            if file != "config.json" and (Path(name) / file).exists():
                shutil.copy(Path(name) / file, directory / file)


@dataclass(frozen=True, slots=True)
class GgufCheckpoint(Checkpoint):
    """A directory whose weights are one GGUF file."""

    packed: str

    def select(self, outline: Outline) -> Selection:
        """The tensors that a span needs, by the names its modules give them.

        Raises:
            BadModel, ConfigError: as for `unpack`.
        """
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        table = _checked(self.directory / self.packed)
        kind = TENSOR_PROCESSORS.get(table.architecture, TensorProcessor)
        processor = kind(config=outline.config.to_dict())
        names: dict[str, str] = get_gguf_hf_weights_map(outline.part, processor)
        pieces: dict[str, dict[str, TensorEntry]] = {}
        for packed, name in names.items():
            for spelled in (packed, f"{packed}.weight"):  # experts' parameters have no `.weight`
                if spelled in table.tensors:
                    pieces.setdefault(name, {})[spelled] = table.tensors[spelled]
        return _Selected(self.directory, self.packed, pieces, processor, names)


@dataclass(frozen=True, slots=True)
class _Selected:
    """Each tensor of the model, and the one or more of the file that it is made of."""

    directory: Path
    file: str
    pieces: Mapping[str, Mapping[str, TensorEntry]]
    processor: Any
    names: Mapping[str, str]

    @property
    def files(self) -> Collection[str]:
        return [self.file]

    @property
    def entries(self) -> Collection[TensorEntry]:
        return [entry for pieces in self.pieces.values() for entry in pieces.values()]

    @contextmanager
    def tensors(self) -> Iterator[Mapping[str, "_Packed"]]:
        with opened(self.directory / self.file) as file:
            yield {
                name: _Packed(file, name, pieces, self.processor, self.names)
                for name, pieces in self.pieces.items()
            }


@dataclass(frozen=True, slots=True)
class _Packed:
    """One tensor of the model, expanded when the library asks for it."""

    file: TensorFile
    name: str
    pieces: Mapping[str, TensorEntry]
    processor: Any
    names: Mapping[str, str]

    def __getitem__(self, _: Any) -> Tensor:
        made: dict[str, dict[str, Tensor]] = {"tensors": {}}
        for name, entry in self.pieces.items():
            result = self.processor.process(
                weights=_expanded(self.file, entry),
                name=name,
                tensor_key_mapping=self.names,
                parsed_parameters=made,
            )
            if result.name is not None:
                return torch.from_numpy(np.ascontiguousarray(result.weights))
        return made["tensors"][self.name]


def _expanded(file: TensorFile, entry: TensorEntry) -> "np.ndarray[Any, Any]":
    """A tensor of the file in float32, in its own shape."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    data = file.read(entry.start, entry.stop).numpy()
    kind = GGMLQuantizationType[entry.dtype]
    rows = data.reshape(*entry.shape[:-1], -1)
    expanded: np.ndarray[Any, Any] = dequantize(rows, kind).reshape(entry.shape)
    return expanded.astype(np.float32, copy=False)

"""An adapter as PEFT wrote it: what its two files say, before anything touches a model.

In: a directory with `adapter_config.json` and `adapter_model.safetensors`. Out: an `AdapterFiles`:
the pairs of low-rank matrices by the path of the module they belong to, what to scale them with,
and the digest of both files; or a refusal that names what we do not serve. The tensors that are
present say which modules are adapted, so patterns in the configuration are never run as regular
expressions. No tensor is read here: see `adapters.py`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from protocol.adapter_names import is_name
from protocol.errors import BadAdapter, BadModel, UsageError
from protocol.file_hashes import hash_file
from protocol.files import Stamp, stamp, stamp_or_none
from protocol.tensor_table import TensorEntry, read_tensor_table

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MAX_CONFIG_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 8 << 30
MAX_RANK = 1024
MAX_TENSORS = 1 << 16
DTYPES = ("F32", "F16", "BF16")
HINT = "served are LoRA adapters as PEFT saves them: docs/adapters.md"

_DOMAIN = b"manyhands/adapter/1\x00"
_TENSOR = re.compile(r"base_model\.model\.([A-Za-z0-9_.]{1,256})\.lora_([AB])\.weight")
_PLAIN_PATTERN = re.compile(r"\^?([A-Za-z0-9_]|\\?\.)+")
_IGNORED = {  # of the training alone, or told by the tensors, or checked below
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type",
    "use_rslora",
}  # fmt: skip
_SOUND_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # others alter the base


@dataclass(frozen=True, slots=True)
class LowRank:
    """One module's pair of tensors, A [rank, n_in] and B [n_out, rank], and the factor on both."""

    a: str  # names of the tensors
    b: str
    rank: int
    n_in: int
    n_out: int
    scaling: float

    @property
    def n_elements(self) -> int:
        return self.rank * (self.n_in + self.n_out)


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A sound adapter. `modules` is keyed by a module's path in the unsplit model."""

    weights: Path
    sha256: bytes
    modules: Mapping[str, LowRank]
    read_at: Stamp

    def stamp(self) -> Stamp:
        return stamp(self.weights)


def read_adapter(directory: Path) -> AdapterFiles:
    """What the adapter in `directory` is.

    Raises:
        BadAdapter: it is missing or damaged, or needs something that is not served.
    """
    weights = directory / WEIGHTS
    if (directory / CONFIG).exists() and not weights.exists() and (directory / PICKLED).exists():
        raise BadAdapter(
            f"{directory / PICKLED} is pickled, and pickled weights are never loaded",
            hint="save it again with PEFT's save_pretrained, which writes safetensors",
        )
    raw = _read_config(directory / CONFIG)
    config = _Config.parse(raw)
    entries = _read_table(weights)
    read_at = stamp(weights)
    digest = sha256(_DOMAIN + sha256(raw).digest() + hash_file(weights)).digest()
    return AdapterFiles(weights, digest, _modules(entries, config), read_at)


def files_state(directory: Path) -> str:
    """What tells one state of an adapter's files from another, unread."""
    stamps = [stamp_or_none(directory / file) for file in (CONFIG, WEIGHTS)]
    return sha256(repr(stamps).encode()).hexdigest()[:16]


def check_name(name: str) -> None:
    """Raises UsageError when `name` is no plain name."""
    if not is_name(name):
        raise UsageError(
            f"an adapter cannot be called {name[:80]!r}",
            hint="1 to 64 letters, digits and ._- with a letter or digit first",
        )


@dataclass(frozen=True, slots=True)
class _Config:
    """What of `adapter_config.json` matters for running it."""

    rank: int
    alpha: float
    rank_pattern: "_Pattern"
    alpha_pattern: "_Pattern"
    is_rank_stabilised: bool

    @classmethod
    def parse(cls, raw: bytes) -> "_Config":
        try:
            fields: Any = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BadAdapter(f"{CONFIG} is not valid JSON: {error}") from error
        if not isinstance(fields, dict):
            raise BadAdapter(f"{CONFIG} does not hold a JSON object")
        if fields.get("peft_type") != "LORA":
            raise _unserved(f"an adapter of type {str(fields.get('peft_type'))[:40]!r}")
        if (bias := fields.get("bias", "none")) != "none":
            raise _unserved(f"bias={str(bias)[:40]!r}: an adapter that changes biases")
        start = fields.get("init_lora_weights", True)
        if start not in _SOUND_STARTS:
            raise _unserved(f"init_lora_weights={str(start)[:40]!r}, which changes the base model")
        for name, value in fields.items():
            if value and name not in _IGNORED:
                raise _unserved(f"{str(name)[:40]}={value!r:.60}")
        return cls(
            rank=_rank(fields.get("r"), "r"),
            alpha=_number(fields.get("lora_alpha"), "lora_alpha"),
            rank_pattern=_pattern(fields.get("rank_pattern"), "rank_pattern"),
            alpha_pattern=_pattern(fields.get("alpha_pattern"), "alpha_pattern"),
            is_rank_stabilised=bool(fields.get("use_rslora", False)),
        )

    def rank_of(self, path: str) -> int:
        return _rank(_matching(self.rank_pattern, path, self.rank), "rank_pattern")

    def scaling_of(self, path: str) -> float:
        rank = self.rank_of(path)
        alpha = _matching(self.alpha_pattern, path, self.alpha)
        return alpha / (sqrt(rank) if self.is_rank_stabilised else rank)


def _rank(value: object, name: str) -> int:
    rank = _number(value, name)
    if not 1 <= rank <= MAX_RANK or rank != int(rank):
        raise BadAdapter(f"{CONFIG}: {name} is a rank of 1 to {MAX_RANK}, got {rank:g}", hint=HINT)
    return int(rank)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise BadAdapter(f"{CONFIG}: {name} is a number, got {str(value)[:40]!r}", hint=HINT)
    return float(value)


_Pattern = Mapping[str, tuple[int, float]]  # by plain name: its place in the table, its number


def _pattern(value: object, name: str) -> _Pattern:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_TENSORS:
        raise BadAdapter(f"{CONFIG}: {name} is a table of numbers")
    for key in value:
        if len(key) > 256 or not _PLAIN_PATTERN.fullmatch(key):
            raise _unserved(f"{name} with the regular expression {key[:60]!r}")
    return {
        key.replace("\\", ""): (place, _number(number, name))
        for place, (key, number) in enumerate(value.items())
    }


def _matching(pattern: _Pattern, path: str, default: float) -> float:
    """PEFT's rule, for plain names: the first key that is the path, or the end of it."""
    parts = path.split(".")
    names = [f"^{path}", *(".".join(parts[at:]) for at in range(len(parts)))]
    found = min((pattern[name] for name in names if name in pattern), default=None)
    return default if found is None else found[1]


def _read_config(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise BadAdapter(
            f"{path.parent} has no readable {CONFIG}: {error.strerror or error}", hint=HINT
        ) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise BadAdapter(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    return raw


def _read_table(path: Path) -> dict[str, TensorEntry]:
    try:
        if path.exists() and path.stat().st_size > MAX_WEIGHTS_BYTES:
            raise BadAdapter(f"{path} is larger than {MAX_WEIGHTS_BYTES} bytes")
        return read_tensor_table(path)
    except BadModel as error:
        raise BadAdapter(str(error), hint=HINT) from error


def _modules(entries: Mapping[str, TensorEntry], config: _Config) -> dict[str, LowRank]:
    if not 0 < len(entries) <= MAX_TENSORS:
        raise BadAdapter(f"{WEIGHTS} holds {len(entries)} tensors", hint=HINT)
    parts: dict[str, dict[str, str]] = {}
    for tensor, entry in entries.items():
        matched = _TENSOR.fullmatch(tensor)
        if matched is None or "base_layer" in matched[1].split("."):
            raise _unserved(f"the tensor {tensor[:120]!r}, {_kind(tensor)}")
        if entry.dtype not in DTYPES or len(entry.shape) != 2:
            raise BadAdapter(f"{tensor} is {entry.dtype} {list(entry.shape)}, no float matrix")
        parts.setdefault(matched[1], {})[matched[2]] = tensor
    return {path: _low_rank(path, pair, entries, config) for path, pair in parts.items()}


def _low_rank(
    path: str, pair: Mapping[str, str], entries: Mapping[str, TensorEntry], config: _Config
) -> LowRank:
    if len(pair) != 2:
        raise BadAdapter(f"{next(iter(pair.values()))} has no counterpart: A and B come in pairs")
    (a_rank, n_in), (n_out, b_rank) = entries[pair["A"]].shape, entries[pair["B"]].shape
    rank = config.rank_of(path)
    if not a_rank == b_rank == rank:
        raise BadAdapter(
            f"{pair['A']} is [{a_rank}, {n_in}] and its B is [{n_out}, {b_rank}], "
            f"where {CONFIG} says rank {rank}"
        )
    return LowRank(pair["A"], pair["B"], rank, n_in, n_out, config.scaling_of(path))


def _kind(tensor: str) -> str:
    for part, kind in (
        ("lora_magnitude_vector", "a DoRA magnitude"),
        ("lora_embedding_", "an adapted embedding"),
        ("lora_B.bias", "an adapted bias"),
        ("base_layer", "an adapted parameter, such as fused experts"),
    ):
        if part in tensor:
            return kind
    return "a whole weight (modules_to_save)"


def _unserved(what: str) -> BadAdapter:
    return BadAdapter(f"not served: {what}", hint=HINT)

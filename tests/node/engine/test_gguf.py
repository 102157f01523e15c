"""GGUF files: a span of one computes what its blocks mean, and no other span's bytes are read."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, LlamaForCausalLM

from manyhands.models import find_model
from node.engine import load_shard, plan_shard
from node.engine.checkpoint import open_checkpoint
from node.engine.outline import Outline
from protocol.errors import BadModel
from protocol.gguf_table import read_gguf_table
from protocol.messages import Span
from protocol.text import Tokenizer
from tests.gguf_files import config_of, write_gguf
from tests.node.engine.test_quantization import CHAIN, through

gguf = pytest.importorskip("gguf")
from node.engine.gguf import unpack  # noqa: E402

IDS = [5, 9, 44, 17, 200, 31, 8, 99]
QUICK = [("llama", "Q8_0"), ("llama", "Q6_K"), ("qwen3_moe", "Q4_0")]
KINDS = [
    pytest.param(family, kind, marks=() if (family, kind) in QUICK else pytest.mark.slow)
    for family, kind in (
        *QUICK,
        *(("llama", kind) for kind in ("Q4_0", "Q4_K", "F16")),
        *((family, "Q8_0") for family in ("qwen2", "qwen3", "gemma2", "gemma3_text")),
    )
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf"), "llama", "Q8_0")[0]


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_chain_over_a_file_equals_the_model_it_stands_for(
    tmp_path: Path, family: str, kind: str
) -> None:
    file, plain = write_gguf(tmp_path, family, kind)
    directory = unpack(file, tmp_path / "unpacked")

    chain = [load_shard(directory, span, dtype="float32") for span in CHAIN]
    whole = load_shard(plain, None, dtype="float32")

    assert torch.equal(through(chain, IDS), through([whole], IDS))


def test_only_the_bytes_of_the_span_are_read(packed: Path, tmp_path: Path) -> None:
    directory = unpack(packed, tmp_path)
    outline = Outline.of(AutoConfig.from_pretrained(directory), LlamaForCausalLM, Span(2, 4))
    table = read_gguf_table(packed).tensors
    needed = [entry for name, entry in table.items() if name.startswith(("blk.2.", "blk.3."))]

    with open_checkpoint(directory).select(outline).tensors() as tensors:
        for tensor in tensors.values():
            tensor[...]
        [file] = {id(tensor.file): tensor.file for tensor in tensors.values()}.values()

    assert file.bytes_read == sum(entry.n_bytes for entry in needed)
    assert file.bytes_read < packed.stat().st_size / 2


def test_a_file_can_be_made_smaller_still(packed: Path, tmp_path: Path) -> None:
    directory = unpack(packed, tmp_path)

    small, plain = (load_shard(directory, Span(1, 3), quantize=q) for q in ("4bit", "none"))

    assert str(small.profile) == "bfloat16/nf4/bfloat16"
    assert small.weights_bytes < 0.35 * plain.weights_bytes
    assert plan_shard(directory, Span(1, 3), quantize="4bit").fits


def test_a_file_is_a_model_like_any_other(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    only = tmp_path / "directory"
    only.mkdir()
    (only / "some.gguf").symlink_to(packed)

    model, again = find_model(str(packed)), find_model(str(only))

    assert (model.name, model.manifest.n_blocks) == ("model", 6)
    assert model.manifest.architecture == "LlamaForCausalLM"
    assert again.manifest.digest == model.manifest.digest
    tokenizer = Tokenizer.from_directory(model.directory)
    text = "then the other one"
    assert tokenizer.decode(tokenizer.encode(text)).endswith(text)
    assert {"config.json", "tokenizer.json", "manifest"} <= model.small_files().keys()
    assert all(len(data) < 2**20 for data in model.small_files().values())


def with_fields(file: Path, place: Path, add: Any) -> Path:
    """The file's twin with more metadata, or other tensors."""
    place.mkdir()
    writer = gguf.GGUFWriter(place / "other.gguf", "llama")
    reader = gguf.GGUFReader(file)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = field.contents()
            of = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, value, field.types[0], of)
    add(writer)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place / "other.gguf"


def llama3_factors(factor: float) -> Any:
    frequencies = 10_000.0 ** -(np.arange(0, 16, 2) / 16)
    smooth = np.clip((8192 * frequencies / (2 * np.pi) - 1) / 3, 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def test_llama_3s_scaled_positions_are_recognised(packed: Path, tmp_path: Path) -> None:
    file = with_fields(
        packed,
        tmp_path / "scaled",
        lambda writer: writer.add_tensor("rope_freqs.weight", llama3_factors(8.0)),
    )

    rope = config_of(unpack(file, tmp_path))["rope_parameters"]

    assert (rope["rope_type"], rope["factor"]) == ("llama3", 8.0)
    assert (rope["low_freq_factor"], rope["high_freq_factor"]) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("add", "complaint"),
    [
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32) * 3), "not Llama 3"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "positions \\(yarn\\)"),
    ],
)
def test_positions_that_would_be_wrong_are_refused(
    packed: Path, tmp_path: Path, add: Any, complaint: str
) -> None:
    with pytest.raises(BadModel, match=complaint):
        unpack(with_fields(packed, tmp_path / "odd", add), tmp_path)


def test_an_architecture_nobody_proved_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(BadModel, match="architecture 'mamba'") as caught:
        unpack(tmp_path / "m.gguf", tmp_path)

    assert "llama" in caught.value.hint


# Damage


def test_a_table_is_what_the_package_reads(packed: Path) -> None:
    table = read_gguf_table(packed)
    reader = gguf.GGUFReader(packed)

    assert table.architecture == "llama"
    for tensor in reader.tensors:
        entry = table.tensors[tensor.name]
        assert (entry.start, entry.n_bytes) == (tensor.data_offset, tensor.n_bytes)
        assert entry.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert entry.dtype == tensor.tensor_type.name


@pytest.mark.parametrize("left", [0, 3, 20, 500, 5_000, -1])
def test_a_file_that_was_cut_is_refused(packed: Path, tmp_path: Path, left: int) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(packed.read_bytes()[:left])

    with pytest.raises(BadModel):
        unpack(cut, tmp_path)


@given(st.integers(0, 4000), st.binary(min_size=1, max_size=16))
def test_a_damaged_header_is_read_or_refused(packed: Path, at: int, noise: bytes) -> None:
    data = bytearray(packed.read_bytes())
    data[at : at + len(noise)] = noise
    damaged = packed.with_name("damaged.bin")
    damaged.write_bytes(data)

    try:
        table = read_gguf_table(damaged)
    except BadModel:
        return
    assert all(entry.stop <= len(data) for entry in table.tensors.values())


def test_a_header_cannot_ask_for_much(tmp_path: Path) -> None:
    for counts in ((2**60, 0), (0, 2**60), (1, 2**19)):
        file = tmp_path / "bomb.gguf"
        file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(64))
        with pytest.raises(BadModel):
            read_gguf_table(file)


@pytest.mark.parametrize(("by", "complaint"), [(1, "not where one begins"), (-32, "overlap")])
def test_a_header_that_lies_about_a_place_in_the_file_is_refused(
    packed: Path, tmp_path: Path, by: int, complaint: str
) -> None:
    data, name = bytearray(packed.read_bytes()), b"blk.1.attn_q.weight"
    at = data.index(name) + len(name)
    (n_dimensions,) = struct.unpack_from("<I", data, at)
    at += 4 + 8 * n_dimensions + 4
    (offset,) = struct.unpack_from("<Q", data, at)
    struct.pack_into("<Q", data, at, offset + by)
    file = tmp_path / "lying.gguf"
    file.write_bytes(data)

    with pytest.raises(BadModel, match=complaint):
        read_gguf_table(file)

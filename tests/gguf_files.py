"""Small GGUF files, written the way llama.cpp's converters do, and what they mean."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import write_checkpoint

K_BLOCKS = {"Q4_K": 144, "Q6_K": 210}  # bytes for 256 elements; the package expands, never makes
NAMES = {"gemma3_text": "gemma3", "qwen3_moe": "qwen3moe"}
Array = Any


def write_gguf(place: Path, family: str, kind: str, **sizes: Any) -> tuple[Path, Path]:
    """A file whose matrices are of `kind`, and a plain checkpoint that holds what they mean."""
    import gguf
    from transformers import AutoConfig

    sizes = {"intermediate_size": 256, "tie_word_embeddings": "gemma" in family, **sizes}
    sizes |= {"norm_topk_prob": True} if "moe" in family else {}
    if family == "gemma3_text":  # the file does not say it: every sixth block sees everything
        sizes |= {"layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
    plain = write_checkpoint(place / "plain", family, **sizes)
    config = AutoConfig.from_pretrained(plain)
    architecture = NAMES.get(family, family)
    writer = gguf.GGUFWriter(place / "model.gguf", architecture)
    _add_metadata(writer, config, architecture)
    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    meant: dict[str, torch.Tensor] = {}
    for name, tensor in _as_llama_cpp(load_file(plain / "model.safetensors")).items():
        base, _, suffix = name.rpartition(".")
        packed = names.get_name(base)
        assert packed is not None, name
        data, seen = _packed(_forward(name, tensor.float().numpy(), config), kind)
        writer.add_tensor(f"{packed}.{suffix}", data, raw_dtype=_kind(kind, seen is not None))
        value = data if seen is None else seen
        meant |= _of_the_library(name, torch.from_numpy(_backward(name, value, config)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(meant, plain / "model.safetensors", metadata={"format": "pt"})
    return place / "model.gguf", plain


def _kind(kind: str, is_small: bool) -> Any:
    import gguf

    return gguf.GGMLQuantizationType[kind] if is_small else None


def _packed(values: Array, kind: str) -> tuple[Array, "Array | None"]:
    """As stored, and what that means; None when it is stored as it is."""
    import gguf

    values = np.ascontiguousarray(values, dtype=np.float32)
    block = 256 if kind in K_BLOCKS else 32
    if values.ndim < 2 or values.shape[-1] % block:
        return values, None
    of = gguf.GGMLQuantizationType[kind]
    if kind not in K_BLOCKS:
        data = gguf.quants.quantize(values, of)
        return data, gguf.quants.dequantize(data, of)
    chance = np.random.default_rng(values.size)
    blocks = chance.integers(0, 256, (*values.shape[:-1], values.shape[-1] // 256, K_BLOCKS[kind]))
    data = blocks.astype(np.uint8)
    scale = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)
    places = (slice(0, 2), slice(2, 4)) if kind == "Q4_K" else (slice(208, 210),)
    for at in places:
        data[..., at] = scale
    data = data.reshape(*values.shape[:-1], -1)
    return data, gguf.quants.dequantize(data, of)


def _as_llama_cpp(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Experts of a block stand in one tensor."""
    found = dict(tensors)
    for name in tensors:
        if ".experts.0." in name:
            parts = []
            while (key := name.replace(".experts.0.", f".experts.{len(parts)}.")) in found:
                parts.append(found.pop(key))
            found[name.replace(".experts.0.", ".experts.")] = torch.stack(parts)
    return found


def _of_the_library(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if ".experts." not in name:
        return {name: tensor}
    return {
        name.replace(".experts.", f".experts.{index}."): part.contiguous()
        for index, part in enumerate(tensor)
    }


def _forward(name: str, values: Array, config: Any) -> Array:
    """What llama.cpp's converter does to a tensor."""
    if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        split = values.reshape(heads, 2, -1, values.shape[1])
        return split.swapaxes(1, 2).reshape(values.shape)
    return values + 1 if "gemma" in config.model_type and "norm" in name else values


def _backward(name: str, values: Array, config: Any) -> Array:
    if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        split = values.reshape(heads, -1, 2, values.shape[1])
        return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))
    changed = values - 1 if "gemma" in config.model_type and "norm" in name else values
    return np.ascontiguousarray(changed)


def _add_metadata(writer: Any, config: Any, architecture: str) -> None:
    writer.add_name("small")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    if architecture == "llama":
        writer.add_rope_dimension_count(head_dim)
    if "gemma" in architecture:
        writer.add_sliding_window(config.sliding_window)
    if "moe" in architecture:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    _add_tokenizer(writer, config.vocab_size)


def _add_tokenizer(writer: Any, vocab_size: int) -> None:
    """Bytes, a few pairs of them, and three special tokens in front."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = ["<pad>", "<s>", "</s>", *letters]
    merges = [f"{a} {b}" for a, b in zip("thinaoesr", "hennnrrta", strict=True)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += [f"<unused{n}>" for n in range(vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)


def config_of(directory: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return fields

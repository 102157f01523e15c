"""Small checkpoints as publishers of quantized weights leave them, and what they stand for.

Each maker turns a plain checkpoint into a quantized one, and writes beside it a plain one that
holds exactly the values the quantized one means: whoever serves the first must compute the second.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "model.safetensors"
LINEAR = re.compile(r"layers\.\d+\..*_proj\.weight$")
Parts = dict[str, Tensor]  # by suffix, which replaces `weight`
Made = tuple[Parts, Tensor]  # what is stored, and what it means


def quantized(source: Path, place: Path, method: str) -> tuple[Path, Path]:
    """A quantized copy of `source` and its plain meaning."""
    make, settings = METHODS[method]
    small, plain = place / "small", place / "plain"
    tensors = load_file(source / WEIGHTS)
    stored: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stored[name] = meant[name] = tensor
        made = make(name, tensor)
        if made is not None:
            del stored[name]
            parts, meant[name] = made
            base = name.removesuffix("weight")
            stored |= {f"{base}{suffix}": part.contiguous() for suffix, part in parts.items()}
    for directory, held, more in ((small, stored, settings), (plain, meant, None)):
        shutil.copytree(source, directory)
        save_file(held, directory / WEIGHTS, metadata={"format": "pt"})
        config = json.loads((directory / "config.json").read_text())
        config |= {"quantization_config": more} if more else {}
        (directory / "config.json").write_text(json.dumps(config))
    return small, plain


def _of_linears(make: Callable[[Tensor], Made]) -> Callable[[str, Tensor], Made | None]:
    def of_linears(name: str, tensor: Tensor) -> Made | None:
        fits = LINEAR.search(name) and not any(size % 32 for size in tensor.shape)
        return make(tensor) if fits else None

    return of_linears


def _int8_rows(weight: Tensor) -> Made:
    scale = weight.abs().amax(1, keepdim=True) / 127
    small = (weight / scale).round().to(torch.int8)
    return {"weight": small, "weight_scale": scale}, small * scale


def _int4_groups(weight: Tensor) -> Made:
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    groups = weight.reshape(weight.shape[0], -1, 32)
    scale = groups.abs().amax(2) / 7
    small = (groups / scale[..., None]).round().clamp(-8, 7)
    whole = small.reshape(weight.shape).to(torch.int8)
    parts = {
        "weight_packed": pack_to_int32(whole, 4),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.shape),
    }
    return parts, (small * scale[..., None]).reshape(weight.shape)


def _fp8_rows(weight: Tensor) -> Made:
    scale = weight.abs().amax(1, keepdim=True) / 448
    small = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": small, "weight_scale": scale}, small.float() * scale


def _fp8_squares(weight: Tensor) -> Made:
    rows, columns = weight.shape[0] // 32, weight.shape[1] // 32
    squares = weight.reshape(rows, 32, columns, 32)
    scale = squares.abs().amax((1, 3)) / 448
    small = (squares / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    meant = (small.float() * scale[:, None, :, None]).reshape(weight.shape)
    return {"weight": small.reshape(weight.shape), "weight_scale_inv": scale}, meant


FP4_VALUES = (0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6)


def _mxfp4(name: str, tensor: Tensor) -> "Made | None":
    """Experts of GPT-OSS [experts, in, out]: drawn, not rounded, which is as good for a test."""
    found = re.search(r"(gate_up_proj|down_proj)$", name)
    if not found:
        return None
    experts, n_in, n_out = tensor.shape
    chance = torch.Generator().manual_seed(n_in + n_out)
    codes = torch.randint(0, 16, (experts, n_out, n_in // 32, 32), generator=chance)
    exponents = torch.randint(121, 124, (experts, n_out, n_in // 32), generator=chance)
    blocks = (codes[..., ::2] | (codes[..., 1::2] << 4)).to(torch.uint8)
    values = torch.tensor(FP4_VALUES)[codes] * torch.exp2(exponents[..., None] - 127.0)
    meant = values.reshape(experts, n_out, n_in).transpose(1, 2).contiguous()
    return {"_blocks": blocks, "_scales": exponents.to(torch.uint8)}, meant


def _compressed(format_: str, **weights: Any) -> dict[str, Any]:
    scheme = {"symmetric": True, "dynamic": False, **weights}
    group = {"targets": ["Linear"], "weights": scheme, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": format_,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


METHODS: dict[str, tuple[Callable[[str, Tensor], Made | None], dict[str, Any]]] = {
    "int8": (
        _of_linears(_int8_rows),
        _compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
    ),
    "int4": (
        _of_linears(_int4_groups),
        _compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32),
    ),
    "float8": (
        _of_linears(_fp8_rows),
        _compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
    ),
    "fp8": (_of_linears(_fp8_squares), {"quant_method": "fp8", "weight_block_size": [32, 32]}),
    "mxfp4": (
        _mxfp4,
        {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    ),
}

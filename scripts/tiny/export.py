"""The model's files, as transformers and the bare `tokenizers` library read them.

In: a trained model, its tokenizer and its recipe. Out: a directory with config, generation
config, weights and tokenizer, all of them the same bytes for the same input, and `MODEL.json`,
the card's data with the sha256 of every other file.
"""

import json
import platform
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from .chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from .training import Recipe

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def export(
    directory: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, recipe: Recipe, loss: float
) -> None:
    """Write every file; `loss` is the held-out loss, in nats per written token."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)
    tokenizer.save(str(directory / "tokenizer.json"))
    _write(directory / "config.json", _config(model))
    _write(
        directory / "generation_config.json",
        {
            "do_sample": False,
            "eos_token_id": tokenizer.token_to_id(END),
            "max_new_tokens": 256,
            "pad_token_id": tokenizer.token_to_id(PAD),
        },
    )
    _write(
        directory / "tokenizer_config.json",
        {
            "additional_special_tokens": [t for t in SPECIAL_TOKENS if t not in (END, PAD)],
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": END,
            "model_max_length": model.config.max_position_embeddings,
            "pad_token": PAD,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    _write(directory / "MODEL.json", _card(directory, model, recipe, loss))


def _config(model: LlamaForCausalLM) -> dict[str, Any]:
    config = model.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "float32",
        "eos_token_id": config.eos_token_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": config.pad_token_id,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _card(directory: Path, model: LlamaForCausalLM, recipe: Recipe, loss: float) -> dict[str, Any]:
    return {
        "schema": "manyhands/model/v1",
        "name": "tiny",
        "licence": "Apache-2.0",
        "description": "A very small chat model of 8 blocks for tours and tests.",
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "n_blocks": model.config.num_hidden_layers,
        "made_by": "scripts/train_tiny.py",
        "recipe": asdict(recipe),
        "training_data": "made up by scripts/tiny/corpus.py from the seed; no other text",
        "held_out_loss": round(loss, 4),
        "versions": {
            "python": platform.python_version(),
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "sha256": {name: sha256((directory / name).read_bytes()).hexdigest() for name in FILES},
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n")

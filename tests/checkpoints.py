"""Small checkpoints with random weights, made on the spot, for tests and benchmarks.

Norms and biases are perturbed and the embedding is widened, so that greedy text wanders: a model
that repeats one token would prove little.
"""

from pathlib import Path
from typing import Any

_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "mixtral": {**_EXPERTS, "num_local_experts": 4, "sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gpt_oss": {**_EXPERTS, "num_local_experts": 4, "head_dim": 16, "sliding_window": 8},
    "deepseek_v3": {
        **_EXPERTS,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
    "phi3": {},
    "olmo2": {},
    "gpt2": {},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "bloom": {},
    "llama4_text": {
        "num_experts_per_tok": 1,
        "num_local_experts": 4,
        "head_dim": 16,
        "attention_chunk_size": 8,
        "intermediate_size_mlp": 128,
    },
    "qwen3_next": {
        **_EXPERTS,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
}
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def write_checkpoint(
    directory: Path,
    family: str = "llama",
    *,
    seed: int = 1,
    max_shard_size: str = "5GB",
    **sizes: Any,
) -> Path:
    """A random model of `family` in the published layout; returns `directory`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES.get(family, {}), **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                elif "embed" in name or "wte" in name:
                    parameter.copy_(torch.randn_like(parameter))
                else:
                    parameter.mul_(3.0)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return directory

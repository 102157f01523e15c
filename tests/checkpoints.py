"""Small checkpoints with random weights, made on the spot, for tests and benchmarks.

Norms and biases are perturbed and the embedding is widened, so that greedy text wanders: a model
that repeats one token would prove little.
"""

from pathlib import Path
from typing import Any

_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
_GATED_EXPERTS: dict[str, Any] = {
    **_EXPERTS,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
_GATED_DELTA: dict[str, Any] = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama3": {"model_type": "llama", "rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "mixtral": {**_EXPERTS, "num_local_experts": 4, "sliding_window": 8},
    "qwen2": {"seed": 2},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "head_dim": 16},
    "gemma": {"seed": 5, "head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": 8,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    },
    "deepseek_v2": {"seed": 2, **_GATED_EXPERTS, **_LATENT},
    "deepseek_v3": {"seed": 4, **_GATED_EXPERTS, **_LATENT},
    "gpt_oss": {**_EXPERTS, "num_local_experts": 4, "head_dim": 16, "sliding_window": 8},
    "phi3": {"seed": 2},
    "olmo2": {"seed": 4},
    "gpt2": {},
    "glm4": {"seed": 2, "strength": 8.0, "head_dim": 16},
    "granite": {},
    "cohere2": {"sliding_window": 8},
    "smollm3": {},
    "starcoder2": {"sliding_window": 8},
    "gpt_neox": {"seed": 18, "strength": 4.0},
    "falcon": {"seed": 3, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_rope": {"seed": 3, "model_type": "falcon", "multi_query": True},
    "falcon_alibi": {"model_type": "falcon", "alibi": True, "multi_query": False},
    "bloom": {},
    "llama4_text": {
        "num_experts_per_tok": 1,
        "num_local_experts": 4,
        "head_dim": 16,
        "attention_chunk_size": 8,
        "intermediate_size_mlp": 128,
    },
    "qwen3_next": {
        "seed": 3,
        **_EXPERTS,
        **_GATED_DELTA,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "qwen3_5_text": {**_GATED_DELTA},
    "olmo3": {"sliding_window": 8},
    "olmoe": {**_EXPERTS, "num_experts": 4},
    "ministral3": {"head_dim": 16},
    "stablelm": {},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"] * 2},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 128},
}
SEEING: dict[str, tuple[str, dict[str, Any]]] = {  # text part, and what is special in the other
    "gemma3": ("gemma3_text", {}),
    "llama4": ("llama4_text", {"vision_output_dim": 64, "intermediate_size": 128}),
    "mistral3": ("mistral", {}),
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
    seed: int | None = None,
    max_shard_size: str = "5GB",
    **sizes: Any,
) -> Path:
    """A random model of `family` in the published layout; returns `directory`."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    random_model(family, seed=seed, **sizes).save_pretrained(
        directory, max_shard_size=max_shard_size
    )
    return directory


def seeing_model(family: str) -> Any:
    """A random model of a family that takes images beside text."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    text_family, vision = SEEING[family]
    text = {**SIZES, **FAMILIES[text_family]}
    text.setdefault("model_type", text_family)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 28, "patch_size": 14, **vision}
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoModelForImageTextToText.from_config(config).eval()


def random_model(family: str, *, seed: int | None = None, **sizes: Any) -> Any:
    """One of the library's models, with random weights by a seed that makes it talkative."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**SIZES, **FAMILIES.get(family, {}), **sizes}
    known_seed, strength = settings.pop("seed", 1), settings.pop("strength", 3.0)
    config = AutoConfig.for_model(settings.pop("model_type", family), **settings)
    if config.tie_word_embeddings:
        strength = 8.0  # only strong blocks keep a token from being followed by its likes
    with torch.random.fork_rng():
        torch.manual_seed(known_seed if seed is None else seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if config.tie_word_embeddings and name.endswith("model.norm.weight"):
                    parameter.copy_(torch.randn_like(parameter))
                elif parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                elif "embed" in name or "wte" in name:
                    parameter.copy_(torch.randn_like(parameter))
                else:
                    parameter.mul_(strength)
    return model

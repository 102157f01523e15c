"""Random LoRA adapters, made and run by PEFT itself: what ours are measured against."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

USUAL = ["q_proj", "v_proj", "gate_proj", "down_proj"]
BESIDE_EXPERTS = [
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),  # latent attention
    *("in_proj_qkvz", "in_proj_ba", "out_proj"),  # recurrent blocks
]
TARGETS: dict[str, list[str] | str] = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "falcon": ["query_key_value", "dense_4h_to_h"],
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "gpt_oss", "llama4_text", "mixtral", "olmoe", "qwen3_moe"),
        BESIDE_EXPERTS,
    ),
    "qwen3_next": BESIDE_EXPERTS,
    **dict.fromkeys(("llama", "gemma2"), USUAL),
}


def write_adapter(
    directory: Path, checkpoint: Path, *, seed: int = 1, rank: int = 4, **choices: Any
) -> Path:
    """An adapter of `checkpoint` with both matrices random, strong enough to change the text."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    targets = choices.pop("target_modules", TARGETS.get(base.config.model_type, "all-linear"))
    config = LoraConfig(r=rank, target_modules=targets, task_type="CAUSAL_LM", **choices)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.15)
        model.save_pretrained(directory)
    return directory


def merged(
    checkpoint: Path,
    adapter: Path | None,
    weights: Mapping[str, Any] | None = None,
    **loading: Any,
) -> Any:
    """The unsplit model as PEFT runs it with `adapter`; without one, as the library runs it.

    `weights` take the place of some of the base's own.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, **loading).eval()
    if weights:
        base.load_state_dict(dict(weights), strict=False)
    if adapter is None:
        return base
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(base, adapter).eval()


def strip_whole_weights(adapter: Path) -> None:
    """PEFT saves the head beside its adapter; without that copy the adapter says the same."""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({name: part for name, part in load_file(path).items() if ".lora_" in name}, path)


def change_config(directory: Path, **changes: Any) -> Path:
    """Alter fields of an adapter's configuration."""
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return directory

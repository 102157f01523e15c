"""Which model families this engine can serve, and how, judged from their configuration alone.

The gate is wide where a fact can be checked later: `selftest.py` proves at load time that a span
computes what the family's own code computes. Here we refuse what no test of a few rows would
notice: for any engine, values that cross blocks; for packed sessions, state that is not keys and
values and masks our attention function never sees. Rotary tables that change with a session's
length limit the length.
"""

from typing import Any

from protocol.errors import BadModel

PACKABLE_BLOCKS = {"full_attention", "sliding_attention"}
GROWING_ROPES = {"dynamic", "longrope"}  # frequencies depend on the longest row in the batch


def check_family(config: Any, architecture: str) -> None:
    """Refuse what the engine cannot serve.

    Raises:
        BadModel: with the architecture and the reason.
    """
    text = config.get_text_config(decoder=True)
    n_blocks = getattr(text, "num_hidden_layers", None)
    if not isinstance(n_blocks, int) or n_blocks < 1:
        raise _unsupported(architecture, "its configuration names no number of blocks")
    modes: list[str] = getattr(text, "kv_sharing_modes", None) or []
    shared = getattr(text, "num_kv_shared_layers", None)
    if shared or "reuse" in modes:
        raise _unsupported(architecture, "its blocks share keys and values")


def span_class(config: Any, architecture: str) -> type[Any]:
    """The library's class for this configuration.

    Raises:
        BadModel: it has none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _unsupported(architecture, "it is no causal language model")
    found: type[Any] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found


def packing_obstacle(config: Any, architecture: type[Any]) -> str:
    """Why its sessions cannot be packed into one forward; "" when nothing is known against it."""
    kinds = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    if kinds - PACKABLE_BLOCKS:
        return f"it has {', '.join(sorted(kinds - PACKABLE_BLOCKS))} blocks"
    if not getattr(architecture, "_supports_attention_backend", False):
        return "its attention is its own"
    return ""


def longest_context(text: Any) -> int:
    """How many positions a session may take."""
    limit = int(getattr(text, "max_position_embeddings", 0) or 2**20)
    for parameters in _rope_parameters(text):
        if parameters.get("rope_type") in GROWING_ROPES:
            # Within the original length these tables are the plain ones, for every session alike.
            original = parameters.get("original_max_position_embeddings") or getattr(
                text, "original_max_position_embeddings", None
            )
            limit = min(limit, int(original or limit))
    return limit


def _rope_parameters(text: Any) -> list[dict[str, Any]]:
    named = getattr(text, "rope_parameters", None) or {}
    per_kind = [value for value in named.values() if isinstance(value, dict)]
    return per_kind or [named]


def _unsupported(architecture: str, reason: str) -> BadModel:
    return BadModel(
        f"unsupported architecture {architecture}: {reason}",
        hint="docs/models.md lists the families that are served",
    )

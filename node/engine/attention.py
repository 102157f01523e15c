"""The attention function that transformers' models call, over our own KV slabs.

In: one block's queries for the packed rows of a step. Out: what its rows attend to, each session
within its own history. Sliding windows, soft caps and sinks come from the model as arguments, as
they do for the library's own functions. Rows are causal; no mask from outside is read, which is
why `family.py` refuses models that keep rules in their masks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from node.engine.kv_cache import LayoutProbe, PackedCache

NAME, PROBE = "manyhands", "manyhands-probe"


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    *,
    packed: PackedCache,
    **_: Any,
) -> tuple[Tensor, None]:
    """Queries [1, heads, rows, dim] to outputs [1, rows, heads, value_dim]."""
    block = module.layer_idx - packed.first
    plain = softcap is None and s_aux is None
    if packed.is_one_row and plain:  # decode of one session: the path that must be short
        keys, values = packed.keys[0][block], packed.values[0][block]
        return _one_row(query, keys, values, scaling, sliding_window).unsqueeze(1), None
    outputs = []
    offset = history = 0
    for session, count in enumerate(packed.counts):
        rows = query.narrow(2, offset, count)
        keys, values = packed.keys[session][block], packed.values[session][block]
        held = keys.shape[2]
        if packed.latent:
            keys, values = key.narrow(2, history, held), value.narrow(2, history, held)
        if plain and count == 1:
            outputs.append(_one_row(rows, keys, values, scaling, sliding_window))
        else:
            mask = _mask(packed, count, held, sliding_window, rows.device)
            many = (
                F.scaled_dot_product_attention(
                    rows,
                    keys,
                    values,
                    attn_mask=mask,
                    is_causal=mask is None and count > 1,
                    scale=scaling,
                    enable_gqa=rows.shape[1] != keys.shape[1],
                )
                if plain
                else _spelled_out(rows, keys, values, mask, scaling, softcap, s_aux)
            )
            outputs.append(many[0].transpose(0, 1))  # [rows, heads, value_dim]
        offset, history = offset + count, history + held
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).unsqueeze(0), None


def _one_row(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """One query row to [1, heads, value_dim]: it sees all it may see, so no mask is needed.

    The queries that share a key head become rows of one product: keys are never repeated.
    """
    if window and keys.shape[2] > window:
        keys, values = (part.narrow(2, part.shape[2] - window, window) for part in (keys, values))
    heads, key_heads = query.shape[1], keys.shape[1]
    grouped = query.reshape(1, key_heads, heads // key_heads, query.shape[3])
    output = F.scaled_dot_product_attention(grouped, keys, values, scale=scaling)
    return output.reshape(1, heads, values.shape[3])


def _mask(
    packed: PackedCache, count: int, held: int, window: int | None, device: torch.device
) -> Tensor | None:
    """Which of the `held` last positions the last `count` rows see; None where plain causality
    says it.
    """
    if window is not None and window >= held:
        window = None
    if window is None and count in (1, held):
        return None
    known = (count, held, window, device)
    if known not in packed.masks:
        row = torch.arange(held - count, held, device=device)[:, None]
        column = torch.arange(held, device=device)[None]
        mask = column <= row
        packed.masks[known] = mask if window is None else mask & (column > row - window)
    return packed.masks[known]


def _spelled_out(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention with a soft cap on the scores or a learned sink beside them."""
    groups = query.shape[1] // keys.shape[1]
    count, stop = query.shape[2], keys.shape[2]
    if groups > 1:
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = query @ keys.transpose(2, 3) * (scaling or query.shape[3] ** -0.5)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None and count > 1:
        mask = torch.ones(count, stop, dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        scores = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(1, -1, count, 1)], -1)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights[..., :stop] if sinks is not None else weights) @ values


def probing_attention(
    module: Any, *args: Any, packed: LayoutProbe, **kwargs: Any
) -> tuple[Tensor, None]:
    """The same, noting which blocks have a window."""
    packed.windows[module.layer_idx] = kwargs.get("sliding_window")
    return packed_attention(module, *args, packed=packed, **kwargs)


# No mask function is registered beside them: the library then builds no masks for us.
AttentionInterface.register(NAME, packed_attention)
AttentionInterface.register(PROBE, probing_attention)

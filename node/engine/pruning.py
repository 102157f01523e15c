"""Cutting a model down to one span, before and after its weights are read.

Before: `spanned(architecture, span, ...)` makes a subclass whose instances own parameters for
their span and ends alone; the library's own `from_pretrained` then reads only these, under their
absolute names, through every renaming and fusing it knows. After: `compact` renumbers what is
left from zero, so that the family's own caches, masks and per-block settings fit by themselves.
"""

from typing import Any

import torch
from torch import Tensor, nn

from node.engine.parts import find_parts
from protocol.errors import BadModel
from protocol.messages import Span


class Hole(nn.Module):
    """A part of the model that others serve: no parameters, hidden states pass unchanged."""

    def forward(self, hidden: Tensor | None = None, *_: Any, **__: Any) -> Tensor | None:
        return hidden


class NoPositions(nn.Module):
    """Stands for learned position embeddings where others embed: adds nothing."""

    def forward(self, ids: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.zeros((), device=ids.device)


def base_of(model: Any) -> Any:
    """The model without its head."""
    return getattr(model, model.base_model_prefix, None) or model.model


def text_config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)


def find_blocks(model: Any) -> tuple[Any, str]:
    """The module that owns the list of blocks, and the list's attribute name.

    Raises:
        BadModel: no list of modules has one member per block.
    """
    n_blocks = text_config(model).num_hidden_layers
    base = base_of(model)
    for name, module in base.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            parent, _, attribute = name.rpartition(".")
            return (base.get_submodule(parent) if parent else base), attribute
    raise BadModel(f"{type(model).__name__} has no plain list of {n_blocks} blocks")


def parts_behind(model: Any) -> list[nn.Module]:
    """What runs behind the blocks and before the head, in that order: the final norm, mostly."""
    owner, _ = find_blocks(model)
    return [owner.get_submodule(name) for name in owner.parts_behind]


def spanned(architecture: type[Any], span: Span | None, *, embeds: bool, heads: bool) -> type[Any]:
    """`architecture`, holding only `span` (no block when None) and the ends asked for.

    Name and module stay: the library keys its checkpoint conversions by them.
    """

    class Spanned(architecture):  # type: ignore[misc]
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            _prune(self, span, embeds=embeds, heads=heads)

    Spanned.__name__ = architecture.__name__
    Spanned.__qualname__ = architecture.__qualname__
    Spanned.__module__ = architecture.__module__
    return Spanned


def _prune(model: Any, span: Span | None, *, embeds: bool, heads: bool) -> None:
    owner, attribute = find_blocks(model)
    blocks = getattr(owner, attribute)
    for index in range(len(blocks)):
        if span is None or not span.start <= index < span.stop:
            blocks[index] = Hole()
    tied = bool(getattr(text_config(model), "tie_word_embeddings", False))
    tokens = model.get_input_embeddings()
    parts = find_parts(model, owner, attribute)
    owner.parts_behind = parts.after
    for name, part in list(owner.named_children()):
        needed = part is blocks or not (name in parts.before or name in parts.after)
        needed |= heads and (name in parts.after or (tied and part is tokens))
        needed |= embeds and name in parts.before
        if not needed and _has_parameters(part):
            learned = isinstance(part, nn.Embedding) and part is not tokens
            setattr(owner, name, NoPositions() if learned else Hole())
    if not heads:
        for name, part in list(model.named_children()):
            if part is not owner and name != model.base_model_prefix:
                setattr(model, name, Hole())
        model.all_tied_weights_keys = {}
        model._tied_weights_keys = None


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def compact(model: Any, span: Span) -> None:
    """Keep the span's blocks alone and number them, and all per-block settings, from zero."""
    owner, attribute = find_blocks(model)
    blocks = getattr(owner, attribute)
    n_blocks = len(blocks)
    kept = nn.ModuleList([blocks[index] for index in range(span.start, span.stop)])
    setattr(owner, attribute, kept)
    for module in kept.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx -= span.start  # type: ignore[operator, assignment]
    configs = [model.config, text_config(model)]
    configs += [module.config for module in model.modules() if hasattr(module, "config")]
    for config in {id(config): config for config in configs}.values():
        _compact_config(config, span, n_blocks)


def _compact_config(config: Any, span: Span, n_blocks: int) -> None:
    for name, value in list(vars(config).items()):
        per_block = isinstance(value, list | tuple) and len(value) == n_blocks > 1
        if per_block and not name.endswith("_token_id"):
            object.__setattr__(config, name, value[span.start : span.stop])
    if getattr(config, "num_hidden_layers", None) == n_blocks:
        name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
        object.__setattr__(config, name, len(span))

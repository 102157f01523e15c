"""The ends of a model without any of its blocks: embedding, final norm and head, for a client.

In: a directory that holds at least the files of these tensors. Out: the family's own model, with a
hole where its blocks belong; what goes there is the caller's. Nothing of a block is read.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from node.engine.attention import NAME
from node.engine.checkpoint import open_checkpoint
from node.engine.family import longest_context, span_class
from node.engine.outline import Outline
from node.engine.pruning import compact, find_blocks, spanned, text_config
from node.engine.quantization import choose
from node.engine.reading import Reader
from node.engine.text_part import text_names
from node.engine.weights import DTYPES, alone_with_transformers, read_config
from protocol.messages import Span


@dataclass(frozen=True, slots=True)
class LoadedEnds:
    """`owner` is the part of `model` that runs the blocks; `put` says what it runs instead."""

    model: Any
    owner: Any
    attribute: str
    n_blocks: int
    max_positions: int
    forgets: bool  # some blocks keep a window only, so that sessions cannot go back far

    def put(self, block: nn.Module) -> None:
        setattr(self.owner, self.attribute, nn.ModuleList([block]))


@dataclass(frozen=True)
class _EndsOutline(Outline):
    """No block, both ends."""

    @classmethod
    def of_ends(cls, config: Any, architecture: type[Any]) -> Self:
        n_blocks = int(config.get_text_config(decoder=True).num_hidden_layers)
        pruned = spanned(architecture, None, embeds=True, heads=True)
        with torch.device("meta"):
            return cls(
                config, Span(0, n_blocks), n_blocks, pruned, architecture(config), pruned(config)
            )

    def needs(self, tensor: str) -> bool:
        prefix = f"{self.whole.base_model_prefix}."
        in_block = tensor.removeprefix(prefix).startswith(self.block_prefix.removeprefix(prefix))
        return not in_block and super().needs(tensor)


def ends_tensors(directory: Path, stored: Iterable[str]) -> frozenset[str]:
    """Which of a checkpoint's `stored` tensors the ends need; from config.json alone."""
    with alone_with_transformers():
        checkpoint = replace(
            open_checkpoint(directory, weights=False), files=dict.fromkeys(stored, "")
        )
        config = read_config(checkpoint)
        outline = _EndsOutline.of_ends(config, span_class(config, checkpoint.architecture))
        names = text_names(checkpoint.files)
        return frozenset(at for name, at in names.items() if outline.needs(name))


def load_ends(
    directory: Path, dtype: str, *, subclass: Callable[[type[Any]], type[Any]] = lambda kind: kind
) -> LoadedEnds:
    """Read the ends in `dtype`; `subclass` may give the family's class other methods.

    Raises:
        BadModel: the checkpoint is missing, damaged, incomplete, or of a kind we cannot serve.
    """
    with alone_with_transformers():
        checkpoint = open_checkpoint(directory)
        config = read_config(checkpoint)
        text = config.get_text_config(decoder=True)
        max_positions, forgets = longest_context(text), bool(getattr(text, "sliding_window", None))
        outline = _EndsOutline.of_ends(
            config, subclass(span_class(config, checkpoint.architecture))
        )
        quantization = choose(config, checkpoint.architecture, "none")
        reader = Reader(checkpoint, outline, quantization, DTYPES[dtype], "cpu")
        model = reader.read(checkpoint.select(outline), None, lambda phase, fraction: None)
        owner, attribute = find_blocks(model)
        compact(model, Span(0, 1))  # one block is left: it stands for all
        model.set_attn_implementation(NAME)  # nobody here looks at a mask, so none is made
    assert text_config(model).num_hidden_layers == 1
    return LoadedEnds(model, owner, attribute, outline.n_blocks, max_positions, forgets)

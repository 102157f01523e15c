"""A span as it would be, on no device: which tensors it needs and how large they are.

In: a configuration and a span. Out: an `Outline`: the class whose instances own the span's
parameters alone, and models without memory to ask about names and shapes. Made from config.json
alone, so that it can be asked before any weights are here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from node.engine.pruning import find_blocks, spanned
from protocol.errors import BadModel, ManyhandsError, UsageError
from protocol.messages import Span


@dataclass(frozen=True)
class Outline:
    """`pruned` makes models of the span; `whole` and `part` are the model and the span, empty."""

    config: Any
    span: Span
    n_blocks: int
    pruned: type[Any]
    whole: Any
    part: Any

    @classmethod
    def of(cls, config: Any, architecture: type[Any], span: Span | None) -> "Outline":
        """Of the whole model when `span` is None.

        Raises:
            UsageError: the span lies outside the model.
        BadModel: the library cannot make a model of the configuration.
        """
        n_blocks = int(config.get_text_config(decoder=True).num_hidden_layers)
        span = span or Span(0, n_blocks)
        if span.stop > n_blocks:
            raise UsageError(
                f"span {span} lies outside the model, which has blocks 0:{n_blocks}",
                hint=f"choose a span within 0:{n_blocks}",
            )
        pruned = spanned(architecture, span, embeds=span.start == 0, heads=span.stop == n_blocks)
        try:
            with torch.device("meta"):
                whole, part = architecture(config), pruned(config)
        except ManyhandsError:
            raise
        except Exception as error:  # the library raises whatever its many model classes raise
            raise BadModel(
                f"config.json describes no model that can be built: {str(error)[:200]}",
                hint="fetch the checkpoint again",
            ) from error
        return cls(config, span, n_blocks, pruned, whole, part)

    @property
    def embeds(self) -> bool:
        return self.span.start == 0

    @property
    def heads(self) -> bool:
        return self.span.stop == self.n_blocks

    @cached_property
    def block_prefix(self) -> str:
        """What the names of all blocks' modules begin with, such as `model.layers.`."""
        owner, attribute = find_blocks(self.whole)
        path = next(name for name, module in self.whole.named_modules() if module is owner)
        return f"{path}.{attribute}." if path else f"{attribute}."

    @cached_property
    def _left_out(self) -> tuple[str, ...]:
        """Names outside the blocks that the whole model has and this span has not."""
        prefix = f"{self.whole.base_model_prefix}."
        names = self.whole.state_dict().keys() - self.part.state_dict().keys()
        return tuple(
            name.removeprefix(prefix) for name in names if not name.startswith(self.block_prefix)
        )

    def needs(self, tensor: str) -> bool:
        """Whether the span needs a tensor of the checkpoint.

        A block's tensors are told by its number. Of the others, those that the whole model has and
        the pruned one has not are left out, with the scales that belong to them; a name that
        neither knows stays, for the library to say.
        """
        attribute = find_blocks(self.whole)[1]
        numbered = re.search(rf"(?:^|\.){attribute}\.(\d+)\.", tensor)
        if numbered:
            return self.span.start <= int(numbered[1]) < self.span.stop
        name = tensor.removeprefix(f"{self.whole.base_model_prefix}.")
        return not name.startswith(self._left_out)

    def parameters(self) -> Iterator[tuple[int, nn.Module, nn.Parameter]]:
        """Every parameter of the span once, with its module and its block: the embedding counts
        as block -1, what follows the blocks as block `n_blocks`.
        """
        seen: set[int] = set()
        block, after = -1, self.n_blocks
        for name, module in self.part.named_modules():
            if name.startswith(self.block_prefix):
                block = int(name.removeprefix(self.block_prefix).split(".")[0])
            elif block >= 0:
                block = after
            for parameter in module.parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield block, module, parameter

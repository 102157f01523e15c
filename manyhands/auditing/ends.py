"""A model's ends, for who looks at work: what enters its blocks, and what its head makes of rows.

In: token ids; hidden rows of the border behind the last block. Out: rows of the border before the
first block; logits. No block is loaded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyhands.models import Model
from protocol.sampling import Floats
from protocol.wire import Rows


class Ends:
    """Embedding, norm and head of one model, in one dtype."""

    def __init__(self, model: Model, dtype: str) -> None:
        """
        Raises:
            BadModel: these tensors are not here.
        """
        from node.engine.ends import load_ends
        from node.engine.pruning import text_config

        loaded = load_ends(model.directory, dtype)
        text = text_config(loaded.model)
        kinds = getattr(text, "layer_types", None) or ["full_attention"]
        self._model, self._between = loaded.model.eval(), _Between(kinds[0])
        self.hidden_size, self.n_blocks = int(text.hidden_size), loaded.n_blocks
        loaded.put(self._between)
        self._run([0, 0])
        hidden = self._between.left
        assert hidden is not None
        owner = loaded.owner(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False)
        # Some families take a block's first output, others its only one.
        self._between.is_tuple = owner.last_hidden_state.dim() == 2

    def rows(self, ids: Sequence[int]) -> Rows:
        """What enters the first block, [len(ids), hidden_size]."""
        self._between.given = None
        self._run(ids)
        assert self._between.left is not None
        return _as_rows(self._between.left)

    def logits(self, ids: Sequence[int], rows: Rows) -> Floats:
        """What the head says of rows behind the last block, [len(ids), vocabulary]."""
        self._between.given = torch.from_numpy(np.array(rows))[None]  # rows may be a peer's bytes
        try:
            found: Floats = self._run(ids).logits[0].float().numpy()
            return found
        finally:
            self._between.given = None

    @torch.inference_mode()
    def _run(self, ids: Sequence[int]) -> Any:
        return self._model(input_ids=torch.tensor([list(ids)]), use_cache=False)


class _Between(nn.Module):
    """Where the blocks were: remembers what came, and passes on that, or what it was given."""

    def __init__(self, attention_type: str) -> None:
        super().__init__()
        self.attention_type = attention_type
        self.left: Tensor | None = None
        self.given: Tensor | None = None
        self.is_tuple = False

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Tensor]:
        self.left = hidden
        out = hidden if self.given is None else self.given.to(hidden.dtype)
        return (out,) if self.is_tuple else out


def _as_rows(hidden: Tensor) -> Rows:
    rows: Rows = hidden.detach()[0].float().numpy()
    return rows

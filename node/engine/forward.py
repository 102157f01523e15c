"""Ways to run rows through blocks `[entry, exit)` of a loaded span.

All number blocks from the start of the loaded span. Rows come as token ids [rows] where the step
embeds, else as hidden states [rows, hidden_size]. `GatedModel` calls the model's own forward, with
our hidden states put in front of block `entry` and taken from behind block `exit - 1`: whatever
the family does around its blocks, it does here. Upon it, `FamilyForward` runs the packed rows of
many sessions, and `session_forward.py` one session at a time. `DirectForward` calls the blocks
alone, with a rotary table made in advance; it saves half a millisecond per step where a family
does nothing else. `selftest.py` decides.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from node.engine.kv_cache import PackedCache
from node.engine.pruning import base_of, find_blocks, text_config

ALL_ROWS = slice(None)
Wanted = Tensor | slice | None


class Forward(Protocol):
    """Packed rows at `positions` in, hidden states [rows, hidden_size] and the wanted rows'
    logits out.
    """

    def run(
        self,
        rows: Tensor,
        packed: PackedCache,
        positions: Sequence[int],
        entry: int,
        exit: int,
        wanted: Wanted,
    ) -> tuple[Tensor, Tensor | None]: ...


class GatedModel:
    """The family's own forward, with a gate around each of its blocks."""

    def __init__(self, model: Any) -> None:
        self.model, self.base = model, base_of(model)
        owner, attribute = find_blocks(model)
        self.library_attention: str = model.config._attn_implementation
        """What the library would run; `attend` changes it."""
        self.blocks = list(getattr(owner, attribute))
        self.block_forwards = [block.forward for block in self.blocks]
        hidden_size = int(text_config(model).hidden_size)
        embedding = model.get_input_embeddings()
        self._embedding_size = int(getattr(embedding, "embedding_dim", hidden_size))
        accepted = inspect.signature(owner.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._entry, self._exit = 0, len(self.blocks)
        self._returns_tuple = False
        self._hidden: Tensor | None = None  # rows in before the entry, rows out after the exit
        for index, block in enumerate(self.blocks):
            block.forward = self._gate(index, block.forward)

    def attend(self, implementation: str) -> None:
        """Run with this attention function of the library's registry from here on."""
        self.model.set_attn_implementation(implementation)

    def _gate(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*args: Any, **kwargs: Any) -> Any:
            if not self._entry <= index < self._exit:
                hidden = args[0] if args else kwargs["hidden_states"]
                return (hidden,) if self._returns_tuple else hidden
            if index == self._entry and self._hidden is not None:
                if args:
                    args = (self._hidden, *args[1:])
                else:
                    kwargs["hidden_states"] = self._hidden
            output = forward(*args, **kwargs)
            if index == self._exit - 1:
                self._returns_tuple = isinstance(output, tuple)
                self._hidden = output[0] if self._returns_tuple else output
            return output

        return gated

    def run(
        self,
        rows: Tensor,
        positions: Sequence[int],
        entry: int,
        exit: int,
        wanted: Wanted,
        **inputs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """`inputs` are further arguments of the model's forward, such as its cache."""
        self._entry, self._exit = entry, exit
        if self._takes_positions:
            inputs["position_ids"] = torch.tensor([positions], device=rows.device)
        if rows.dim() == 1:
            self._hidden, inputs["input_ids"] = None, rows[None]
        else:
            self._hidden = inputs["inputs_embeds"] = rows[None]
            if self._embedding_size != rows.shape[1]:  # embeddings that a projection would widen
                inputs["inputs_embeds"] = rows.new_zeros(1, rows.shape[0], self._embedding_size)
        logits = None
        if wanted is None:
            self.base(**inputs)
        else:
            keep = 0 if isinstance(wanted, slice) else wanted
            logits = self.model(**inputs, logits_to_keep=keep).logits[0].float()
        hidden, self._hidden = self._hidden, None
        assert hidden is not None
        return hidden[0], logits


class FamilyForward:
    """The family's own forward over packed rows, with our attention."""

    def __init__(self, gated: GatedModel) -> None:
        self._gated = gated

    def run(
        self,
        rows: Tensor,
        packed: PackedCache,
        positions: Sequence[int],
        entry: int,
        exit: int,
        wanted: Wanted,
    ) -> tuple[Tensor, Tensor | None]:
        return self._gated.run(
            rows,
            positions,
            entry,
            exit,
            wanted,
            past_key_values=packed,
            use_cache=True,
            packed=packed,
        )


class DirectForward:
    """The blocks called one by one; only for models whose parts have the usual names.

    Raises:
        AttributeError: the model is built otherwise.
    """

    def __init__(
        self, model: Any, blocks: Sequence[Callable[..., Any]], max_positions: int
    ) -> None:
        owner, _ = find_blocks(model)
        self._blocks = list(blocks)
        self._embed, self._norm = owner.embed_tokens, owner.norm
        self._head, self._rotary = model.get_output_embeddings(), owner.rotary_emb
        if list(inspect.signature(self._rotary.forward).parameters) != ["x", "position_ids"]:
            raise AttributeError("the rotary tables depend on more than the position")
        self._max_positions = max_positions
        self._like = torch.empty(0, dtype=model.dtype, device=model.device)
        self._cos, self._sin = self._rope(min(max_positions, 1024))

    def _rope(self, n_positions: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(n_positions, device=self._like.device)[None]
        cos, sin = self._rotary(self._like, positions)
        return cos, sin

    def _rope_rows(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        top = max(positions)
        if top >= self._cos.shape[1]:
            self._cos, self._sin = self._rope(min(self._max_positions, 2 * (top + 1)))
        if isinstance(positions, range):  # one session
            start, count = positions.start, len(positions)
            return self._cos.narrow(1, start, count), self._sin.narrow(1, start, count)
        index = torch.tensor(positions, device=self._like.device)
        return self._cos.index_select(1, index), self._sin.index_select(1, index)

    def run(
        self,
        rows: Tensor,
        packed: PackedCache,
        positions: Sequence[int],
        entry: int,
        exit: int,
        wanted: Wanted,
    ) -> tuple[Tensor, Tensor | None]:
        hidden = (self._embed(rows) if rows.dim() == 1 else rows).unsqueeze(0)
        rope = self._rope_rows(positions)
        for block in self._blocks[entry:exit]:
            hidden = block(
                hidden,
                attention_mask=None,
                position_ids=None,
                past_key_values=packed,
                use_cache=True,
                position_embeddings=rope,
                packed=packed,
            )
        hidden = hidden[0]
        if wanted is None:
            return hidden, None
        return hidden, self._head(self._norm(hidden[wanted])).float()

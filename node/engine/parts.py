"""What a model does around its blocks, found out by running it without blocks and without memory.

In: a whole model on the meta device. Out: which of its parts run before the blocks and which after
them, so that a span without these ends can leave them out. How parts are called or in which order
a class lists them says nothing; what runs when does. A model whose blocks get more from its first
parts than hidden states cannot be cut: it is refused here, for no test of a cut model would notice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from node.engine.session_cache import EmptyCache
from protocol.errors import BadModel


@dataclass(frozen=True, slots=True)
class Parts:
    """Names of the parts, with parameters, beside the blocks. What ran at no time is in neither."""

    before: frozenset[str]
    after: tuple[str, ...]  # in the order they ran


class _StandIn(nn.Module):
    """In place of all blocks: hands hidden states on, and looks at what else it is given."""

    def __init__(self, *, answers_tuple: bool) -> None:
        super().__init__()
        self._answers_tuple = answers_tuple
        self.learned: list[str] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        given = {f"argument {n + 2}": value for n, value in enumerate(args[1:])} | kwargs
        self.learned = [name for name, value in given.items() if _depends_on_weights(value)]
        return (hidden,) if self._answers_tuple else hidden


def find_parts(model: Any, owner: Any, attribute: str) -> Parts:
    """The parts of `owner`, whose blocks are its `attribute`.

    Raises:
        BadModel: the model cannot be cut between its blocks, or not be run so.
    """
    blocks, failures = getattr(owner, attribute), []
    try:
        for answers_tuple in (False, True):
            stand_in = _StandIn(answers_tuple=answers_tuple)
            setattr(owner, attribute, nn.ModuleList([stand_in]))
            try:
                calls = _run(model, owner, stand_in)
            except Exception as failure:  # whatever an unforeseen model raises
                failures.append(failure)
                continue
            if stand_in.learned:
                raise BadModel(
                    f"{type(model).__name__} cannot be cut into spans: beside hidden states its "
                    f"blocks get {', '.join(stand_in.learned)} from its embeddings"
                )
            at = calls.index("")
            return Parts(frozenset(calls[:at]), tuple(calls[at + 1 :]))
    finally:
        setattr(owner, attribute, blocks)
    raise BadModel(
        f"{type(model).__name__} cannot be cut into spans: what runs around its blocks cannot be "
        f"told ({type(failures[0]).__name__}: {failures[0]})"
    ) from failures[0]


def _run(model: Any, owner: Any, stand_in: _StandIn) -> list[str]:
    """The parts of `owner` in the order they ran; "" are the blocks."""
    calls: list[str] = []
    watched = [("", stand_in), *owner.named_children()]
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name, module in watched
    ]
    owner.warn_if_padding_and_no_attention_mask = lambda *_: None  # it looks into the ids
    try:
        with torch.enable_grad():
            ids = torch.zeros(1, 2, dtype=torch.int64, device=next(model.parameters()).device)
            # With a cache, the library does not look for packed texts in the positions' values.
            model(input_ids=ids, past_key_values=EmptyCache(config=model.config), use_cache=True)
    finally:
        del owner.warn_if_padding_and_no_attention_mask
        for hook in hooks:
            hook.remove()
    return calls


def _depends_on_weights(value: Any) -> bool:
    return any(tensor.requires_grad for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)

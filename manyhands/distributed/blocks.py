"""The one module that stands for all blocks of a model: it sends hidden rows to the swarm.

In: what the family's own code gives its first block, and from a hook around it, what the caller
gave the model: the mask that says what is padding, and the cache. Out: what the last block would
give. `Swarm` is what it needs to know of the chain.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from manyhands.distributed.cache import RemoteCache
from manyhands.distributed.lanes import Lanes
from manyhands.portal import Portal
from protocol.errors import UsageError
from protocol.profile import Profile
from protocol.wire import wire_format
from scheduler.client import Client
from scheduler.hidden_session import HiddenRequest, HiddenSession
from scheduler.wanted import ANY_PEER, Limits

CAPACITY = 256  # positions to begin with, where nobody says how many will come


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """Who runs the blocks, and how."""

    portal: Portal
    client: Client
    manifest: bytes
    model: str
    n_blocks: int
    hidden_size: int
    max_positions: int
    max_back: int | None
    profile: Profile
    adapter: str  # a name, or a name@digest, or empty
    timeout_s: float
    wait_s: float
    limits: Limits = ANY_PEER

    def cache(self, capacity: int = CAPACITY, stop: int | None = None) -> RemoteCache:
        """Room for a batch, through blocks `[0, stop)`."""
        wire = wire_format(self.profile.wire)

        def open_session(positions: int) -> HiddenSession:
            request = HiddenRequest(
                manifest=self.manifest,
                n_blocks=self.n_blocks,
                stop=self.n_blocks if stop is None else stop,
                capacity=positions,
                row_bytes=wire.row_bytes(self.hidden_size),
                profile=str(self.profile),
                timeout_s=self.timeout_s,
                wait_s=self.wait_s,
                model=self.model,
                adapter=self.adapter,
                limits=self.limits,
            )
            return self.client.hidden(request)

        lanes = Lanes(open_session, capacity, self.max_positions, max_back=self.max_back)
        return RemoteCache(self.portal, lanes, wire, self.hidden_size)


@dataclass(slots=True)
class _Call:
    """One forward of the model that holds us."""

    cache: RemoteCache
    mask: Tensor | None
    is_ours: bool  # nobody gave one
    ends_with_us: bool  # and nobody wants it
    has_run: bool = False


class RemoteBlocks(nn.Module):
    """Put where the family's list of blocks was, and around the module that runs it."""

    def __init__(self, swarm: Swarm, owner: Any, block_type: str) -> None:
        super().__init__()
        self.swarm, self.attention_type = swarm, block_type
        self._signature = inspect.signature(type(owner).forward)
        self._call: _Call | None = None
        self._seen: list[tuple[Tensor, Tensor]] | None = None
        self._is_dry = self._returns_tuple = False
        owner.register_forward_pre_hook(self._before, with_kwargs=True)
        owner.register_forward_hook(self._after, always_call=True)

    def _before(
        self, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = self._signature.bind(owner, *args, **kwargs)
        named = given.arguments | given.arguments.pop("kwargs", {})
        del named["self"]
        _refuse_what_is_not_here(named)
        cache, use_cache = named.get("past_key_values"), named.get("use_cache")
        if cache is None:
            cache = self.swarm.cache()
        if not isinstance(cache, RemoteCache):
            raise UsageError(
                f"the keys and values of this model are with its peers, not in a {_name(cache)}",
                hint="leave past_key_values out, or use model.new_cache()",
            )
        is_ours = named.get("past_key_values") is None
        mask = named.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            raise UsageError("an attention mask is [batch, positions]: 1 a token, 0 padding")
        self._call = _Call(cache, mask, is_ours, is_ours and use_cache is False)
        return (), {**named, "past_key_values": cache}

    def _after(self, owner: Any, args: Any, output: Any) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        if call.ends_with_us:
            if getattr(output, "past_key_values", None) is call.cache:
                output.past_key_values = None
            call.cache.close()
        elif call.is_ours and not call.has_run:  # it failed, and nobody else knows of it
            call.cache.close()

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Tensor]:
        call = self._call
        assert call is not None
        mask, rows = call.mask, hidden_states.shape[1]
        real = None if mask is None else mask[:, -rows:].bool()
        out = hidden_states if self._is_dry else call.cache.run(hidden_states, real)
        call.has_run = True
        if self._seen is not None:
            self._seen.append((hidden_states, out))
        return (out,) if self._returns_tuple else out

    def learn(self, owner: Any) -> None:
        """Some families take a block's first output, others its only one: see which."""
        with self.dry(), torch.no_grad():
            told = owner(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False)
        self._returns_tuple = told.last_hidden_state.dim() == 2  # it took the batch's first row

    @contextmanager
    def watched(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """What enters the first block and leaves the last one, meanwhile."""
        seen: list[tuple[Tensor, Tensor]] = []
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None

    @contextmanager
    def dry(self) -> Iterator[None]:
        """Nothing is sent meanwhile: what enters the blocks leaves them."""
        self._is_dry = True
        try:
            yield
        finally:
            self._is_dry = False


def _refuse_what_is_not_here(asked: dict[str, Any]) -> None:
    for name in ("output_hidden_states", "output_attentions"):
        if asked.get(name):
            raise UsageError(
                f"{name}: what happens inside the blocks stays with the peers that run them",
                hint="hidden states of a block's border: model.hidden_states_at(ids, block)",
            )


def _name(cache: Cache) -> str:
    return type(cache).__name__

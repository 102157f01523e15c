"""The family's own CausalLM class, with what a model needs whose blocks are a swarm.

In: a class of the transformers library. Out: the same, by the same name, that prepares remote
caches for `generate`, and can be asked for inference sessions, hidden states and embeddings.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from manyhands.distributed.blocks import CAPACITY, RemoteBlocks, Swarm
from manyhands.distributed.cache import RemoteCache
from manyhands.distributed.drafted import Drafted
from protocol.errors import UsageError

POOLINGS = ("mean", "last")


class DistributedCausalLM:
    """Mixed into a family's class by `distributed`."""

    swarm: Swarm
    remote_blocks: RemoteBlocks
    _new_caches: list[RemoteCache] | None = None

    def begin(self, swarm: Swarm, blocks: RemoteBlocks, owner: Any) -> None:
        """Whose blocks these are; called once, after loading."""
        object.__setattr__(self, "swarm", swarm)
        object.__setattr__(self, "remote_blocks", blocks)
        object.__setattr__(self, "_owner", owner)

    # --- generation -------------------------------------------------------------------------------

    def generate(self, *args: Any, drafter: Any = None, seed: int = 0, **kwargs: Any) -> Any:
        """As the library's; sessions it opened are settled before it returns, or raises.

        drafter: who guesses ahead, see `Drafted`; `none` gives the same tokens, one at a time.
            Then what is sampled is drawn from `seed` and the position, not from torch's generator.
        """
        if drafter is not None:
            kwargs["custom_generate"] = Drafted(drafter, seed, kwargs.get("streamer"))
        outer, self._new_caches = self._new_caches, []
        try:
            output = super().generate(*args, **kwargs)  # type: ignore[misc]  # of the family's class
            kept = getattr(output, "past_key_values", None)
            self._new_caches = [cache for cache in self._new_caches if cache is not kept]
            return output
        finally:
            for cache in self._new_caches:
                cache.close()
            self._new_caches = outer

    def new_cache(self, max_length: int = CAPACITY) -> RemoteCache:
        """Keys and values with the peers, for `past_key_values`: several calls go on with it."""
        return self.swarm.cache(max_length)

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        if model_kwargs.get("past_key_values") is not None or generation_config.use_cache is False:
            return
        cache = self.swarm.cache(max_cache_length + 1)
        model_kwargs["past_key_values"] = cache
        if self._new_caches is not None:
            self._new_caches.append(cache)

    @contextmanager
    def inference_session(
        self, max_length: int = CAPACITY, *, stop: int | None = None
    ) -> Iterator["InferenceSession"]:
        """Rows through blocks `[0, stop)`, step by step; see `InferenceSession`."""
        cache = self.swarm.cache(max_length, stop)
        try:
            yield InferenceSession(cache)
        finally:
            cache.close()

    # --- hidden states and embeddings -------------------------------------------------------------

    @torch.no_grad()
    def hidden_states_at(
        self, input_ids: Tensor, block: int, attention_mask: Tensor | None = None
    ) -> Tensor:
        """What enters block `block`, [batch, positions, hidden_size]; padding gives zeros.

        The chain stops there: no block behind it is run. At `n_blocks` it is what leaves the last
        block, before the final norm; at 0 what the embedding here gives.
        """
        n_blocks = self.swarm.n_blocks
        if not 0 <= block <= n_blocks:
            raise UsageError(f"this model has borders 0 to {n_blocks}, no {block}")
        if block == 0:
            return self._embedded(input_ids, attention_mask)
        cache = self.swarm.cache(input_ids.shape[1], block)
        try:
            with self.remote_blocks.watched() as seen:
                self._run(input_ids, attention_mask, cache)
            return seen[-1][1]
        finally:
            cache.close()

    def _embedded(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        with self.remote_blocks.dry(), self.remote_blocks.watched() as seen:
            self._run(input_ids, attention_mask, self.swarm.cache())
        return seen[-1][0]

    @torch.no_grad()
    def embed(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, pooling: str = "mean"
    ) -> Tensor:
        """One vector per text, [batch, hidden_size], of what the final norm gives.

        pooling: the mean over all tokens, or the last one of each; padding does not count.
        """
        if pooling not in POOLINGS:
            raise UsageError(f"no pooling {pooling!r}", hint=f"one of {', '.join(POOLINGS)}")
        cache = self.swarm.cache(input_ids.shape[1])
        try:
            hidden = self._run(input_ids, attention_mask, cache)
        finally:
            cache.close()
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if pooling == "mean":
            weights = mask.to(hidden.dtype)[..., None]
            return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        last = mask.shape[1] - 1 - mask.flip(1).long().argmax(dim=1)
        return hidden[torch.arange(hidden.shape[0]), last]

    def _run(self, input_ids: Tensor, mask: Tensor | None, cache: RemoteCache) -> Tensor:
        """The model without its head."""
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask}
        if mask is not None:
            positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
            inputs["position_ids"] = positions
        # `_owner` is set around torch's own attributes, in `begin`.
        output = self._owner(past_key_values=cache, use_cache=True, **inputs)  # type: ignore[attr-defined]
        hidden: Tensor = output.last_hidden_state
        return hidden

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Settle what is open and leave the swarm; the model cannot be used any more."""
        self.swarm.portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class InferenceSession:
    """Hidden rows in, hidden rows out: `step` goes on where the last one ended."""

    def __init__(self, cache: RemoteCache) -> None:
        self.cache = cache

    @property
    def position(self) -> int:
        """How many positions the peers know; set it lower to go back."""
        return self.cache.get_seq_length()

    @position.setter
    def position(self, position: int) -> None:
        self.cache.cut(position)

    def step(self, inputs: Tensor) -> Tensor:
        """[batch, rows, hidden_size] through the blocks."""
        return self.cache.run(inputs, None)


def distributed(architecture: type[Any]) -> type[Any]:
    """`architecture` with our methods, under its own name: the library goes by names."""
    made = type(architecture.__name__, (DistributedCausalLM, architecture), {})
    made.__qualname__, made.__module__ = architecture.__qualname__, architecture.__module__
    return made

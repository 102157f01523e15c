"""Vectors of texts: what is asked of a swarm for them, and what is told.

In: a checked body. Out: requests, one for each text; then, of their results, vectors of length 1
and the rest of an answer. HTTP (`embeddings.py`) and the Python client both come through here. Ids
are refused unless the caller says whose they are: LangChain sends those of OpenAI's tokenizer when
it is not told otherwise, and the vectors would be those of other texts.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manyhands.gateway.asked import Drawn, EmbeddingExtension, EmbeddingsAsked, Extension, several
from manyhands.gateway.asking import requests_for
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Bounds
from manyhands.gateway.grants import ANYBODY, Caller
from manyhands.gateway.pooling import pooling_of
from manyhands.gateway.prompts import all_ids
from manyhands.gateway.second_runs import refused
from scheduler.request import GenerationRequest, GenerationResult

MAX_TEXTS = 2048  # as OpenAI's
AT_ONCE = 16  # that run side by side, of one request
FOREIGN = (
    "these are token ids, and OpenAI's clients send those of another tokenizer: send text "
    "(LangChain: check_embedding_ctx_length=False), or say that they are this model's own with "
    '"manyhands": {"own_ids": true}'
)


@dataclass(frozen=True, slots=True)
class Vectors:
    """`requests` in the order of the texts; run up to `at_once` of them side by side."""

    asked: EmbeddingsAsked
    served: Served
    pooling: str
    requests: Sequence[GenerationRequest]
    at_once: int = AT_ONCE

    def parts(self) -> list[Sequence[GenerationRequest]]:
        n = self.at_once
        return [self.requests[at : at + n] for at in range(0, len(self.requests), n)]

    def rest(
        self, results: Sequence[GenerationResult], more: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Of an answer, all but its vectors. more: what stands under `manyhands` besides."""
        n_tokens = sum(result.n_prompt for result in results)
        return {
            "object": "list",
            "model": self.asked.model,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
            "manyhands": {
                "model": self.served.pinned,
                "pooling": self.pooling,
                "receipts": [id for result in results for id in result.receipts],
                "cost": {"amount": sum(each.cost_ncr for each in results), "currency": "ncr"},
                **(more or {}),
            },
        }


async def prepare_vectors(
    served: Served, asked: EmbeddingsAsked, bounds: Bounds, caller: Caller = ANYBODY
) -> Vectors:
    """
    Raises:
        ApiError: it asks for what cannot be had.
    """
    more = asked.manyhands or EmbeddingExtension()
    if more.runs_again:
        raise refused("vectors are not run again; leave verify out")
    texts = _texts(served, asked, more)
    pooling: str = more.pooling or ""
    pooling = pooling or await asyncio.to_thread(pooling_of, served.model.directory)
    prompts = await all_ids(served, texts, "input")
    requests = requests_for(
        served,
        prompts,
        Drawn(model=asked.model, max_tokens=1, temperature=0.0, manyhands=_limits(more)),
        max_tokens=1,
        timeout_s=bounds.timeout_s,
        caller=caller,
        policy=bounds.policy,
        param="input",
        pooling=pooling,
    )
    at_once = min(AT_ONCE, bounds.max_running, bounds.max_per_key)  # more would never be let in
    return Vectors(asked, served, pooling, requests, at_once)


def unit(vector: bytes) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Of length 1, little-endian."""
    values = np.frombuffer(vector, "<f4")
    length = float(np.linalg.norm(values.astype(np.float64)))
    return (values / (length or 1.0)).astype("<f4")


def _texts(
    served: Served, asked: EmbeddingsAsked, more: EmbeddingExtension
) -> list[str | list[int]]:
    """
    Raises:
        ApiError: there are none, or too many; or they are ids of who knows what tokenizer.
    """
    texts = several(asked.input)
    if not texts:
        raise ApiError("invalid_value", "there is no input", param="input")
    if not more.own_ids and not all(isinstance(text, str) for text in texts):
        raise ApiError("invalid_value", FOREIGN, param="input")  # an upstream cannot mend that
    if len(texts) > MAX_TEXTS:
        message = f"up to {MAX_TEXTS} texts in one request, not {len(texts)}"
        raise ApiError("unsupported_value", message, param="input")
    size = served.model.manifest.hidden_size
    if asked.dimensions not in (None, size):
        message = f"vectors of this model have {size} dimensions, and cannot be cut"
        raise ApiError("unsupported_value", message, param="dimensions")
    return texts


def _limits(more: EmbeddingExtension) -> Extension:
    ours = EmbeddingExtension.model_fields.keys() - Extension.model_fields.keys()
    return Extension.model_validate(more.model_dump(exclude=set(ours)))

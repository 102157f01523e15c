"""POST /v1/embeddings: a vector for each text, of length 1, made by the last hop of a chain.

In: texts. Out: vectors, as numbers or as base64 of little-endian float32, which OpenAI's clients
ask for by themselves. Ids are refused unless the caller says whose they are: LangChain sends those
of OpenAI's tokenizer when it is not told otherwise, and the vectors would be those of other texts.
"""

import asyncio
import base64
import json
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from manyhands.gateway.answers import CallerLeft
from manyhands.gateway.asked import Drawn, EmbeddingExtension, EmbeddingsAsked, Extension, several
from manyhands.gateway.asking import requests_for
from manyhands.gateway.catalogue import Served
from manyhands.gateway.completions import GONE, observers
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.own_headers import COST, told_of, with_headers
from manyhands.gateway.pooling import pooling_of
from manyhands.gateway.prompts import prompt_ids
from scheduler.request import Finished, GenerationRequest, GenerationResult

router = APIRouter()

MAX_TEXTS = 2048  # as OpenAI's
AT_ONCE = 16  # that run side by side, of one request
FOREIGN = (
    "these are token ids, and OpenAI's clients send those of another tokenizer: send text "
    "(LangChain: check_embedding_ctx_length=False), or say that they are this model's own with "
    '"manyhands": {"own_ids": true}'
)


@router.post("/v1/embeddings")
async def embeddings(request: Request, asked: EmbeddingsAsked) -> Response:
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    served = gateway.find(asked.model, caller)
    asked = with_headers(asked, request.headers, EmbeddingExtension)
    more = asked.manyhands or EmbeddingExtension()
    texts = _texts(served, asked, more)
    pooling: str = more.pooling or ""
    pooling = pooling or await asyncio.to_thread(pooling_of, served.model.directory)
    prompts = [await prompt_ids(served, text, "input") for text in texts]
    requests = requests_for(
        served,
        prompts,
        Drawn(model=asked.model, max_tokens=1, temperature=0.0, manyhands=_limits(more)),
        max_tokens=1,
        timeout_s=gateway.bounds.timeout_s,
        caller=caller,
        policy=gateway.bounds.policy,
        param="input",
        pooling=pooling,
    )
    told: list[bytes] = []
    results: list[GenerationResult] = []
    try:
        for start in range(0, len(requests), AT_ONCE):
            for result in await _run(request, served, requests[start : start + AT_ONCE]):
                told.append(_entry(len(told), result.vector, asked.encoding_format))
                results.append(result)
                await asyncio.sleep(0)  # a long list of numbers holds nobody up
    except CallerLeft:
        return Response(status_code=GONE)
    headers = told_of(asked.ignored(), model=served.pinned)
    headers[COST] = f"{sum(result.cost_ncr for result in results)} ncr"
    body = _body(asked.model, served, pooling, told, results)
    return Response(body, media_type="application/json", headers=headers)


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
    if len(texts) > MAX_TEXTS:
        message = f"up to {MAX_TEXTS} texts in one request, not {len(texts)}"
        raise ApiError("unsupported_value", message, param="input")
    if not more.own_ids and not all(isinstance(text, str) for text in texts):
        raise ApiError("unsupported_value", FOREIGN, param="input")
    size = served.model.manifest.hidden_size
    if asked.dimensions not in (None, size):
        message = f"vectors of this model have {size} dimensions, and cannot be cut"
        raise ApiError("unsupported_value", message, param="dimensions")
    return texts


def _limits(more: EmbeddingExtension) -> Extension:
    ours = EmbeddingExtension.model_fields.keys() - Extension.model_fields.keys()
    return Extension.model_validate(more.model_dump(exclude=set(ours)))


async def _run(
    request: Request, served: Served, requests: Sequence[GenerationRequest]
) -> list[GenerationResult]:
    """Side by side, in order.

    Raises:
        ApiError, CallerLeft: as `Answers.next`.
    """
    gateway: Gateway = request.app.state.gateway
    observer = observers(request, served, "embedding", requests)
    answers = gateway.ask(requests, request.receive, observer, caller=request.state.caller)
    found: dict[int, GenerationResult] = {}
    try:
        while not answers.is_over:
            for index, event in await answers.next():
                if isinstance(event, Finished):
                    found[index] = event.result
    finally:
        answers.leave()
    return [found[index] for index in range(len(requests))]


def _entry(index: int, vector: bytes, encoding: str | None) -> bytes:
    values = np.frombuffer(vector, "<f4")
    length = float(np.linalg.norm(values.astype(np.float64)))
    values = (values / (length or 1.0)).astype("<f4")
    made: object = values.tolist()
    if encoding == "base64":
        made = base64.b64encode(values.tobytes()).decode()
    return json.dumps({"object": "embedding", "index": index, "embedding": made}).encode()


def _body(
    name: str,
    served: Served,
    pooling: str,
    told: Sequence[bytes],
    results: Sequence[GenerationResult],
) -> bytes:
    n_tokens = sum(result.n_prompt for result in results)
    cost = sum(result.cost_ncr for result in results)
    rest = {
        "object": "list",
        "model": name,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        "manyhands": {
            "model": served.pinned,
            "pooling": pooling,
            "receipts": [id for result in results for id in result.receipts],
            "cost": {"amount": cost, "currency": "ncr"},
        },
    }
    return json.dumps(rest).encode()[:-1] + b', "data": [' + b", ".join(told) + b"]}"

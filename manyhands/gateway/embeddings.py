"""POST /v1/embeddings: a vector for each text, of length 1, made by the last hop of a chain.

In: texts. Out: vectors, as numbers or as base64 of little-endian float32, which OpenAI's clients
ask for by themselves.
"""

import asyncio
import base64
import json
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from manyhands.gateway.answers import CallerLeft
from manyhands.gateway.asked import EmbeddingExtension, EmbeddingsAsked
from manyhands.gateway.catalogue import Served
from manyhands.gateway.completions import ask
from manyhands.gateway.deciding import Decision
from manyhands.gateway.faults import ApiError
from manyhands.gateway.own_headers import COST, told_of, with_headers
from manyhands.gateway.residency import class_of, explained_here
from manyhands.gateway.stream import GONE
from manyhands.gateway.tiers import by_tier
from manyhands.gateway.upstream import EMBEDDINGS
from manyhands.gateway.vectors import Vectors, prepare_vectors, unit
from scheduler.request import GenerationRequest, GenerationResult

router = APIRouter()


@router.post("/v1/embeddings")
async def embeddings(request: Request, asked: EmbeddingsAsked) -> Response:
    """Vectors of texts, of length 1."""
    asked = with_headers(asked, request.headers, EmbeddingExtension)
    return await by_tier(request, asked, prepare_vectors, _answer, EMBEDDINGS)


async def _answer(request: Request, vectors: Vectors, decision: Decision | None) -> Response:
    asked, caller, served = vectors.asked, request.state.caller, vectors.served
    told: list[bytes] = []
    results: list[GenerationResult] = []
    try:
        for part in vectors.parts():
            for result in await _run(request, served, part):
                told.append(_entry(len(told), result.vector, asked.encoding_format))
                results.append(result)
                await asyncio.sleep(0)  # a long list of numbers holds nobody up
    except ApiError as error:
        data = class_of(asked.manyhands, caller)
        raise explained_here(error, vectors.requests[0].limits, data) from error.__cause__
    except CallerLeft:
        return Response(status_code=GONE)
    headers = told_of(asked.ignored(), decision, model=served.pinned)
    headers[COST] = f"{sum(result.cost_ncr for result in results)} ncr"
    more = {"decision": decision.to_json()} if decision else {}
    rest = json.dumps(vectors.rest(results, more)).encode()
    body = rest[:-1] + b', "data": [' + b", ".join(told) + b"]}"
    return Response(body, media_type="application/json", headers=headers)


async def _run(
    request: Request, served: Served, requests: Sequence[GenerationRequest]
) -> list[GenerationResult]:
    """Side by side, in order.

    Raises:
        ApiError, CallerLeft: as `Answers.next`.
    """
    answers = ask(request, served, "embedding", requests)
    try:
        return await answers.results()
    finally:
        answers.leave()


def _entry(index: int, vector: bytes, encoding: str | None) -> bytes:
    values = unit(vector)
    made: object = values.tolist()
    if encoding == "base64":
        made = base64.b64encode(values.tobytes()).decode()
    return json.dumps({"object": "embedding", "index": index, "embedding": made}).encode()

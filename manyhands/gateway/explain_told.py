"""POST /api/v1/explain: what would happen to a request, without asking anybody for an answer.

In: the body of any request that is answered, with the headers that it would have. Out: the class of
its data, where that may go, who would answer by which rule, and the route that the swarm would take
now. The prompt is counted and looked at by the rules, and goes nowhere.
"""

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import ValidationError

from manyhands.gateway.asked import (
    ChatAsked,
    CompletionAsked,
    EmbeddingExtension,
    EmbeddingsAsked,
    Extension,
)
from manyhands.gateway.asked_responses import ResponsesAsked
from manyhands.gateway.complaints import invalid
from manyhands.gateway.deciding import Decision
from manyhands.gateway.explaining import RouteAsked, explain
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.own_headers import with_headers
from manyhands.gateway.policy import AUTO, SWARM
from manyhands.gateway.prepared import Prepared, prepare_chat, prepare_text
from manyhands.gateway.refusals import require_stateless
from manyhands.gateway.residency import class_of, limits_of
from manyhands.gateway.responses import chat_of
from manyhands.gateway.tiers import Body, Prepare, Ready, decided
from manyhands.gateway.vectors import Vectors, prepare_vectors

router = APIRouter()
Weighed = ChatAsked | CompletionAsked | EmbeddingsAsked
NAMED = Decision(rule="model", why="the request names a model of the swarm", targets=(SWARM,))


@router.post("/api/v1/explain")
async def explained(
    request: Request,
    body: ChatAsked | CompletionAsked | ResponsesAsked | EmbeddingsAsked,
    endpoint: Literal["embeddings"] | None = None,
) -> dict[str, Any]:
    """Who would answer a request, and why; it is asked of nobody.

    endpoint: for a body that would do for a response as well, of which it is taken for one."""
    asked = _meant(request, body, endpoint == "embeddings")
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    policy = gateway.bounds.policy
    decision, prepared = await _decided(request, asked)
    more = asked.manyhands or Extension()
    route = None
    if decision.target == SWARM and prepared is not None:
        tokens = prepared.requests[0].capacity
        wanted = RouteAsked(tokens=tokens, manyhands=more)
        client = gateway.require_client()
        route = await explain(client, prepared.served, wanted, caller, policy)
    return {
        "schema": "manyhands/gateway-explain/v1",
        "model": prepared.served.pinned if prepared and decision.target == SWARM else "",
        "data_class": class_of(more, caller).value,
        "limits": limits_of(more, caller, policy).constraints(None).to_json(),
        "decision": decision.to_json(),
        "route": route,
    }


def _meant(
    request: Request,
    body: ChatAsked | CompletionAsked | ResponsesAsked | EmbeddingsAsked,
    is_for_vectors: bool,
) -> Weighed:
    headers = request.headers
    if isinstance(body, ResponsesAsked) and is_for_vectors:
        try:
            body = EmbeddingsAsked.model_validate(body.model_dump(exclude_unset=True))
        except ValidationError as error:
            raise invalid(error.errors()) from error
    if isinstance(body, ResponsesAsked):
        require_stateless(body)
        return chat_of(request, body)
    if isinstance(body, EmbeddingsAsked):
        return with_headers(body, headers, EmbeddingExtension)
    return with_headers(body, headers)


async def _decided(request: Request, asked: Weighed) -> tuple[Decision, Prepared | Vectors | None]:
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller

    async def of(body: Body, prepare: Prepare[Body, Ready]) -> tuple[Decision, Ready | None]:
        if body.model == AUTO and gateway.bounds.policy.auto is not None:
            return await decided(request, body, prepare)
        served = gateway.find(body.model, caller)
        return NAMED, await prepare(served, body, gateway.bounds, caller)

    if isinstance(asked, ChatAsked):
        return await of(asked, prepare_chat)
    if isinstance(asked, EmbeddingsAsked):
        return await of(asked, prepare_vectors)
    return await of(asked, prepare_text)

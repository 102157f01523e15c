"""POST /api/v1/explain: what would happen to a request, without asking anybody for an answer.

In: the body of a chat or a plain completion, with the headers that it would have. Out: the class of
its data, where that may go, who would answer by which rule, and the route that the swarm would take
now. The prompt is counted and looked at by the rules, and goes nowhere.
"""

from typing import Any

from fastapi import APIRouter, Request

from manyhands.gateway.asked import ChatAsked, CompletionAsked, Extension
from manyhands.gateway.deciding import Decision
from manyhands.gateway.explaining import RouteAsked, explain
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.own_headers import with_headers
from manyhands.gateway.policy import AUTO, SWARM
from manyhands.gateway.prepared import Prepared, prepare_chat, prepare_text
from manyhands.gateway.residency import class_of, limits_of
from manyhands.gateway.tiers import decided

router = APIRouter()
NAMED = Decision(rule="model", why="the request names a model of the swarm", targets=(SWARM,))


@router.post("/api/v1/explain")
async def explained(request: Request, asked: ChatAsked | CompletionAsked) -> dict[str, Any]:
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    policy = gateway.bounds.policy
    asked = with_headers(asked, request.headers)
    decision, prepared = await _decided(request, asked)
    more = asked.manyhands or Extension()
    route = None
    if decision.target == SWARM and prepared is not None:
        tokens = prepared.requests[0].capacity
        body = RouteAsked(tokens=tokens, manyhands=more)
        client = gateway.require_client()
        route = await explain(client, prepared.served, body, caller, policy)
    return {
        "schema": "manyhands/gateway-explain/v1",
        "model": prepared.served.pinned if prepared and decision.target == SWARM else "",
        "data_class": class_of(more, caller).value,
        "limits": limits_of(more, caller, policy).constraints(None).to_json(),
        "decision": decision.to_json(),
        "route": route,
    }


async def _decided(
    request: Request, asked: ChatAsked | CompletionAsked
) -> tuple[Decision, Prepared | None]:
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    is_auto = asked.model == AUTO and gateway.bounds.policy.auto is not None
    if isinstance(asked, ChatAsked):
        if is_auto:
            return await decided(request, asked, prepare_chat)
        served = gateway.find(asked.model, caller)
        return NAMED, await prepare_chat(served, asked, gateway.bounds, caller)
    if is_auto:
        return await decided(request, asked, prepare_text)
    served = gateway.find(asked.model, caller)
    return NAMED, await prepare_text(served, asked, gateway.bounds, caller)

"""POST /api/v1/route: which chain an answer would get now, as `explaining.py` tells it."""

from typing import Any

from fastapi import APIRouter, Request

from manyhands.gateway.explaining import RouteAsked, explain
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Caller

router = APIRouter()


@router.post("/api/v1/route")
async def route(request: Request, asked: RouteAsked) -> dict[str, Any]:
    """Which chain an answer would get now, and why; as `manyhands route explain --json`."""
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    served = gateway.find(asked.model, caller)
    policy = gateway.bounds.policy
    return await explain(gateway.require_client(), served, asked, caller, policy)

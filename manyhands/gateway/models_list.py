"""GET /v1/models and /version: what can be asked for here, by which names.

Adapters are listed as peers announce them; where the swarm does not say so at once, without.
"""

import asyncio
from contextlib import suppress

from fastapi import APIRouter, Request

from manyhands import __version__
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.policy import AUTO
from manyhands.gateway.readiness import Readiness
from manyhands.gateway.shapes import Json

router = APIRouter()

LOOK_S = 1.0


@router.get("/v1/models")
async def models(request: Request) -> Json:
    """What this caller can ask for, by every name."""
    gateway: Gateway = request.app.state.gateway
    catalogue = gateway.catalogue
    names = list(catalogue.names)
    readiness: Readiness = request.app.state.readiness
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_S):
            adapters = (await readiness.look()).adapters
            names += [f"{id}:{adapter}" for id, of in adapters.items() for adapter in of]
    caller: Caller = request.state.caller
    found = [(name, catalogue.find(name)) for name in names]
    listed = [
        _model(name, served, gateway)
        for name, served in found
        if gateway.may_use(name, caller, served)
    ]
    if (auto := _auto(gateway, caller)) is not None:
        listed.append(auto)
    return {"object": "list", "data": listed}


@router.get("/v1/models/{id:path}")
async def model(request: Request, id: str) -> Json:
    """One of them."""
    gateway: Gateway = request.app.state.gateway
    if id == AUTO and (auto := _auto(gateway, request.state.caller)) is not None:
        return auto
    return _model(id, gateway.find(id, request.state.caller), gateway)


@router.get("/version")
async def version(request: Request) -> Json:
    """Of the software."""
    gateway: Gateway = request.app.state.gateway
    digests = {served.id: served.digest for served in gateway.catalogue.served}
    return {"version": __version__, "models": digests}


def _auto(gateway: Gateway, caller: Caller) -> Json | None:
    """`manyhands/auto`, where there is a policy for it, and the key may use it."""
    auto = gateway.bounds.policy.auto
    if auto is None or not gateway.may_use(AUTO, caller):
        return None
    with suppress(ApiError):  # the operator has taken its alias away since
        return _model(AUTO, gateway.catalogue.find(auto.model), gateway)
    return None


def _model(id: str, served: Served, gateway: Gateway) -> Json:
    return {
        "id": id,
        "object": "model",
        "created": gateway.began_s,
        "owned_by": "manyhands",
        "root": served.pinned,
        "max_model_len": served.max_positions,
    }

"""GET /api/v1/coverage: how many hosts every block of a model has, for the Python client, too."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from manyhands.coverage import runs_where, stretches
from manyhands.gateway.catalogue import DEFAULT, Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.readiness import Readiness

router = APIRouter()


@router.get("/api/v1/coverage")
async def coverage(request: Request, model: str = DEFAULT) -> dict[str, Any]:
    """Of one model, by the peers that serve it now."""
    gateway: Gateway = request.app.state.gateway
    readiness: Readiness = request.app.state.readiness
    served = gateway.find(model, request.state.caller)
    look = await readiness.look()
    if look.failure:
        raise ApiError("swarm_unreachable", look.failure)
    return view_of(served, look.hosts[served.id])


def view_of(served: Served, n_hosts: Sequence[int]) -> dict[str, Any]:
    """hosts: (start, stop, how many) over all blocks in order; missing: (start, stop)."""
    return {
        "schema": "manyhands/coverage/v1",
        "model": served.pinned,
        "n_blocks": len(n_hosts),
        "hosts": stretches(n_hosts),
        "missing": runs_where(lambda n: n == 0, n_hosts),
    }

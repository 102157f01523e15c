"""The contributor's side of a node's page: its own node, what the doctor finds, and pausing it.

In: a `MyNode`, its earnings. Out: routes under `/api/v1/node`. Three of them act, and only for whom
`guard.py` takes for the owner; nothing else of the page changes anything.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from manyhands.dashboard.earnings import Earnings
from manyhands.dashboard.guard import Guard
from manyhands.dashboard.my_node import MyNode
from protocol.errors import ManyhandsError

UNKEPT = {"cache-control": "no-store"}
MAX_MINUTES = 7 * 24 * 60
EXAMINED_S = 60.0  # findings are told again for so long, unless somebody asks anew
LOOKED_AT = ("reachability", "nat", "port-mapping", "firewall", "clock", "memory", "disk-free")

Examine = Callable[[], Awaitable[dict[str, Any]]]


class Wish(BaseModel):
    """minutes: until the node serves again by itself; none: until it is told to."""

    model_config = ConfigDict(extra="forbid", strict=True)

    minutes: float | None = Field(default=None, gt=0, le=MAX_MINUTES)


@dataclass(slots=True)
class NodePanel:
    """What the routes show, and drive."""

    mine: MyNode
    earnings: Earnings
    examine: Examine
    guard: Guard = field(default_factory=Guard)
    _examined: tuple[float, dict[str, Any]] | None = None
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _examining: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def view(self) -> dict[str, Any]:
        async with self._reading:
            earned = await asyncio.to_thread(self._earned)
        return {**self.mine.view(), "earned": earned, "token": self.guard.token}

    def _earned(self) -> dict[str, Any]:
        """With `error` where the ledger does not hold: whoever owns the node must still be able to
        pause it."""
        try:
            return {**self.earnings.look(), "error": None}
        except ManyhandsError as error:
            return {**self.earnings.known(), "error": str(error)}

    async def findings(self, *, anew: bool) -> dict[str, Any]:
        """What the doctor says of this node; one examination at a time."""
        async with self._examining:
            known = self._examined
            if known is None or anew or time.monotonic() - known[0] > EXAMINED_S:
                found = await self.examine()
                self._examined = known = (time.monotonic(), found)
            return known[1]


def node_router(panel: NodePanel) -> APIRouter:
    """The routes, for a FastAPI app."""
    router = APIRouter()

    @router.get("/api/v1/node")
    async def node() -> Response:
        """This node, in full, and the token with which its page may act."""
        return _json(await panel.view())

    @router.get("/api/v1/node/doctor")
    async def doctor(anew: bool = False) -> Response:
        """What `manyhands doctor` finds of this node and its ways to others."""
        return _json(await panel.findings(anew=anew))

    @router.post("/api/v1/node/pause")
    async def pause(request: Request, wish: Wish) -> Response:
        """No new sessions; those that run are asked to go on elsewhere, and served until then."""
        panel.guard.require(request.headers)
        panel.mine.pause(wish.minutes, hands_over=True)
        return _json(await panel.view())

    @router.post("/api/v1/node/drain")
    async def drain(request: Request, wish: Wish) -> Response:
        """No new sessions; those that run end here."""
        panel.guard.require(request.headers)
        panel.mine.pause(wish.minutes, hands_over=False)
        return _json(await panel.view())

    @router.post("/api/v1/node/resume")
    async def resume(request: Request, wish: Wish) -> Response:
        """Serve again, as far as the node's hours and manners let it."""
        panel.guard.require(request.headers)
        panel.mine.resume()
        return _json(await panel.view())

    return router


def examining(home: Path, listen: tuple[str, int]) -> Examine:
    """The doctor's look at the node that runs on this home."""

    async def examine() -> dict[str, Any]:
        from manyhands.doctor.case import Asked, Case
        from manyhands.doctor.command import view_of
        from manyhands.doctor.examining import count, examine
        from manyhands.doctor.finding import Verdict
        from manyhands.doctor.registry import chosen

        asked = Asked(home=home, listen=listen, environment=dict(os.environ))
        found = await examine(chosen(LOOKED_AT, ()), Case(asked))
        return view_of(found, count(found, Verdict.FAIL), count(found, Verdict.WARN))

    return examine


def _json(view: Any) -> Response:
    return JSONResponse(view, headers=UNKEPT)

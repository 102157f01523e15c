"""What the page asks: the operator's side of the HTTP API, read-only.

In: a watch of the swarm, the gateway's traffic, the home. Out: routes under `/api/v1`, and the
page's own files. Every answer is told not to be kept; the files may load nothing from elsewhere.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response, StreamingResponse

from manyhands import __version__
from manyhands.dashboard.books import KINDS as EXPORTS
from manyhands.dashboard.books import HomeBooks
from manyhands.dashboard.overview import Overview, overview
from manyhands.dashboard.traffic import Traffic
from manyhands.dashboard.watch import Look, SwarmWatch
from manyhands.gateway.faults import ApiError
from manyhands.status import peer_views
from protocol.clock import wall_ms
from protocol.errors import UsageError

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
UNKEPT, UNBUFFERED = {"cache-control": "no-store"}, {"x-accel-buffering": "no"}
BEAT_S = 5.0  # the page takes us for gone when it hears nothing for three of these
MAX_WATCHERS, WATCH_AGAIN_S = 64, 30.0

STARTING = {
    **overview({}),
    "sentence": "Starting: this page shows the swarm as soon as it answers.",
    "tone": "warn",
}

Listed = Callable[[], list[dict[str, Any]]]


@dataclass(slots=True)
class Panel:
    """What the routes show.

    books: of this home, where it has some. nodes: of this machine, with
    the URLs of their own pages. parts: of the page, by what runs here: a gateway, a node.
    """

    watch: SwarmWatch = field(default_factory=SwarmWatch)
    traffic: Traffic = field(default_factory=Traffic)
    books: HomeBooks | None = None
    nodes: Listed = list
    parts: tuple[str, ...] = ("gateway",)
    n_watchers: int = 0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)  # of the books, one at a time
    _overview: Overview = field(default_factory=Overview)
    _making: asyncio.Lock = field(default_factory=asyncio.Lock)
    _told: tuple[int, int, str] = (-1, 0, "")

    async def told(self, look: Look) -> str:
        """The state as JSON, made once for all who watch, on a thread: a large swarm takes a
        while, and answers stream meanwhile."""
        async with self._making:
            second = wall_ms() // 1000
            if self._told[:2] != (look.number, second):
                more = {
                    "version": __version__,
                    "number": look.number,
                    "at_ms": look.at_ms,
                    "now_ms": wall_ms(),
                    "traffic": self.traffic.summary() if "gateway" in self.parts else None,
                    "nodes": self.nodes(),
                }
                text = await asyncio.to_thread(self._state, look, more)
                self._told = (look.number, second, text)
            return self._told[2]

    def _state(self, look: Look, more: Mapping[str, Any]) -> str:
        shown = self._overview.look(look.seen, look.why_not) if look.number else STARTING
        return json.dumps({**shown, **more})


def page_router(panel: Panel) -> APIRouter:
    """The routes, for a FastAPI app."""
    router = APIRouter()

    @router.get("/api/v1/state")
    async def state() -> Response:
        """How the swarm is, in one object."""
        look = await panel.watch.fresh()
        return Response(await panel.told(look), media_type="application/json", headers=UNKEPT)

    @router.get("/api/v1/events")
    async def events() -> Response:
        """The same again whenever it changes, as server-sent events."""
        if panel.n_watchers >= MAX_WATCHERS:
            message = "too many pages watch already"
            raise ApiError("overloaded", message, retry_after_s=WATCH_AGAIN_S)
        return StreamingResponse(
            _events(panel), media_type="text/event-stream", headers={**UNKEPT, **UNBUFFERED}
        )

    @router.get("/api/v1/peers")
    async def peers() -> Response:
        """Every peer with all that it says of itself, as `manyhands peers --json`."""
        rows = peer_views((await panel.watch.fresh()).seen)
        return _json({"schema": "manyhands/peers/v1", "peers": rows})

    @router.get("/api/v1/peers/{peer_id}")
    async def peer(peer_id: str) -> Response:
        """One of them."""
        seen = (await panel.watch.fresh()).seen
        found = [(one, saw) for one, saw in seen.items() if one.peer_id == peer_id]
        if not found:
            raise ApiError("not_found", f"no peer {peer_id[:80]} is in the table")
        return _json(peer_views(dict(found))[0])

    @router.get("/api/v1/requests")
    async def requests() -> Response:
        """The last answers of this gateway: times and routes, no texts."""
        return _json({"schema": "manyhands/requests/v1", "requests": panel.traffic.recent()})

    @router.get("/api/v1/ledger")
    async def ledger() -> Response:
        """The balances of this home, and its latest tabs."""
        async with panel.reading:
            books = await asyncio.to_thread(panel.books.balances) if panel.books else []
        return _json({"schema": "manyhands/ledger/v1", "books": books})

    @router.get("/api/v1/ledger/export")
    async def export(role: str, kind: str) -> Response:
        """A ledger's statement, as a file."""
        if panel.books is None:
            raise ApiError("not_found", "there is no ledger here")
        books = panel.books
        async with panel.reading:
            try:
                text = await asyncio.to_thread(lambda: "".join(books.exported(role, kind)))
            except UsageError as error:
                raise ApiError("not_found", str(error)) from error
        suffix = "csv" if kind == "focus" else kind
        named = f'attachment; filename="manyhands-{role}-{kind}.{suffix}"'
        headers = {**UNKEPT, "content-disposition": named, "x-content-type-options": "nosniff"}
        return Response(text, media_type=EXPORTS[kind], headers=headers)

    @router.get("/api/v1/ledger/verify")
    async def verify() -> Response:
        """Every line of them derived again."""
        async with panel.reading:
            found = await asyncio.to_thread(panel.books.verified) if panel.books else []
        ok = all(each["ok"] for each in found)
        return _json({"schema": "manyhands/ledger-verify/v1", "ok": ok, "ledgers": found})

    @router.get("/")
    async def index() -> Response:
        """The page."""
        return _index(panel.parts)

    @router.get("/favicon.ico")
    async def icon() -> Response:
        """Of the page."""
        return _file("hands.svg")

    @router.get("/page/{name}")
    async def page(name: str) -> Response:
        """A file of the page."""
        return _file(name)

    return router


async def _events(panel: Panel) -> AsyncIterator[str]:
    panel.n_watchers += 1
    try:
        look = await panel.watch.fresh()
        while not panel.watch.has_ended:
            yield f"event: state\nid: {look.number}\ndata: {await panel.told(look)}\n\n"
            look = await panel.watch.after(look.number, BEAT_S) or panel.watch.newest
    finally:
        panel.n_watchers -= 1


def _json(view: Any) -> Response:
    return JSONResponse(view, headers=UNKEPT)


def _index(parts: tuple[str, ...]) -> Response:
    """The shell of the page; which parts there are, it reads from its own body."""
    shell = (files("manyhands.dashboard") / "static" / "index.html").read_text()
    told = shell.replace("<body>", f'<body data-parts="{" ".join(parts)}">')
    return Response(told, media_type=KINDS[".html"], headers=POLICY)


def _file(name: str) -> Response:
    folder = files("manyhands.dashboard") / "static"
    names = {each.name for each in folder.iterdir()}
    suffix = name[name.rfind(".") :]
    if name not in names or suffix not in KINDS:
        raise ApiError("not_found", "there is no such page")
    return Response((folder / name).read_bytes(), media_type=KINDS[suffix], headers=POLICY)

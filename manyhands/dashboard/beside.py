"""The page of a node that runs: on loopback, and not loaded before somebody opens it.

In: a node, what its people should know of it, where to listen. Out: a URL for as long as the
context lasts. The web framework and all that the page needs is imported on a thread by the first
request: a node whose page nobody opens pays for a socket.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from manyhands.loads import Loads
from manyhands.progress import say
from protocol.errors import ConfigError
from protocol.path import Path as Way

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from manyhands.dashboard.routes import Panel
    from manyhands.home import Home
    from node.node import Node
    from protocol.announcements import Announcement
    from protocol.transport import Transport
    from scheduler.directory import Directory
    from scheduler.peer_record import PeerRecords

log = logging.getLogger(__name__)

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a node's people should know of it, and it does not say itself; see `MyNode`."""

    why: str
    limits: Mapping[str, str]
    loads: Loads = field(default_factory=Loads)


class NodeSight:
    """The swarm as a node knows it: its own table, and pings over connections of their own."""

    def __init__(self, node: "Node", transport: "Transport", records: "PeerRecords") -> None:
        from scheduler.chain import Connections
        from scheduler.directory import Directory

        self.records, self._own = records, node.peer_id
        self._directory = Directory(node.gossip.table)
        self._connections = Connections(transport)

    async def directory(self) -> "Directory":
        return self._directory

    async def ping(
        self, peer: "Announcement", *, timeout_s: float, anew: bool = False
    ) -> tuple[float, Way]:
        if peer.peer_id == self._own:
            return 0.0, Way.DIRECT
        return await self._connections.ping(peer, timeout_s=timeout_s, anew=anew)

    async def aclose(self) -> None:
        await self._connections.aclose()


class WhenAsked:
    """An ASGI app that is made by the first request for it."""

    def __init__(self, node: "Node", transport: "Transport", home: "Home", about: About) -> None:
        self._node, self._transport, self._home, self._about = node, transport, home, about
        self._making: asyncio.Task[ASGIApp] | None = None
        self._stack = AsyncExitStack()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if self._making is None:
            self._making = asyncio.create_task(self._make(), name="the page")
        app = await asyncio.shield(self._making)
        await app(scope, receive, send)

    async def aclose(self) -> None:
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        await self._stack.aclose()

    async def _make(self) -> "ASGIApp":
        make: Callable[[], tuple[ASGIApp, Panel, NodeSight]]
        make = partial(_page_of, self._node, self._transport, self._home, self._about)
        app, panel, sight = await asyncio.to_thread(make)
        self._stack.push_async_callback(sight.aclose)
        await self._stack.enter_async_context(panel.watch.watching(sight))
        return app


@asynccontextmanager
async def page_beside(
    node: "Node", transport: "Transport", home: "Home", ports: Sequence[int], about: About
) -> AsyncIterator[str]:
    """The page's URL while the context lasts, on the first of the ports that is free. Empty: there
    is none, for no port was given, or all of several are taken.

    Raises:
        ConfigError: the one port that was given cannot be used.
    """
    app = WhenAsked(node, transport, home, about)
    async with AsyncExitStack() as stack:
        url = await _listen(stack, app, ports) if ports else ""
        stack.push_async_callback(app.aclose)
        yield url


async def _listen(stack: AsyncExitStack, app: WhenAsked, ports: Sequence[int]) -> str:
    from manyhands.gateway.serving import listening

    for port in ports:
        try:
            bound = await stack.enter_async_context(listening(app, HOST, port))
        except ConfigError as error:
            if len(ports) == 1:
                hint = "--page PORT: another one; --page auto: the first free one; --page off: none"
                raise ConfigError(str(error), hint=hint) from error
            continue
        return f"http://{HOST}:{bound}"
    say(f"no page: ports {ports[0]} to {ports[-1]} are all taken; --page PORT names another")
    return ""


def _page_of(
    node: "Node", transport: "Transport", home: "Home", about: About
) -> "tuple[ASGIApp, Panel, NodeSight]":
    from ledger.homes import Book
    from manyhands.asking import RECORD_NAME
    from manyhands.dashboard.books import HomeBooks
    from manyhands.dashboard.earnings import Earnings
    from manyhands.dashboard.my_node import MyNode
    from manyhands.dashboard.node_metrics import NodeMetrics, metrics_router
    from manyhands.dashboard.node_routes import NodePanel, examining, node_router
    from manyhands.dashboard.routes import Panel, page_router
    from manyhands.gateway.allowances import Allowances
    from manyhands.gateway.app import bare_app
    from manyhands.gateway.door import Door, admission
    from manyhands.gateway.gateway import Bounds
    from manyhands.gateway.keys import KeyFile, keys_path
    from scheduler.record_file import read_records

    panel = Panel(books=HomeBooks(home.root), parts=("node",))
    mine = MyNode(node, about.why, about.limits)
    listen = (node.settings.host, node.settings.port)
    of_node = NodePanel(mine, Earnings(Book("node", home.node)), examining(home.root, listen))
    app: Any = bare_app("A Manyhands node")
    app.include_router(page_router(panel))
    app.include_router(node_router(of_node))
    app.include_router(metrics_router(NodeMetrics(node, about.loads)))
    door = Door(
        app, Bounds(max_body_bytes=1 << 16), admission(KeyFile(keys_path(home))), Allowances()
    )
    return door, panel, NodeSight(node, transport, read_records(home.client / RECORD_NAME))

"""A gateway in front of a real swarm of two nodes, over real sockets, for clients that block.

All of it runs on an event loop in a thread of its own, so that tests may be what callers are:
programs that know a URL.
"""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from ledger.meter import Rates
from ledger.objects import FREE
from manyhands.dashboard.books import HomeBooks
from manyhands.dashboard.routes import Panel
from manyhands.gateway.allowances import Allowances
from manyhands.gateway.app import make_app
from manyhands.gateway.catalogue import Catalogue, served_of
from manyhands.gateway.door import admission
from manyhands.gateway.gateway import Bounds, Gateway
from manyhands.gateway.keys import KeyFile
from manyhands.gateway.readiness import Readiness
from manyhands.gateway.second_runs import SecondRuns
from manyhands.gateway.serving import listening
from manyhands.home import Home
from manyhands.models import BUILT_IN, find_model
from protocol.identity import Identity
from protocol.signing import OPEN_SWARM_ID
from protocol.tracing import Told, TraceParent, Tracer, TraceSpan
from protocol.transport import Transport
from protocol.transport.grpc import GrpcTransport
from tests.local_swarm import Swarm

T = TypeVar("T")
HOST = "127.0.0.1"
WAIT_S = 180.0  # nodes that start on a busy machine take their time


def until(holds: Callable[[], bool], *, timeout_s: float) -> None:
    """Return once it holds, which it has to within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.005)  # what holds is another thread's, which tells nobody


class Switch:
    """A tracer that is another one, while a test gives it one: nodes get theirs when they start."""

    to: Tracer | None = None

    def begin(
        self,
        name: str,
        parent: TraceParent | None,
        *,
        began_ns: int,
        caller: TraceParent | None = None,
        **told: Told,
    ) -> TraceSpan | None:
        if self.to is None:
            return None
        return self.to.begin(name, parent, began_ns=began_ns, caller=caller, **told)


class Live:
    """`url` is what a caller gets; the rest is for tests that look behind it."""

    rates: Rates = FREE
    allowances: Allowances | None = None  # of nodes, and of keys; set before it starts
    settings: Mapping[str, Any] = MappingProxyType({})  # of nodes, besides those of `Swarm`

    def __init__(self, directory: Path, bounds: Bounds) -> None:
        self.directory, self.bounds, self.tracer = directory, bounds, Switch()
        self.loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self.keys = directory / "keys.json"

    async def start(self) -> None:
        self.swarm = self.new_swarm()
        self._stack.push_async_callback(self.swarm.aclose)
        spans, more = ((0, 4), (4, 8)), {"tracer": self.tracer} | self.settings
        await self.swarm.start(*spans, rates=self.rates, **more)
        client = await self._stack.enter_async_context(self.swarm.client())
        tiny = find_model("tiny")
        models = [tiny, replace(tiny, name="org/other")]
        catalogue = Catalogue(served_of(models), {"small": "tiny"})
        second_runs = SecondRuns(Home.at(self.directory))
        self.gateway = Gateway(catalogue, self.bounds, self.allowances, second_runs)
        panel = Panel(books=HomeBooks(self.directory))
        admit = admission(KeyFile(self.keys))
        app = make_app(self.gateway, Readiness(self.gateway), admit, panel, tracer=self.tracer)
        self.port = await self._stack.enter_async_context(listening(app, HOST, 0))
        await self._stack.enter_async_context(self.gateway.serving(client))
        await self._stack.enter_async_context(panel.watch.watching(client))

    def new_swarm(self) -> Swarm:
        """Whose nodes are started next."""
        return Swarm(BUILT_IN, self.directory, self.transport)

    def transport(self, identity: Identity) -> Transport:
        """Of a node, or of the gateway's client."""
        return GrpcTransport(identity, OPEN_SWARM_ID)

    async def stop(self) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Where the gateway lives."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def look(self, at: Callable[[], T]) -> T:
        """The same, for what is no coroutine."""

        async def looking() -> T:
            return at()

        return self.run(looking())

    def open_sessions(self) -> int:
        """On all nodes: each holds room in a KV cache."""
        return self.look(lambda: sum(int(n.node.status()["sessions"]) for n in self.swarm.nodes))

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers in lower case, and the body: parsed where it is JSON."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, data, {"content-type": "application/json", **named})
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            text = response.read().decode()
        finally:
            connection.close()
        is_json = told.get("content-type", "").startswith("application/json")
        return response.status, told, json.loads(text) if is_json else text

    def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, str], Any]:
        return self.ask("POST", path, body, **headers)


@contextmanager
def live(directory: Path, bounds: Bounds | None = None, kind: type[Live] = Live) -> Iterator[Live]:
    running = kind(directory, bounds or Bounds(max_tokens=24, max_body_bytes=1 << 20, drain_s=0.5))
    thread = threading.Thread(target=running.loop.run_forever, name="gateway")
    thread.start()
    try:
        running.run(running.start())
        yield running
    finally:
        running.run(running.stop())
        running.loop.call_soon_threadsafe(running.loop.stop)
        thread.join()
        running.loop.close()


def events(text: str) -> list[Any]:
    """The data of server-sent events, as a strict reader takes them; `[DONE]` stays text."""
    told = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        assert block.startswith("data: "), block
        assert "\n" not in block
        data = block.removeprefix("data: ")
        told.append(data if data == "[DONE]" else json.loads(data))
    return told

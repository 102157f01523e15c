"""The gateway on a socket: uvicorn, under our own signals and with our own ideas of patience.

In: an app, a host, a port, a certificate if it speaks TLS. Out: the port, once it listens. Who has
not sent a whole head of a request within `HEAD_S`, or not ended a TLS handshake, is not waited for:
slow ones would otherwise hold all sockets.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from manyhands.gateway.tls import Certificate
from protocol.errors import ConfigError

HEAD_S = 15.0
CLOSE_S = 5.0  # for connections that are idle or stuck when we end
KEEP_ALIVE_S = 75
BACKLOG, MAX_HEAD_BYTES = 512, 32 << 10


class Impatient(H11Protocol):
    """Closes what sends no whole head in time. uvicorn waits `KEEP_ALIVE_S` for the first byte of a
    later one and for ever for the rest of it, so that has the same limit.
    """

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.access_log = (
            False  # whoever listens to all loggers would read queries: `Door` has ours
        )
        self._first_due: asyncio.TimerHandle | None = None
        self._head_due: asyncio.TimerHandle | None = None  # while half a later one is here

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._first_due = self.loop.call_later(HEAD_S, self._close_if_headless)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_half = self._has_half_a_head()
        if is_half and self._head_due is None:
            self._head_due = self.loop.call_later(HEAD_S, self._close_if_half)
        elif not is_half and self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for due in (self._first_due, self._head_due):  # they hold what a caller left behind
            if due is not None:
                due.cancel()

    def _has_half_a_head(self) -> bool:
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def _close_if_half(self) -> None:
        if self._has_half_a_head() and not self.transport.is_closing():
            self.transport.close()

    def _close_if_headless(self) -> None:
        if vars(self)["cycle"] is None and not self.transport.is_closing():  # no request began
            self.transport.close()


class Server(uvicorn.Server):
    """Signals are `manyhands.signals`' to hear."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's does with sockets that are bound, and with a limit for handshakes, which it
        leaves to asyncio: a minute."""
        loop, context = asyncio.get_running_loop(), self.config.ssl

        def protocol() -> asyncio.Protocol:
            return Impatient(config=self.config, server_state=self.server_state, app_state={})

        self.servers = [
            await loop.create_server(
                protocol,
                sock=each,
                ssl=context,
                ssl_handshake_timeout=HEAD_S if context else None,
                backlog=BACKLOG,
            )
            for each in sockets or ()
        ]
        self.started = True


@asynccontextmanager
async def listening(
    app: ASGIApp, host: str, port: int, certificate: Certificate | None = None
) -> AsyncIterator[int]:
    """Answer while the context lasts; the port, which 0 lets the system pick.

    Raises:
        ConfigError: the address cannot be used.
    """
    bound = _bind(host, port)
    config = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(CLOSE_S),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        async with certificate.kept() if certificate else nullcontext():
            yield int(bound.getsockname()[1])
    finally:
        server.should_exit = True
        await serving


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, proto)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"port {port} on {host} cannot be used: {error.strerror}",
            hint="choose another with --port, or --port 0 to have one picked",
        ) from error
    bound.setblocking(False)
    return bound

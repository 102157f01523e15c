"""The connections to a relay's port: of callers, and back from the peers they call.

In: bytes of anybody. Out: a name that a TLS hello asks for, or a token; then two connections
joined, counted and cut in time. What is asked and shown is judged by the relay. Until a connection
has said whom it wants it has `HELLO_S`, and holds no more than a hello (`protocol.client_hello`).
"""

import asyncio
import logging
from collections.abc import Callable
from ipaddress import ip_address
from typing import Protocol

from node.relay_book import RelayBook
from node.splice import End, join
from protocol.client_hello import BadHello, server_name
from protocol.identity import PeerId
from protocol.relaying import MAGIC, PREAMBLE_BYTES, Alert

log = logging.getLogger(__name__)

HELLO_S, BACK_S = 5.0, 5.0  # for a hello to be whole, and for the peer to connect back


class Doorman(Protocol):
    """The relay, as its doors know it."""

    book: RelayBook
    hello_s: float

    def arrived(self, door: "Door") -> bool:
        """Whether to wait for what it says."""

    def known(self, door: "Door") -> None:
        """It has said whom it wants, or is gone."""

    def asked(self, door: "Door", name: str) -> None:
        """A caller wants the peer of that name."""

    def left(self, door: "Door") -> None:
        """A caller that was let in is gone."""

    def no_more(self, door: "Door") -> None:
        """A call is over: it was answered, refused, or the caller went."""

    def came_back(self, back: "Door", token: bytes) -> None:
        """Somebody shows a token: the peer that was called."""


class Door(End):
    """A connection to the port: of a caller, or back from a peer. It has seconds to say which."""

    def __init__(self, relay: Doorman) -> None:
        super().__init__()
        self.peer_id, self.token = PeerId(""), b""
        self.head = b""  # what came so far
        self._relay = relay
        self.is_let_in = False  # a caller whose peer was asked to connect back
        self._is_stranger = False
        self._deadline: asyncio.TimerHandle | None = None
        self._host = ""

    @property
    def host(self) -> str:
        return self._host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._host = super().host
        if not self._relay.arrived(self):
            self.abort()
            return
        self._is_stranger = True
        self._wait(self._relay.hello_s, self.abort)

    def early(self, data: bytes) -> None:
        if self.is_closed:
            return  # it was refused, and talks on
        self.head += data
        if not self._is_stranger:
            return
        try:
            if self.head.startswith(MAGIC[:1]):
                self._hear_peer()
            else:
                self._hear_caller()
        except BadHello as error:
            log.debug("no hello", extra={"host": self.host, "why": error.reason})
            self._relay.book.refused["no hello"] += 1
            self.refuse(Alert.DECODE_ERROR)

    def _hear_caller(self) -> None:
        name = server_name(self.head)
        if name is None:
            return
        self._known()
        self.hold()
        self._wait(BACK_S, lambda: self.refuse(Alert.INTERNAL_ERROR))
        self._relay.asked(self, name)

    def _hear_peer(self) -> None:
        if not self.head.startswith(MAGIC[: len(self.head)]):
            raise BadHello("neither a hello nor a token")
        if len(self.head) < PREAMBLE_BYTES:
            return
        self._known()
        self._wait(0.0, None)
        token, self.head = self.head[len(MAGIC) : PREAMBLE_BYTES], self.head[PREAMBLE_BYTES:]
        self._relay.came_back(self, token)

    def refuse(self, alert: Alert) -> None:
        """Tell a caller why, and close."""
        self._known()
        self._relay.no_more(self)
        if self.transport is not None and not self.is_closed:
            self.transport.write(alert.record)
        self.close()

    def stop_waiting(self) -> None:
        self._wait(0.0, None)

    def connection_lost(self, error: Exception | None) -> None:
        self._known()
        self._wait(0.0, None)
        self._relay.no_more(self)
        if self.is_let_in:
            self.is_let_in = False
            self._relay.left(self)
        super().connection_lost(error)

    def _known(self) -> None:
        if self._is_stranger:
            self._is_stranger = False
            self._relay.known(self)

    def _wait(self, seconds: float, then: Callable[[], None] | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        if then is not None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, then)


class Carriage:
    """A caller and the peer it asked for, joined."""

    def __init__(
        self, book: RelayBook, caller: Door, back: Door, over: Callable[["Carriage"], None]
    ) -> None:
        self._book, self._caller, self._back, self._over = book, caller, back, over
        self._peer_id = caller.peer_id
        self._began_s = self._last_s = _now_s()
        caller.stop_waiting()
        book.opened(self._peer_id)
        assert caller.transport is not None
        assert back.transport is not None
        back.transport.write(caller.head)
        caller.transport.write(back.head)
        self._took(len(caller.head), to_peer=True)
        caller.head = back.head = b""
        join(
            caller,
            back,
            took_one=lambda n_bytes: self._took(n_bytes, to_peer=True),
            took_other=lambda n_bytes: self._took(n_bytes, to_peer=False),
            ended=self._ended,
        )

    def why_over(self, now_s: float) -> str:
        """Empty while it may go on."""
        share = self._book.quotas.share
        if now_s - self._last_s > share.idle_s:
            return "idle"
        return "time" if now_s - self._began_s > share.connection_s else ""

    def cut(self) -> None:
        self._caller.abort()
        self._back.abort()

    def _took(self, n_bytes: int, *, to_peer: bool) -> float:
        self._last_s = now_s = _now_s()
        return self._book.carried(self._peer_id, n_bytes, now_s, to_peer=to_peer)

    def _ended(self) -> None:
        self._book.closed(self._peer_id, _now_s() - self._began_s)
        self._over(self)


def place_of(host: str) -> str:
    """What one household has of addresses: an IPv4 address, a /64 of IPv6."""
    try:
        ip = ip_address(host)
    except ValueError:
        return host
    return host if ip.version == 4 else str(int(ip) >> 64)


def _now_s() -> float:
    return asyncio.get_running_loop().time()

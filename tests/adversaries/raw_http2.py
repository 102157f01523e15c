"""HTTP/2 by hand, for what no library would send: frames as RFC 9113 section 4 has them."""

import asyncio
import ssl
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.address import Address
from protocol.signing import OPEN_SWARM_ID
from protocol.tls import issue_client_leaf
from protocol.transport import PROTOCOL_VERSION
from protocol.transport.greeting import Greeting
from tests.protocol.transport.peers import new_identity

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = (8).to_bytes(4, "big")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str | bytes) -> bytes:
    """A header field without indexing (RFC 7541 section 6.2.2), in plain octets."""
    octets = value if isinstance(value, bytes) else value.encode()
    return b"\x00" + _sized(name.encode()) + _sized(octets)


def _sized(octets: bytes) -> bytes:
    if len(octets) < 127:
        return bytes([len(octets)]) + octets
    rest, out = len(octets) - 127, b"\x7f"
    while rest >= 128:
        out, rest = out + bytes([rest % 128 + 128]), rest // 128
    return out + bytes([rest]) + octets


def call_headers(method: str) -> bytes:
    """Of a call as any client of ours makes it."""
    greeting = Greeting(PROTOCOL_VERSION, OPEN_SWARM_ID).metadata
    fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", f"/manyhands.v1.Node/{method}"),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *greeting,
    ]
    return b"".join(literal(name, value) for name, value in fields)


def message(body: bytes) -> bytes:
    """One message of a call, framed as gRPC does."""
    return struct.pack(">BI", 0, len(body)) + body


class RawPeer:
    """A connection of an identity of its own, after the TLS handshake and HTTP/2's preface."""

    def __init__(self, address: Address, place: Path, *, settings: bytes = b"") -> None:
        leaf = issue_client_leaf(new_identity())
        (place / "pem").write_bytes(leaf.key_pem + leaf.certificate_pem)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._tls.load_cert_chain(place / "pem")
        self._tls.set_alpn_protocols(["h2"])
        self._address, self._settings = address, settings

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            self._address.host, self._address.port, ssl=self._tls
        )
        self.writer.write(PREFACE + frame(SETTINGS, 0, 0, self._settings))
        await self.writer.drain()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> bool:
        """Whether it could be sent: a connection that was ended takes nothing."""
        try:
            self.writer.write(data)
            async with asyncio.timeout(5):
                await self.writer.drain()
        except (OSError, TimeoutError):
            return False
        return not self.writer.transport.is_closing()

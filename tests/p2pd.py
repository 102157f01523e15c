"""The reference libp2p daemon in Go, as a peer for tests: a process, and its control socket.

The binary comes with the wheel of hivemind (scripts/lib_environment.py fetches it for the tests);
nothing of hivemind is imported. What is said on the socket is the daemon's control protocol:
protobuf messages after their length. The few fields that we use are written and read by hand here.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol.address import Address
from protocol.identity import PeerId

IDENTIFY, CONNECT, STREAM_OPEN, DHT, LIST_PEERS = 0, 1, 2, 4, 5
FIND_PEER, GET_VALUE, PUT_VALUE = 0, 5, 7
OK = 0
Fields = dict[int, list[bytes | int]]


def find_p2pd() -> Path | None:
    """The binary beside this Python, or the one that MANYHANDS_P2PD names."""
    beside = Path(sys.prefix) / "bin" / "p2pd"
    named = os.environ.get("MANYHANDS_P2PD", "")
    found = named or (str(beside) if beside.exists() else shutil.which("p2pd"))
    return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class Daemon:
    """One that runs."""

    socket: Path
    peer: bytes
    address: Address

    async def ask(self, kind: int, field: int = 0, request: bytes = b"") -> Fields:
        """One request; the answer's fields."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            body = number(1, kind) + (nested(field, request) if request else b"")
            writer.write(varint(len(body)) + body)
            return read(await _read_message(reader))
        finally:
            writer.close()

    async def dial(self, address: Address) -> bool:
        request = nested(1, peer_bytes(address.peer_id)) + nested(2, address_bytes(address))
        answer = await self.ask(CONNECT, 2, request + number(3, 10))
        return answer[1] == [OK]

    async def peers(self) -> set[bytes]:
        answer = await self.ask(LIST_PEERS)
        return {bytes_of(read(bytes_of(each))[1][0]) for each in answer.get(6, [])}

    async def exchange(self, to: PeerId, protocol: str, message: bytes) -> bytes:
        """What `to` answers to one message on a stream that the daemon opens; nothing if it
        resets it. Both have their length before them."""
        request = nested(1, peer_bytes(to)) + nested(2, protocol.encode()) + number(3, 10)
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            body = number(1, STREAM_OPEN) + nested(3, request)
            writer.write(varint(len(body)) + body)
            opened = read(await _read_message(reader))
            assert opened[1] == [OK], opened
            writer.write(varint(len(message)) + message)
            return await _read_message(reader)
        except asyncio.IncompleteReadError:
            return b""
        finally:
            writer.close()

    async def dht(self, kind: int, *fields: bytes) -> Fields:
        """The daemon's answer: field 2 holds its error, field 5 what the table said."""
        return await self.ask(DHT, 5, number(1, kind) + b"".join(fields) + number(7, 10))


@asynccontextmanager
async def running_p2pd(binary: Path, scratch: Path, *flags: str) -> AsyncIterator[Daemon]:
    """A daemon of its own on loopback, ended on the way out."""
    socket = scratch / "p2pd.sock"
    process = await asyncio.create_subprocess_exec(
        str(binary),
        f"-listen=/unix{socket}",
        "-hostAddrs=/ip4/127.0.0.1/tcp/0",
        "-quic=false",
        *flags,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30):
            while (running := await _identify(socket)) is None:  # noqa: ASYNC110 (a process)
                await asyncio.sleep(0.05)
        yield running
    finally:
        process.terminate()
        await process.wait()


async def _identify(socket: Path) -> Daemon | None:
    """The daemon, unless it does not listen yet."""
    asking = Daemon(socket, b"", Address("127.0.0.1", 1, _ANY))
    try:
        told = read(bytes_of((await asking.ask(IDENTIFY))[4][0]))
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    peer = bytes_of(told[1][0])
    (port,) = {_port(bytes_of(each)) for each in told[2]} - {0}
    return Daemon(socket, peer, Address("127.0.0.1", port, peer_text(peer)))


_ANY = PeerId("12D3KooWBhV9dp6BQXjbWnyMWGZK5mWYJaeVTxqDuT4Mec1Kk2sm")


# Protobuf, by hand


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def nested(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def read(data: bytes) -> Fields:
    fields: Fields = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if tag & 7 == 2:
            fields.setdefault(tag >> 3, []).append(data[at : at + value])
            at += value
        else:
            fields.setdefault(tag >> 3, []).append(value)
    return fields


def bytes_of(value: bytes | int) -> bytes:
    assert isinstance(value, bytes)
    return value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    length = shift = 0
    while True:
        (byte,) = await reader.readexactly(1)
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return await reader.readexactly(length)


# Peers and addresses, as bytes


def peer_bytes(peer_id: PeerId) -> bytes:
    import base58

    return bytes(base58.b58decode(peer_id))


def peer_text(peer: bytes) -> PeerId:
    import base58

    return PeerId(base58.b58encode(peer).decode())


def address_bytes(address: Address) -> bytes:
    """An IPv4 address and a TCP port as multiaddr bytes."""
    host = bytes(map(int, address.host.split(".")))
    return b"\x04" + host + b"\x06" + address.port.to_bytes(2, "big")


def _port(data: bytes) -> int:
    """Of an address on loopback over TCP alone; else 0."""
    is_plain = len(data) == 8 and data[:5] == b"\x04\x7f\x00\x00\x01" and data[5] == 6
    return int.from_bytes(data[6:8], "big") if is_plain else 0

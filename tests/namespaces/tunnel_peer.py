"""A peer with libp2p and a small service: a process on a host of a lab, told by lines what to do.

    python -m tests.namespaces.tunnel_peer PORT [BOOTSTRAP…]

It prints a line of JSON with its peer id, then answers each line of its input, `[verb, argument…]`,
with one more. The service echoes, on a call and on a stream. No model, no torch.
"""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from protocol.address import Address
from protocol.errors import ManyhandsError, PeerUnreachable
from protocol.identity import Identity, PeerId
from protocol.path import Path
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport import Service, Stream
from protocol.transport.control_plane import CARRYING, TunnelLimits
from protocol.transport.grpc import GrpcTransport
from protocol.transport.libp2p import Libp2pPlane
from protocol.transport.paths import paths_of
from tests.namespaces.lab import Host
from tests.swarm.processes import events


class TunnelPeer:
    """The test's end of it."""

    def __init__(self, host: Host, *bootstrap: str, port: int = 4001) -> None:
        self.host = host
        module = "tests.namespaces.tunnel_peer"
        self.process = host.start(
            sys.executable, "-m", module, port, *bootstrap, stdin=subprocess.PIPE
        )
        self._lines = events(self.process)
        ready: dict[str, Any] = next(self._lines)  # type: ignore[assignment]
        self.peer_id = PeerId(ready["peer"])
        self.address = f"/ip4/{host.address}/tcp/{port}/p2p/{self.peer_id}"

    def ask(self, *words: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return next(self._lines, {"error": f"it has ended: {self.host.errors()}"})

    def until(self, verb: str, found: Any, *, timeout_s: float = 60) -> Any:
        """Ask until what is told satisfies `found`."""
        until_s = time.monotonic() + timeout_s
        while not found(told := self.ask(verb)):
            assert time.monotonic() < until_s, told
            time.sleep(0.2)
        return told


class _Keeper:
    def admits(self, peer_id: PeerId) -> bool:
        return True

    async def keep(self, sender: PeerId, key: bytes, value: bytes) -> bool:
        return False

    async def kept(self, sender: PeerId, key: bytes) -> bytes:
        return b""


class _Peer:
    """The process's end."""

    def __init__(self, port: int, bootstrap: Sequence[Address]) -> None:
        identity = Identity(SigningKey.generate())
        self.transport = GrpcTransport(identity, OPEN_SWARM_ID)
        self.plane = Libp2pPlane(
            identity,
            host="0.0.0.0",
            port=port,
            bootstrap=bootstrap,
            tunnels=TunnelLimits(),
            relaying=CARRYING,
        )

    async def run(self) -> None:
        service = Service(calls={"echo": _echo}, streams={"echoes": _echoes})
        listener = await self.transport.listen("127.0.0.1", 0, service)
        await self.plane.start(_Keeper())
        (address,) = listener.addresses
        self.plane.tunnelling.serve(address.port, wants_places=lambda: True)
        _print({"peer": self.plane.peer_id})
        while line := await asyncio.to_thread(sys.stdin.readline):
            verb, *arguments = json.loads(line)
            try:
                _print(await getattr(self, verb)(*arguments))
            except ManyhandsError as error:
                _print({"error": str(error)})

    async def relays(self) -> object:
        return [str(each) for each in self.plane.tunnelling.relays]

    async def reach(self, peer: str, relays: list[str]) -> object:
        """A connection by the best way, and a stream on it, which are kept; by which way."""
        begins = [Address.parse(each) for each in relays]
        self._addresses = [
            Address(each.host, each.port, PeerId(peer), each.peer_id, is_tunnel=True)
            for each in begins
        ]
        self.transport.tunnelling = self.plane.tunnelling
        paths = paths_of(self.transport)
        self._held = await paths.dial(PeerId(peer), self._addresses, timeout_s=15)
        self._stream = await self._held.open("echoes", timeout_s=15)
        return self._held.path

    async def move(self) -> object:
        """Take a better way if there is one; what began on the old goes on. By which way."""
        better = await paths_of(self.transport).upgraded(self._held, self._addresses)
        self._stream.send(b"still there")
        assert await self._stream.receive() == b"still there"
        if better is not None:
            await self._held.aclose()
            self._held, self._stream = better, await better.open("echoes", timeout_s=15)
        return self._held.path

    async def status(self) -> object:
        return self.plane.tunnelling.status() | {"refused": dict(self.plane.refused)}

    async def echo(self, peer: str, relays: list[str], punched: bool, sizes: list[int]) -> object:
        """Through a new tunnel: a call and a stream, proven to come from that peer."""
        began_s = time.monotonic()
        path = Path.PUNCHED if punched else Path.CIRCUIT
        addresses = [Address.parse(each) for each in relays]
        tunnel = await self.plane.tunnelling.open_by(PeerId(peer), addresses, path)
        opened_s = time.monotonic() - began_s
        try:
            connection = await self.transport.dial(tunnel.address, timeout_s=15)
            dialled_s = time.monotonic() - began_s - opened_s
            caller = (await connection.call("echo", b"who?", timeout_s=15)).decode()
            stream = await connection.open("echoes", timeout_s=15)
            took_ms = []
            for size in sizes:
                sent = os.urandom(size)
                sent_s = time.monotonic()
                stream.send(sent)
                assert await stream.receive() == sent
                took_ms.append(round(1e3 * (time.monotonic() - sent_s), 2))
            await connection.aclose()
        finally:
            await tunnel.aclose()
        return {
            "caller": caller, "opened_s": opened_s, "dialled_s": dialled_s, "took_ms": took_ms
        }  # fmt: skip


async def _echo(peer_id: PeerId, request: bytes) -> bytes:
    return peer_id.encode()


async def _echoes(stream: Stream) -> None:
    with contextlib.suppress(PeerUnreachable):  # the caller has ended it
        while True:
            stream.send(await stream.receive())


def _print(told: object) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("TUNNEL_PEER_LOG", "WARNING"))
    asyncio.run(_Peer(int(sys.argv[1]), [Address.parse(each) for each in sys.argv[2:]]).run())

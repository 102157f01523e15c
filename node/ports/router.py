"""PCP and NAT-PMP over a socket: requests to the default router, repeated until it answers.

In: a router's address. Out: leases. Only the router itself is heard: the socket is connected to it.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import TypeVar

from node.ports.lease import Lease, RouterRefused
from node.ports.wire import (
    NONCE_BYTES,
    ROUTER_PORT,
    natpmp_external_address,
    natpmp_map,
    pcp_announce,
    pcp_map,
    read_natpmp_external_address,
    read_natpmp_map,
    read_pcp_announce,
    read_pcp_map,
)
from protocol.address import Endpoint
from protocol.errors import UsageError

T = TypeVar("T")

LEASE_S = 3600
FIRST_WAIT_S, N_TRIES = 0.25, 4  # RFC 6886 section 3.1 goes on to 64 s; a node has other ways
MAX_WAITING = 64  # datagrams that were not looked at yet


class Pcp:
    """See `PortMapping`."""

    name = "PCP"

    def __init__(self, router: str, *, port: int = ROUTER_PORT) -> None:
        self._router, self._port = router, port

    async def map(self, internal_port: int, wanted: Lease | None) -> Lease:
        nonce = wanted.token if wanted and wanted.token else secrets.token_bytes(NONCE_BYTES)
        external, lifetime_s = await self._ask(
            internal_port, nonce, wanted.external if wanted else None, LEASE_S
        )
        return Lease(
            protocol=self.name,
            internal_port=internal_port,
            external=external,
            lifetime_s=lifetime_s,
            token=nonce,
        )

    async def unmap(self, lease: Lease) -> None:
        await self._ask(lease.internal_port, lease.token, None, 0)

    async def external_host(self) -> str:
        """PCP tells it with a mapping alone."""
        await exchange(self._router, self._port, pcp_announce, read_pcp_announce)
        return ""

    async def _ask(
        self, internal_port: int, nonce: bytes, wanted: Endpoint | None, lifetime_s: int
    ) -> tuple[Endpoint, int]:
        return await exchange(
            self._router,
            self._port,
            lambda client: pcp_map(client, nonce, internal_port, wanted, lifetime_s),
            lambda data: read_pcp_map(data, nonce, internal_port),
        )


class NatPmp:
    """See `PortMapping`."""

    name = "NAT-PMP"

    def __init__(self, router: str, *, port: int = ROUTER_PORT) -> None:
        self._router, self._port = router, port

    async def map(self, internal_port: int, wanted: Lease | None) -> Lease:
        host = await self.external_host()
        wanted_port = wanted.external.port if wanted else internal_port
        port, lifetime_s = await self._ask(internal_port, wanted_port, LEASE_S)
        return Lease(
            protocol=self.name,
            internal_port=internal_port,
            external=Endpoint(host, port),
            lifetime_s=lifetime_s,
        )

    async def unmap(self, lease: Lease) -> None:
        await self._ask(lease.internal_port, 0, 0)

    async def external_host(self) -> str:
        return await exchange(
            self._router,
            self._port,
            lambda _: natpmp_external_address(),
            read_natpmp_external_address,
        )

    async def _ask(self, internal_port: int, wanted_port: int, lifetime_s: int) -> tuple[int, int]:
        return await exchange(
            self._router,
            self._port,
            lambda _: natpmp_map(internal_port, wanted_port, lifetime_s),
            lambda data: read_natpmp_map(data, internal_port),
        )


class _Heard(asyncio.DatagramProtocol):
    """Datagrams of the router, in order."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[bytes | OSError] = asyncio.Queue(MAX_WAITING)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.waiting.full():
            self.waiting.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        """The router's machine says that nobody listens there."""
        if isinstance(exc, OSError) and not self.waiting.full():
            self.waiting.put_nowait(exc)


async def exchange(
    router: str, port: int, request: Callable[[str], bytes], read: Callable[[bytes], T | None]
) -> T:
    """Ask until an answer comes that `read` takes for one.

    Args:
        request: the datagram, given our address as the router sees it.

    Raises:
        RouterRefused: the router says no, or nothing.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, heard = await loop.create_datagram_endpoint(_Heard, remote_addr=(router, port))
    except OSError as error:
        raise RouterRefused(f"no way to the router {router}: {error}") from error
    try:
        asking = request(str(transport.get_extra_info("sockname")[0]))
        for n_tries in range(N_TRIES):
            transport.sendto(asking)
            try:
                async with asyncio.timeout(FIRST_WAIT_S * 2**n_tries):
                    return await _answer(heard, read)
            except TimeoutError:
                continue
        raise RouterRefused(f"the router {router} does not answer")
    finally:
        transport.close()


async def _answer(heard: _Heard, read: Callable[[bytes], T | None]) -> T:
    while True:
        data = await heard.waiting.get()
        if isinstance(data, OSError):
            raise RouterRefused("the router does not speak this") from data
        try:
            if (found := read(data)) is not None:
                return found
        except UsageError as error:
            raise RouterRefused(f"the router answers nonsense: {error}") from error

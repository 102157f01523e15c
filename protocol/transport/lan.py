"""Peers on the same local network, found by multicast DNS as libp2p's mdns specification has it.

In: our addresses. Out: addresses of others, as they are heard. Only concrete addresses are told:
py-libp2p's own would tell `0.0.0.0`, and touches trio's data from a thread of zeroconf's. Whoever
is heard of this way is a stranger like any other: dialled, proven, and believed what it has signed.
A private swarm has a service of its own, whose name tells no more than that there is one: of libp2p
in plain words, of the nodes' own service in `sealed_words`.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Protocol

from protocol.address import Address
from protocol.errors import UsageError

log = logging.getLogger(__name__)

MAX_HEARD = 64  # addresses remembered: a network may be full of liars
MAX_WAITING = 64  # names that were not asked for their addresses yet
LOOKUP_MS = 3_000
_TOLD = b"dnsaddr"


def is_installed() -> bool:
    """Whether this Python speaks multicast DNS. Imports nothing."""
    return find_spec("zeroconf") is not None


class Words(Protocol):
    """How addresses are told on the network, and read."""

    type: str  # of the service: `_NAME._udp.local.`

    def tell(self, addresses: Sequence[Address]) -> Mapping[str, str | bytes]: ...

    def read(self, properties: Iterable[tuple[bytes, bytes | None]]) -> list[Address]:
        """Those that are there; what is none is passed over."""


class LocalNetwork:
    """`heard` is called for every address once, on the loop that runs `run`."""

    def __init__(
        self,
        addresses: Sequence[Address],
        words: Words,
        heard: Callable[[Address], None],
        *,
        hosts: Sequence[str] = (),
    ) -> None:
        """
        Args:
            addresses: of ours, to be told. None: we listen to others and say nothing.
            hosts: of the interfaces to use. Default: those of `addresses`.
        """
        self._addresses = [each for each in addresses if is_concrete(each)]
        self._hosts = sorted({each.host for each in self._addresses} | set(hosts))
        self._words, self._heard = words, heard
        self._known = set(self._addresses)

    async def run(self) -> None:
        """Tell our addresses and listen to others' until cancelled."""
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

        names: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)

        def changed(
            zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange
        ) -> None:
            if state_change is not ServiceStateChange.Removed and not names.full():
                names.put_nowait(name)

        if not self._hosts:
            return
        try:
            network = AsyncZeroconf(interfaces=self._hosts)
        except OSError as error:
            log.warning("nobody is found on the local network", extra={"reason": str(error)})
            return
        try:
            service = self._words.type
            if self._addresses:
                label = secrets.token_hex(20)
                info = AsyncServiceInfo(
                    service,
                    f"{label}.{service}",
                    port=self._addresses[0].port,
                    properties=dict(self._words.tell(self._addresses)),
                    server=f"{label}.local.",
                    addresses=[socket.inet_pton(_family(host), host) for host in self._hosts],
                )
                await network.async_register_service(info)
            browser = AsyncServiceBrowser(network.zeroconf, service, handlers=[changed])
            try:
                while len(self._known) < MAX_HEARD:
                    found = AsyncServiceInfo(service, await names.get())
                    if await found.async_request(network.zeroconf, LOOKUP_MS):
                        self._hear(found.properties.items())
            finally:
                await browser.async_cancel()
            await asyncio.Event().wait()  # we are told on; others are heard of enough
        finally:
            await network.async_unregister_all_services()
            await network.async_close()

    def _hear(self, properties: Iterable[tuple[bytes, bytes | None]]) -> None:
        for address in filter(is_concrete, self._words.read(properties)):
            if address not in self._known and len(self._known) < MAX_HEARD:
                self._known.add(address)
                self._heard(address)


class PlainWords:
    """As libp2p's specification has them."""

    def __init__(self, swarm_key: bytes) -> None:
        self.type = service_type(swarm_key)

    def tell(self, addresses: Sequence[Address]) -> Mapping[str, str]:
        return {f"{_TOLD.decode()}{n or ''}": str(at) for n, at in enumerate(addresses)}

    def read(self, properties: Iterable[tuple[bytes, bytes | None]]) -> list[Address]:
        return read_told(properties)


def service_type(swarm_key: bytes) -> str:
    """Of the open network, or of a private one."""
    name = f"-{sha256(swarm_key).hexdigest()[:10]}" if swarm_key else ""
    return f"_p2p{name}._udp.local."


def read_told(properties: Iterable[tuple[bytes, bytes | None]]) -> list[Address]:
    """The addresses of an answer that can be dialled; what is none is passed over."""
    found = []
    for name, value in properties:
        if name.startswith(_TOLD) and value:
            try:
                address = Address.parse(value.decode("ascii"))
            except (UsageError, UnicodeDecodeError):
                continue
            if is_concrete(address):
                found.append(address)
    return found


def is_concrete(address: Address) -> bool:
    """Whether it is one interface's, and no name and no stand-in for all of them."""
    try:
        ip = ip_address(address.host)
    except ValueError:
        return False
    return not (ip.is_unspecified or ip.is_multicast)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET

"""UPnP's Internet Gateway Device, by miniupnpc: the library most programs on desktops use.

In: a network with a router that answers multicast. Out: leases. The library blocks, so each call
runs in a thread. It reads XML that whoever answers on the local network sends: it is used only
where the operator asks for it, and after PCP and NAT-PMP have failed.
"""

import asyncio
from typing import Any

from node.ports.lease import Lease, RouterRefused
from node.ports.router import LEASE_S
from protocol.address import Endpoint
from protocol.errors import UsageError

DISCOVER_MS = 2_000
N_PORTS = 8  # to try outside, when others have them
DESCRIPTION = "Manyhands"
MISSING = "UPnP needs an extra: pip install 'manyhands[upnp]'"


class Upnp:
    """See `PortMapping`."""

    name = "UPnP"

    def __init__(self, own_host: str = "") -> None:
        """own_host: of ours, on whose network to look; "" is any."""
        self._own_host = own_host
        self._device: Any = None

    async def map(self, internal_port: int, wanted: Lease | None) -> Lease:
        return await asyncio.to_thread(self._map, internal_port, wanted)

    async def unmap(self, lease: Lease) -> None:
        await asyncio.to_thread(self._unmap, lease)

    async def external_host(self) -> str:
        return await asyncio.to_thread(self._external_host)

    def _external_host(self) -> str:
        try:
            return str(self._found().externalipaddress())
        except RouterRefused:
            raise
        except Exception as error:  # the library raises no narrower class
            raise RouterRefused(f"the router tells no public address: {error}") from error

    def _map(self, internal_port: int, wanted: Lease | None) -> Lease:
        device = self._found()
        first = wanted.external.port if wanted else internal_port
        why: Exception = RouterRefused("the router has no port left for us")
        for port in [first, *(each for each in range(internal_port, internal_port + N_PORTS))]:
            for lifetime_s in (LEASE_S, 0):  # some know only mappings that stay
                arguments = (port, "TCP", device.lanaddr, internal_port, DESCRIPTION, "")
                try:
                    device.addportmapping(*arguments, lifetime_s)
                    external = Endpoint(device.externalipaddress(), port)
                except UsageError as error:
                    raise RouterRefused(f"the router tells no public address: {error}") from error
                except Exception as error:  # the library raises no narrower class
                    why = error
                    continue
                return Lease(
                    protocol=self.name,
                    internal_port=internal_port,
                    external=external,
                    lifetime_s=lifetime_s,
                )
        self._device = None  # another may have taken its place: look again next time
        raise RouterRefused(f"the router refuses: {why}") from why

    def _unmap(self, lease: Lease) -> None:
        try:
            self._found().deleteportmapping(lease.external.port, "TCP")
        except RouterRefused:
            raise
        except Exception as error:
            raise RouterRefused(f"the router refuses: {error}") from error

    def _found(self) -> Any:
        """The router, once it was found.

        Raises:
            RouterRefused: the library or the router is missing.
        """
        if self._device is not None:
            return self._device
        try:
            import miniupnpc
        except ImportError as error:
            raise RouterRefused(MISSING) from error
        options = {"multicastif": self._own_host} if self._own_host else {}
        try:
            device = miniupnpc.UPnP(discoverdelay=DISCOVER_MS, **options)
            if not device.discover():
                raise RouterRefused("no router answers UPnP")
            device.selectigd()
        except RouterRefused:
            raise
        except Exception as error:  # the library's is bare: its words are errno's, "Success"
            raise RouterRefused("no router answers UPnP") from error
        self._device = device
        return device

"""What a router grants, and what every way of asking for it looks like.

The port is TCP's: the one that gRPC listens on. A lease that is not renewed ends by itself, so that
a node that was killed leaves nothing open for long.
"""

from dataclasses import dataclass
from typing import Protocol

from protocol.address import Endpoint
from protocol.errors import ManyhandsError


class RouterRefused(ManyhandsError):
    """A router does not forward the port, or there is none to ask; the message says why."""

    code = "router_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A port at the router that leads to ours. lifetime_s 0: until it is removed."""

    protocol: str
    internal_port: int
    external: Endpoint
    lifetime_s: int
    token: bytes = b""  # what shows the router that it is ours

    def __post_init__(self) -> None:
        if not (0 < self.internal_port < 65536 and self.external.port > 0 and self.lifetime_s >= 0):
            raise RouterRefused("the router granted a port that cannot be")


class PortMapping(Protocol):
    """One way of asking."""

    @property
    def name(self) -> str: ...

    async def map(self, internal_port: int, wanted: Lease | None) -> Lease:
        """A new lease, or `wanted` for longer: the same port outside, if the router can.

        Raises:
            RouterRefused: it cannot be had this way.
        """

    async def unmap(self, lease: Lease) -> None:
        """Give it back; raises as `map`."""

    async def external_host(self) -> str:
        """The router's own address outside, "" where this way does not tell it. Maps nothing.

        Raises:
            RouterRefused: it does not answer in this way, or has no such address.
        """

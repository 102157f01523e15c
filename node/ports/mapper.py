"""A port at the router that leads to this node, for as long as the node runs.

In: our port, and ways to ask a router. Out: the endpoint outside, or the reason why there is none,
and a call when that changes. The first way that works is kept; a lease is renewed at half its life
(RFC 6887 section 11.2.1), and given back at the end. Where nothing works it is tried again now and
then: routers start, too.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from node.ports.gateway import default_router
from node.ports.lease import Lease, PortMapping, RouterRefused
from node.ports.router import NatPmp, Pcp
from node.ports.upnp import Upnp
from protocol.address import Endpoint
from protocol.reachability import Scope, scope_of
from protocol.transport.reach import reachable_hosts

log = logging.getLogger(__name__)

AGAIN_S = 120.0  # after a failure
LEAST_RENEW_S = 30.0
STAYING_RENEW_S = 1200.0  # of a mapping that stays until it is removed: the router may forget it
GIVE_BACK_S = 3.0


async def usual_ways() -> Sequence[PortMapping]:
    """Of this machine, the cheapest first."""
    router = await default_router()
    own = next(iter(reachable_hosts("0.0.0.0")), "")
    asked: list[PortMapping] = [Pcp(router), NatPmp(router)] if router else []
    return [*asked, Upnp("" if scope_of(own) is Scope.MACHINE else own)]


class PortMapper:
    """See the module."""

    def __init__(
        self,
        ways: Callable[[], Awaitable[Sequence[PortMapping]]] = usual_ways,
        *,
        now_s: Callable[[], float] = time.monotonic,
        again_s: float = AGAIN_S,
        least_renew_s: float = LEAST_RENEW_S,
    ) -> None:
        self._ways, self._now_s = ways, now_s
        self._again_s, self._least_renew_s = again_s, least_renew_s
        self._way: PortMapping | None = None
        self.lease: Lease | None = None
        self._ends_s = 0.0
        self.problem = "the router has not answered yet"
        self._tried = asyncio.Event()

    @property
    def external(self) -> Endpoint | None:
        """Where the router takes connections for us; None unless that is an address of the world's.

        A router whose own address is private stands behind another one, which forwards nothing.
        """
        lease = self.lease
        if lease is None or scope_of(lease.external.host) is not Scope.WORLD:
            return None
        return lease.external

    def status(self) -> dict[str, object]:
        lease = self.lease
        return {
            "protocol": lease.protocol if lease else None,
            "external": str(lease.external) if lease else None,
            "ends_in_s": round(self._ends_s - self._now_s()) if lease and self._ends_s else None,
            "problem": self.problem,
        }

    async def tried(self) -> None:
        """Wait until the router was asked once, by `run`."""
        await self._tried.wait()

    async def run(self, internal_port: int, changed: Callable[[], None]) -> None:
        """Until cancelled; then the port is given back."""
        try:
            while True:
                before = self.external, self.problem
                wait_s = await self._ask(internal_port)
                self._tried.set()
                if (self.external, self.problem) != before:
                    self._tell()
                    changed()
                await asyncio.sleep(wait_s)
        finally:
            await self._give_back()

    async def _ask(self, internal_port: int) -> float:
        """Get a lease, or keep it; how long to wait until the next time."""
        try:
            lease = await self._mapped(internal_port)
        except RouterRefused as error:
            self.problem = str(error)
            if self.lease is not None and self._ends_s and self._now_s() >= self._ends_s:
                self.lease = None
            return self._again_s
        self.lease, self.problem = lease, _problem_of(lease)
        self._ends_s = self._now_s() + lease.lifetime_s if lease.lifetime_s else 0.0
        return max(self._least_renew_s, lease.lifetime_s / 2 or STAYING_RENEW_S)

    async def _mapped(self, internal_port: int) -> Lease:
        """
        Raises:
            RouterRefused: in none of the ways.
        """
        if self._way is not None:
            try:
                return await self._way.map(internal_port, self.lease)
            except RouterRefused as error:
                log.info("the router does not renew", extra={"why": str(error)})
        why = []
        for way in await self._ways():
            try:
                lease = await way.map(internal_port, self.lease)
            except RouterRefused as error:
                why.append(f"{way.name}: {error}")
                continue
            self._way = way
            return lease
        raise RouterRefused("; ".join(why) or "this machine has no router")

    async def _give_back(self) -> None:
        way, lease = self._way, self.lease
        self.lease = None
        if way is None or lease is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVE_BACK_S):
                try:
                    await way.unmap(lease)
                except RouterRefused as error:
                    log.warning("the router keeps our port open", extra={"why": str(error)})

    def _tell(self) -> None:
        if self.lease is None or self.problem:
            log.warning("no port at the router", extra={"why": self.problem})
            return
        fields = {"external": str(self.lease.external), "protocol": self.lease.protocol}
        log.info("the router forwards a port", extra=fields)


def _problem_of(lease: Lease) -> str:
    host = lease.external.host
    if scope_of(host) is Scope.WORLD:
        return ""
    return f"it forwards a port, but its own address {host} is private: it is behind another router"

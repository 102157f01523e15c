"""PCP and NAT-PMP against a router that is written from the RFCs, on a real socket."""

import asyncio
import contextlib
import struct
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.ports import Lease, PortMapper, RouterRefused
from node.ports.gateway import from_linux_table, from_netstat
from node.ports.router import NatPmp, Pcp
from node.ports.wire import (
    read_natpmp_external_address,
    read_natpmp_map,
    read_pcp_announce,
    read_pcp_map,
)
from protocol.address import Endpoint
from tests.node.ports.routers import NO_RESOURCES, Router, serving

KINDS = [Pcp, NatPmp]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_port_is_mapped_kept_and_given_back(kind):
    router = Router(port_offset=100)
    async with serving(router) as port:
        way = kind("127.0.0.1", port=port)

        lease = await way.map(31400, None)
        again = await way.map(31400, lease)
        held = dict(router.mapped)
        await way.unmap(again)

    assert lease == again
    assert lease.external == Endpoint("203.0.113.5", 31500)
    assert lease.lifetime_s == 3600
    assert lease.protocol == kind.name
    assert list(held) == [31400]
    assert router.mapped == {}


async def test_a_router_is_asked_whether_it_would_and_maps_nothing():
    router = Router()
    async with serving(router) as port:
        told = [await kind("127.0.0.1", port=port).external_host() for kind in KINDS]

    assert told == ["", "203.0.113.5"]
    assert router.mapped == {}
    async with serving(Router(pcp=False)) as port:
        with pytest.raises(RouterRefused, match="NAT-PMP, not PCP"):
            await Pcp("127.0.0.1", port=port).external_host()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_that_is_lost_is_sent_again(kind):
    router = Router()
    router.deaf = 2
    async with serving(router) as port:
        lease = await kind("127.0.0.1", port=port).map(31400, None)

    assert lease.external.port == 31400
    assert router.n_asked >= 3


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_router_refuses_is_told_in_words(kind):
    router = Router()
    router.result = NO_RESOURCES if kind is Pcp else 4
    async with serving(router) as port:
        with pytest.raises(RouterRefused, match="no room for more ports"):
            await kind("127.0.0.1", port=port).map(31400, None)


async def test_a_router_that_knows_only_the_older_protocol_says_so():
    async with serving(Router(pcp=False)) as port:
        with pytest.raises(RouterRefused, match="NAT-PMP, not PCP"):
            await Pcp("127.0.0.1", port=port).map(31400, None)


@pytest.mark.parametrize("kind", KINDS)
async def test_answers_to_somebody_else_are_passed_over(kind):
    router = Router()
    others = struct.pack(">BBBBII12x", 2, 0x81, 0, 0, 60, 7) + bytes(12)
    others += struct.pack(">B3xHH", 6, 31400, 9) + bytes(16)  # another nonce
    other_port = struct.pack(">BBHIHHI", 0, 0x82, 0, 7, 31399, 9, 60)
    router.junk = (b"", b"\x02", others, other_port, bytes(60))
    async with serving(router) as port:
        lease = await kind("127.0.0.1", port=port).map(31400, None)

    assert lease.external.port == 31400


async def test_where_no_router_listens_that_is_known_at_once():
    async with serving(Router()) as port:
        pass

    with pytest.raises(RouterRefused, match="does not speak this"):
        await NatPmp("127.0.0.1", port=port).map(31400, None)


@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\x02\x80", b"\x02\x81", b"\x00\x82", b"\x00\x80"]),
)
def test_whatever_a_router_sends_is_read_refused_or_passed_over(junk, beginning):
    data = beginning + junk
    with contextlib.suppress(RouterRefused):
        read_pcp_map(data, bytes(12), 31400)
    with contextlib.suppress(RouterRefused):
        read_pcp_announce(data)
    with contextlib.suppress(RouterRefused):
        read_natpmp_map(data, 31400)
    with contextlib.suppress(RouterRefused):
        read_natpmp_external_address(data)


def test_a_lease_has_ports_that_can_be():
    with pytest.raises(RouterRefused):
        Lease(protocol="PCP", internal_port=1, external=Endpoint("203.0.113.5", 0), lifetime_s=60)


# --- the router's address -------------------------------------------------------------------------


def test_the_router_is_found_in_linux_routing_table():
    table = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
wlan0 00000000 FE01A8C0 0003 0 0 600 00000000 0 0 0
eth0 00000000 0101A8C0 0003 0 0 100 00000000 0 0 0
eth0 0001A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0"""

    assert from_linux_table(table.splitlines()) == "192.168.1.1"
    assert from_linux_table([]) == ""


def test_the_router_is_found_in_what_other_systems_print():
    macos = """Routing tables

Internet:
Destination        Gateway            Flags               Netif Expire
default            192.168.1.1        UGScg                 en0
127                127.0.0.1          UCS                   lo0
Internet6:
default            fe80::1%utun0      UGcIg               utun0"""
    windows = """IPv4 Route Table
===========================================================================
Network Destination        Netmask          Gateway       Interface  Metric
          0.0.0.0          0.0.0.0      192.168.1.1    192.168.1.40     35
        127.0.0.0        255.0.0.0         On-link         127.0.0.1    331"""

    assert from_netstat(macos) == from_netstat(windows) == "192.168.1.1"
    assert from_netstat("") == from_netstat("default link#4 UCS en0") == ""


# --- for as long as the node runs -----------------------------------------------------------------


class Way:
    """A way of asking whose answers are scripted: leases, or reasons."""

    def __init__(self, name, *script):
        self.name, self.script = name, list(script)
        self.given_back = []
        self.asked = []

    async def map(self, internal_port, wanted):
        self.asked.append(wanted)
        said = self.script.pop(0) if self.script else "no more"
        if isinstance(said, str):
            raise RouterRefused(said)
        return said

    async def unmap(self, lease):
        self.given_back.append(lease)


def lease(host="203.0.113.5", lifetime_s=0):
    return Lease(
        protocol="PCP",
        internal_port=31400,
        external=Endpoint(host, 31400),
        lifetime_s=lifetime_s,
    )


async def mapped(*ways, n_changes=1, **options):
    """A mapper after so many changes; what it said at each; then it is ended."""
    changes = asyncio.Queue()

    async def usual():
        return ways

    mapper = PortMapper(usual, again_s=0.01, least_renew_s=0.01, **options)
    running = asyncio.create_task(
        mapper.run(31400, lambda: changes.put_nowait((mapper.external, mapper.problem)))
    )
    try:
        async with asyncio.timeout(5.0):
            return [await changes.get() for _ in range(n_changes)]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert mapper.lease is None


async def test_the_first_way_that_works_is_kept_and_the_port_given_back_at_the_end():
    no, yes = Way("PCP", "no"), Way("NAT-PMP", lease())

    [(external, problem)] = await mapped(no, yes)

    assert external == Endpoint("203.0.113.5", 31400)
    assert problem == ""
    assert yes.given_back == [lease()]


async def test_where_nothing_works_each_reason_is_told():
    [(external, problem)] = await mapped(Way("PCP", "deaf"), Way("UPnP", "no router"))

    assert external is None
    assert problem == "PCP: deaf; UPnP: no router"


async def test_a_router_that_starts_later_is_found():
    late = Way("PCP", "not yet", lease())

    told = await mapped(late, n_changes=2)

    assert [external for external, _ in told] == [None, Endpoint("203.0.113.5", 31400)]


async def test_a_lease_is_renewed_and_a_lost_one_is_gone_when_it_ends():
    clock = count(0.0, 0.6)
    way = Way("PCP", lease(lifetime_s=1), lease(lifetime_s=1), "gone")

    told = await mapped(way, n_changes=3, now_s=lambda: next(clock))

    held = Endpoint("203.0.113.5", 31400)
    assert way.asked[:2] == [None, lease(lifetime_s=1)]
    assert told == [(held, ""), (held, "PCP: no more"), (None, "PCP: no more")]


async def test_a_router_behind_another_router_is_no_way_in():
    [(external, problem)] = await mapped(Way("PCP", lease("100.64.0.9")))

    assert external is None
    assert "behind another router" in problem

"""What a router answers, or whoever sends in its place, to PCP and NAT-PMP."""

import struct

from node.ports.wire import (
    natpmp_map,
    pcp_map,
    read_natpmp_external_address,
    read_natpmp_map,
    read_pcp_map,
)
from protocol.address import Endpoint
from tests.fuzz.harness import Target

NONCE, PORT = bytes(range(12)), 31400


def _router(data: bytes) -> object:
    return (
        read_natpmp_external_address(data),
        read_natpmp_map(data, PORT),
        read_pcp_map(data, NONCE, PORT),
    )


def _router_answers() -> list[bytes]:
    """Those of our own requests, turned round as routers do."""
    pcp = bytearray(pcp_map("192.168.1.7", NONCE, PORT, Endpoint("203.0.113.5", PORT), 3600))
    pcp[1] |= 0x80
    return [
        bytes(pcp),
        struct.pack(">BBHI4s", 0, 0x80, 0, 7, bytes([203, 0, 113, 5])),
        struct.pack(">BBHIHHI", 0, 0x82, 0, 7, PORT, PORT, 3600),
        natpmp_map(PORT, PORT, 3600),
    ]


TARGETS = (Target(name="router-answer", parse=_router, seeds=_router_answers),)

"""What a router answers, or whoever sends in its place, to PCP and NAT-PMP."""

import struct
from collections.abc import Callable
from contextlib import suppress

from node.ports.wire import (
    natpmp_map,
    pcp_announce,
    pcp_map,
    read_natpmp_external_address,
    read_natpmp_map,
    read_pcp_announce,
    read_pcp_map,
)
from protocol.address import Endpoint
from protocol.errors import ManyhandsError
from tests.fuzz.harness import Target

NONCE, PORT = bytes(range(12)), 31400


def _router(data: bytes) -> None:
    """Read as the answer to each question there is; a refusal of one is none of the others."""
    readers: tuple[Callable[[bytes], object], ...] = (
        read_natpmp_external_address,
        read_pcp_announce,
        lambda told: read_natpmp_map(told, PORT),
        lambda told: read_pcp_map(told, NONCE, PORT),
    )
    for read in readers:
        with suppress(ManyhandsError):
            read(data)


def _router_answers() -> list[bytes]:
    """Those of our own requests, turned round as routers do."""
    pcp = bytearray(pcp_map("192.168.1.7", NONCE, PORT, Endpoint("203.0.113.5", PORT), 3600))
    announce = bytearray(pcp_announce("192.168.1.7"))
    pcp[1] |= 0x80
    announce[1] |= 0x80
    return [
        bytes(pcp),
        bytes(announce),
        struct.pack(">BBHI4s", 0, 0x80, 0, 7, bytes([203, 0, 113, 5])),
        struct.pack(">BBHIHHI", 0, 0x82, 0, 7, PORT, PORT, 3600),
        natpmp_map(PORT, PORT, 3600),
    ]


TARGETS = (Target(name="router-answer", parse=_router, seeds=_router_answers),)

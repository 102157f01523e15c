"""PCP (RFC 6887) and NAT-PMP (RFC 6886) as bytes: requests to a router, and what it answers.

In: ports and lifetimes. Out: datagrams, and back, or the router's refusal in words. Both are spoken
on the same port; a router that knows only the older one says so by its result code (RFC 6887,
section 9). Whatever does not look like the answer to our request is None: it was meant for somebody
else, or is older, and the right one may follow.
"""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from node.ports.lease import RouterRefused
from protocol.address import Endpoint

ROUTER_PORT = 5351
PCP, NAT_PMP = 2, 0  # versions
MAX_BYTES = 1100
NONCE_BYTES = 12
TCP = 6
_ANSWER = 0x80
_ANNOUNCE, _MAP, _EXTERNAL_ADDRESS, _MAP_TCP = 0, 1, 0, 2
_OTHER_VERSION = 1

_NAT_PMP_RESULTS = {
    1: "it does not know this version",
    2: "its owner has not allowed it",
    3: "it has no way to the internet now",
    4: "it has no room for more ports",
    5: "it does not know this request",
}
_PCP_RESULTS = {
    1: "it does not know this version",
    2: "its owner has not allowed it",
    3: "it could not read the request",
    4: "it does not know this request",
    7: "it has no way to the internet now",
    8: "it has no room for more ports",
    9: "it forwards no TCP",
    10: "this machine has as many ports as it may",
    11: "it cannot have the port that was asked for",
    12: "another router stands between",
    13: "too many peers were named",
}


class OlderRouter(RouterRefused):
    """It speaks NAT-PMP only."""


# --- PCP ------------------------------------------------------------------------------------------


def pcp_map(
    client: str, nonce: bytes, internal_port: int, wanted: Endpoint | None, lifetime_s: int
) -> bytes:
    """A MAP request (section 11.1) of `client`, an address of ours as the router sees it."""
    header = struct.pack(">BBHI", PCP, _MAP, 0, lifetime_s) + _as_ipv6(client)
    outside = wanted or Endpoint("0.0.0.0" if ip_address(client).version == 4 else "::", 0)
    ports = struct.pack(">B3xHH", TCP, internal_port, outside.port)
    return header + nonce + ports + _as_ipv6(outside.host)


def pcp_announce(client: str) -> bytes:
    """An ANNOUNCE request (section 14.1): whoever speaks PCP answers it, and maps nothing."""
    return struct.pack(">BBHI", PCP, _ANNOUNCE, 0, 0) + _as_ipv6(client)


def read_pcp_announce(data: bytes) -> bool | None:
    """True: it speaks PCP; None: not the answer to our request.

    Raises:
        OlderRouter, RouterRefused: it says no.
    """
    return True if _is_pcp(data, _ANNOUNCE) else None


def read_pcp_map(data: bytes, nonce: bytes, internal_port: int) -> tuple[Endpoint, int] | None:
    """Where we are reachable, and for how many seconds; None: not the answer to our request.

    Raises:
        OlderRouter, RouterRefused: it says no.
    """
    if not _is_pcp(data, _MAP) or len(data) < 60 or data[24:36] != nonce or data[36] != TCP:
        return None
    lifetime_s = struct.unpack_from(">I", data, 4)[0]
    ours, outside = struct.unpack_from(">HH", data, 40)
    if ours != internal_port:
        return None
    return Endpoint(str(IPv6Address(data[44:60])), outside), lifetime_s


def _is_pcp(data: bytes, opcode: int) -> bool:
    if len(data) >= 4 and data[0] == NAT_PMP and data[1] & _ANSWER and data[3] == _OTHER_VERSION:
        raise OlderRouter("it speaks NAT-PMP, not PCP")  # RFC 6886 section 3.5, RFC 6887 appendix A
    if len(data) < 24 or len(data) > MAX_BYTES or data[0] != PCP or data[1] != _ANSWER | opcode:
        return False
    if data[3]:
        raise RouterRefused(_PCP_RESULTS.get(data[3], f"it answers with code {data[3]}"))
    return True


# --- NAT-PMP --------------------------------------------------------------------------------------


def natpmp_external_address() -> bytes:
    return bytes([NAT_PMP, _EXTERNAL_ADDRESS])


def read_natpmp_external_address(data: bytes) -> str | None:
    """The router's public address; None: not an answer to that.

    Raises:
        RouterRefused: it has none.
    """
    if not _is_natpmp(data, _EXTERNAL_ADDRESS):
        return None
    return str(IPv4Address(data[8:12])) if len(data) >= 12 else None


def natpmp_map(internal_port: int, wanted_port: int, lifetime_s: int) -> bytes:
    """Of TCP; a lifetime of 0 takes it back (section 3.4)."""
    return struct.pack(">BBHHHI", NAT_PMP, _MAP_TCP, 0, internal_port, wanted_port, lifetime_s)


def read_natpmp_map(data: bytes, internal_port: int) -> tuple[int, int] | None:
    """The port outside, and for how many seconds; None: not the answer to our request.

    Raises:
        RouterRefused: it says no.
    """
    if not _is_natpmp(data, _MAP_TCP) or len(data) < 16:
        return None
    ours, outside, lifetime_s = struct.unpack_from(">HHI", data, 8)
    return (outside, lifetime_s) if ours == internal_port else None


def _is_natpmp(data: bytes, opcode: int) -> bool:
    if len(data) < 4 or len(data) > MAX_BYTES or data[0] != NAT_PMP or data[1] != _ANSWER | opcode:
        return False
    if result := struct.unpack_from(">H", data, 2)[0]:
        raise RouterRefused(_NAT_PMP_RESULTS.get(result, f"it answers with code {result}"))
    return True


def _as_ipv6(host: str) -> bytes:
    """The sixteen bytes in which PCP writes any address (RFC 6887, section 5)."""
    ip = ip_address(host)
    return ip.packed if isinstance(ip, IPv6Address) else bytes(10) + b"\xff\xff" + ip.packed

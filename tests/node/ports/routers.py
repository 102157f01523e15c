"""A home router for tests: PCP and NAT-PMP on a real socket, as RFC 6887 and RFC 6886 write them.

It is written from the RFCs' pictures of the packets, apart from `node.ports.wire`.
"""

import asyncio
import struct
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address

ANNOUNCE, MAP, ANSWER, TCP = 0, 1, 0x80, 6
UNSUPPORTED_VERSION, UNSUPPORTED_OPCODE, NO_RESOURCES = 1, 5, 8


class Router(asyncio.DatagramProtocol):
    """`answers`: what it does with each request, by version."""

    def __init__(self, *, pcp=True, host="203.0.113.5", port_offset=0, lifetime_s=None):
        self.pcp, self.host, self.port_offset = pcp, host, port_offset
        self.lifetime_s = lifetime_s
        self.result = 0  # of everything it is asked
        self.deaf = 0  # so many requests it does not hear
        self.junk = ()  # datagrams that it sends before each answer
        self.mapped = {}  # inside: (outside, lifetime, nonce)
        self.n_asked = 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.n_asked += 1
        if self.deaf > 0:
            self.deaf -= 1
            return
        for junk in self.junk:
            self.transport.sendto(junk, addr)
        is_pcp = data[0] == 2
        if is_pcp and not self.pcp:  # RFC 6886, section 3.5
            answer = struct.pack(">BBHI", 0, ANSWER, UNSUPPORTED_VERSION, 7)
        else:
            answer = self._pcp(data) if is_pcp else self._natpmp(data)
        self.transport.sendto(answer, addr)

    def _pcp(self, data):
        _, opcode, lifetime_s = struct.unpack(">BBxxI", data[:8])
        if opcode == ANNOUNCE:  # section 14.1: the header alone, both ways
            assert (len(data), lifetime_s) == (24, 0)
            return struct.pack(">BBBBII12x", 2, ANSWER, 0, self.result, 0, 7)
        nonce, protocol = data[24:36], data[36]
        inside, wanted = struct.unpack(">HH", data[40:44])
        assert (opcode, protocol, len(data)) == (MAP, TCP, 60)
        assert IPv6Address(data[8:24]).ipv4_mapped == IPv4Address("127.0.0.1")
        outside, lifetime_s = self._map(inside, wanted, lifetime_s, nonce)
        header = struct.pack(">BBBBII12x", 2, opcode | ANSWER, 0, self.result, lifetime_s, 7)
        ports = struct.pack(">B3xHH", protocol, inside, outside)
        return header + nonce + ports + IPv6Address(f"::ffff:{self.host}").packed

    def _natpmp(self, data):
        opcode = data[1]
        head = struct.pack(">BBHI", 0, opcode | ANSWER, self.result, 7)
        if opcode == 0:
            return head + IPv4Address(self.host).packed
        inside, wanted, lifetime_s = struct.unpack(">HHI", data[4:12])
        return head + struct.pack(">HHI", inside, *self._map(inside, wanted, lifetime_s, b""))

    def _map(self, inside, wanted, lifetime_s, nonce):
        if self.result:
            return wanted, 0
        if lifetime_s == 0:
            if self.mapped.get(inside, (0, 0, b""))[2] == nonce:
                self.mapped.pop(inside, None)
            return 0, 0
        outside = wanted or inside
        held = self.mapped.get(inside)
        outside = held[0] if held else outside + self.port_offset
        granted_s = min(lifetime_s, self.lifetime_s or lifetime_s)
        self.mapped[inside] = (outside, granted_s, nonce)
        return outside, granted_s


@asynccontextmanager
async def serving(router):
    """Its port."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: router, local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()

"""Holes through two routers at once: libp2p's DCUtR, over TCP.

In: a peer to which there is a circuit, and what others have seen of our own address. Out: a direct
connection, if both routers map as most do. The two agree over the circuit when to dial, and dial
each other's outside address from the very port they listen on; each one's SYN opens its router for
the other's, and TCP makes one connection of both (RFC 9293 section 3.5; libp2p/specs, relay/
DCUtR.md; Ford et al. 2005). Whoever was called begins, as the specification has it, and is the
server of the handshake; at the second attempt it is the client, for only then can it come in where
the other's router is open to it and its own has given it another port than that which was told. A
symmetric router gives each conversation such a port: against all but cones this cannot work, and is
not tried where it is known. py-libp2p's own class is not used: it tries every two seconds with
whoever is there, one after another. All of it on trio.
"""

import contextlib
import ipaddress
import logging
from collections import Counter
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from protocol.hole_rounds import MAX_AT_ONCE
from protocol.rate_limits import Limit, RateLimit
from protocol.transport.circuits import connections_of, end, hear, is_direct, say

log = logging.getLogger(__name__)

DCUTR = TProtocol("/libp2p/dcutr")
ATTEMPTS = 3  # the specification's
DIAL_S = 5.0  # two SYNs more, at one and three seconds; and the handshake
SILENCE_S = 20.0  # between the attempts of one round there is less
MAX_ADDRESSES = 4
MAX_IDENTIFY_BYTES = 64 * 1024
ASKED = Limit(per_s=0.2, burst=2 * ATTEMPTS)  # attempts with one peer, either way


class Punching:
    """Both roles, over one host."""

    def __init__(self, host: Any, source: tuple[str, int], *, timeout_s: float) -> None:
        """`source`: where the host listens, and dials from."""
        self.refused: Counter[str] = Counter()
        self.n_punched = 0
        self._host, self._source, self._timeout_s = host, source, timeout_s
        self._seen: dict[ID, tuple[str, int]] = {}  # our address, by who saw it
        self._busy: set[ID] = set()
        self._through: set[ID] = set()  # directly connected, and counted if by a hole
        self._heard: dict[ID, tuple[int, float]] = {}  # attempts of whom we have called; the last
        self._asked = RateLimit(ASKED)
        host.set_stream_handler(DCUTR, self._be_asked)

    @property
    def is_symmetric(self) -> bool:
        """Whether two peers have seen us come from two ports of one address."""
        ports: dict[str, set[int]] = {}
        for host, port in self._seen.values():
            ports.setdefault(host, set()).add(port)
        return any(len(each) > 1 for each in ports.values())

    async def dial_from_port(self, peer: PeerInfo) -> None:
        """Connect so that what the peer sees of us is what others may dial; else anyhow."""
        dial = self._host.get_network().dial_addr
        for address in peer.addrs:
            with trio.move_on_after(self._timeout_s), contextlib.suppress(Exception):
                await dial(address, peer.peer_id, self._source)
                return
        with contextlib.suppress(Exception):  # the port may be busy with that very address
            await self._host.connect(peer)

    async def look(self, peer: ID) -> None:
        """Ask a peer to which we dialled from our port where that came from."""
        with trio.move_on_after(self._timeout_s):
            try:
                stream = await self._host.new_stream(peer, [IDENTIFY])
                told = await _read_all(stream, MAX_IDENTIFY_BYTES)
                await end(stream)
                seen = _endpoint(parse_identify_response(told).observed_addr)
            except Exception as error:  # of a library with many kinds, about a stranger
                log.debug("a peer does not say", extra={"peer": str(peer), "why": repr(error)})
                return
            if seen is not None:
                self._seen[peer] = seen

    def forget(self, connected: set[ID]) -> None:
        """What those saw who are gone."""
        self._seen = {peer: seen for peer, seen in self._seen.items() if peer in connected}
        self._through = {peer for peer in self._through if self.has_direct(peer)}
        self._heard = {peer: heard for peer, heard in self._heard.items() if peer in connected}

    async def punch(self, peer: ID) -> bool:
        """As the one who was called: agree, and dial. Whether there is a direct connection now."""
        is_busy = peer in self._busy or len(self._busy) >= MAX_AT_ONCE
        if is_busy or self.is_symmetric or self.has_direct(peer):
            return self.has_direct(peer)
        self._busy.add(peer)
        try:
            for attempt in range(ATTEMPTS):
                if self.has_direct(peer):
                    break
                with trio.move_on_after(2 * self._timeout_s + DIAL_S):
                    await self._begin(peer, is_server=attempt % 2 == 0)
        except Exception as error:  # of a library with many kinds, about a stranger
            log.debug("no hole", extra={"peer": str(peer), "reason": repr(error)})
        finally:
            self._busy.discard(peer)
            self._count(peer)
        return self.has_direct(peer)

    def expect(self, peer: ID) -> None:
        """We have called it anew: its next attempt is the first."""
        self._heard.pop(peer, None)

    async def _begin(self, peer: ID, *, is_server: bool) -> None:
        stream = await self._host.new_stream(peer, [DCUTR])
        try:
            asked_s = trio.current_time()
            await say(stream, self._words())
            answer = await hear(stream, HolePunch)
            round_trip_s = trio.current_time() - asked_s
            await say(stream, HolePunch(type=HolePunch.SYNC))
            await trio.sleep(min(1.0, round_trip_s / 2))
            await self._dial(peer, _read_addresses(answer), is_server=is_server)
        finally:
            await end(stream)

    async def _be_asked(self, stream: Any) -> None:
        """As the one who has called."""
        peer = stream.muxed_conn.peer_id
        if self.has_direct(peer):  # whatever made that connection, it is no new hole
            self._through.add(peer)
        try:
            if not self._asked.take(str(peer), 1.0, trio.current_time()):
                self.refused["holes too often"] += 1
                await stream.reset()
                return
            with trio.fail_after(2 * self._timeout_s):
                addresses = _read_addresses(await hear(stream, HolePunch))
                await say(stream, self._words())
                if (await hear(stream, HolePunch)).type != HolePunch.SYNC:
                    raise ValueError("not the words that were due")
            await self._dial(peer, addresses, is_server=self._n_heard(peer) % 2 == 0)
        except Exception as error:  # of a library with many kinds, about a stranger
            log.debug("no hole", extra={"peer": str(peer), "reason": repr(error)})
        self._count(peer)  # the other one's SYN may outrun its words, which take a relay's time
        await end(stream)

    def _n_heard(self, peer: ID) -> int:
        """Which attempt of its round this is; after a silence it is the first of another."""
        now_s = trio.current_time()
        n_heard, at_s = self._heard.get(peer, (0, now_s))
        self._heard[peer] = (n_heard + 1 if now_s - at_s < SILENCE_S else 1), now_s
        return self._heard[peer][0]

    async def _dial(self, peer: ID, addresses: list[Multiaddr], *, is_server: bool) -> None:
        """All at once; the first connection ends the others."""
        network = self._host.get_network()
        dial = network.dial_addr_as_responder if is_server else network.dial_addr

        async def one(address: Multiaddr) -> None:
            with contextlib.suppress(Exception):  # of a library with many kinds
                (await dial(address, peer, self._source)).is_punched = True

        with trio.move_on_after(DIAL_S) as patience:
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    nursery.start_soon(one, address)
                while not self.has_direct(peer):  # noqa: ASYNC110 (dialled or accepted)
                    await trio.sleep(0.05)
                self._count(peer)
                patience.deadline = trio.current_time() + 0.5  # the other one may be merging

    def has_direct(self, peer: ID) -> bool:
        return any(is_direct(each) for each in connections_of(self._host, peer))

    def _count(self, peer: ID) -> None:
        if peer not in self._through and self.has_direct(peer):
            self._through.add(peer)
            self.n_punched += 1

    def _words(self) -> Any:
        """Where we may be dialled: as we were seen, and with the port that routers tend to keep."""
        seen = [*self._seen.values(), *((host, self._source[1]) for host, _ in self._seen.values())]
        words = HolePunch(type=HolePunch.CONNECT)
        for host, port in list(dict.fromkeys(seen))[:MAX_ADDRESSES]:
            words.ObsAddrs.append(Multiaddr(_text(host, port)).to_bytes())
        return words


def _read_addresses(words: Any) -> list[Multiaddr]:
    """Where a stranger wants to be dialled: TCP on single hosts, and not this machine."""
    if words.type != HolePunch.CONNECT:
        raise ValueError("not the words that were due")
    found = [_endpoint(data) for data in words.ObsAddrs[: 2 * MAX_ADDRESSES]]
    good = [each for each in dict.fromkeys(found) if each is not None]
    return [Multiaddr(_text(host, port)) for host, port in good[:MAX_ADDRESSES]]


def _endpoint(data: bytes) -> tuple[str, int] | None:
    try:
        address = Multiaddr(data)
        names = [each.name for each in address.protocols()]
        if names[:2] not in (["ip4", "tcp"], ["ip6", "tcp"]) or "p2p-circuit" in names:
            return None
        host, port = address.value_for_protocol(names[0]), int(address.value_for_protocol("tcp"))
        ip = ipaddress.ip_address(host)
    except Exception:  # a stranger's bytes, read by a library with many kinds
        return None
    # 127.0.0.1 in IPv6's clothes is this machine, too.
    ip = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped else ip
    is_odd = ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_link_local
    return None if is_odd or port == 0 else (host, port)


def _text(host: str, port: int) -> str:
    return f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"


async def _read_all(stream: Any, max_bytes: int) -> bytes:
    from libp2p.network.stream.exceptions import StreamEOF

    data = b""
    with contextlib.suppress(StreamEOF):
        while len(data) <= max_bytes and (more := await stream.read(max_bytes)):
            data += more
    return data

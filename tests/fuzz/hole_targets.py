"""What strangers say over libp2p on the way to a tunnel: to a relay, from one, before a hole.

The library reads lengths and protobuf; ours is what becomes of the words. Nothing is dialled: the
host is a stand-in that knows two peers.
"""

import importlib.util
import logging
import time
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address, ip_address
from typing import Any

from protocol.transport.control_plane import CircuitLimits
from tests.announcing import peer_of
from tests.fuzz.harness import Target


class _Said:
    """A stream on which a stranger has said all it will."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    async def read(self, n: int) -> bytes:
        part = self._data[self._at : self._at + n]
        self._at += len(part)
        return part


class _Host:
    """As much of py-libp2p's host as is asked for; both peers are connected to it."""

    def __init__(self, *peers: Any) -> None:
        self.connections = {peer: [_Direct()] for peer in peers}

    def set_stream_handler(self, protocol: str, handler: object) -> None: ...

    def get_network(self) -> "_Host":
        return self

    def get_connected_peers(self) -> list[Any]:
        return list(self.connections)

    def get_id(self) -> Any:
        return next(iter(self.connections))

    def get_addrs(self) -> list[Any]:
        return []


class _Direct:
    is_closed = False

    def get_connection_type(self) -> Any:
        from libp2p.connection_types import ConnectionType

        return ConnectionType.DIRECT


def _is_elsewhere(address: str) -> bool:
    """Whether it is another machine's, also by its IPv4 address in IPv6's clothes."""
    ip = ip_address(address.split("/")[2])
    plain = ip.ipv4_mapped if isinstance(ip, IPv6Address) and ip.ipv4_mapped else ip
    return not (plain.is_loopback or plain.is_unspecified or plain.is_multicast)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """To its end, where nothing is waited for."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def _targets() -> tuple[Target, ...]:
    from google.protobuf.message import DecodeError
    from libp2p.exceptions import BaseLibp2pError
    from libp2p.identity.identify.identify import parse_identify_response
    from libp2p.identity.identify.pb.identify_pb2 import Identify
    from libp2p.peer.id import ID
    from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, StopMessage
    from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
    from libp2p.utils.varint import encode_varint_prefixed
    from multiaddr import Multiaddr

    from protocol.transport import circuits, punching
    from protocol.transport.circuit_relay import CircuitRelay
    from protocol.transport.circuits import CircuitRefused, Circuits, hear

    logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # as where it runs
    caller, called = (ID.from_string(peer_of(n)) for n in (1, 2))

    def admits(peer_id: str) -> bool:
        return len(peer_id) < 100

    def request(data: bytes) -> None:
        """To a relay, which judges it by what it holds."""
        host, limits = _Host(caller, called), CircuitLimits()
        relay = CircuitRelay(host, admits, limits, timeout_s=5.0, now_s=lambda: 0.0)
        words = _run(hear(_Said(data), HopMessage))
        if words.type == HopMessage.RESERVE:
            relay._reserve(caller, None).SerializeToString()
        relay._places[called] = 2**40
        relay._judge(caller, ID(words.peer.id), words)

    def answer(data: bytes) -> None:
        """Of a relay, to whoever wants a place there."""
        now_s = time.time()
        place = circuits._granted(called, _run(hear(_Said(data), HopMessage)), now_s)
        assert place.until_s <= now_s + 86_400

    def call(data: bytes) -> None:
        """Of a relay, to whoever has a place there."""
        ends = Circuits(_Host(caller, called), admits, timeout_s=5.0)
        ends.reserved[called] = circuits.Reservation(called, 0.0, 2.0**40, True)
        words = _run(hear(_Said(data), StopMessage))
        ends._judge(called, words)
        circuits._carries(words)

    def hole(data: bytes) -> None:
        """Where a stranger wants us to dial."""
        found = punching._read_addresses(_run(hear(_Said(data), HolePunch)))
        assert len(found) <= punching.MAX_ADDRESSES
        assert all(_is_elsewhere(str(each)) for each in found)

    def seen(data: bytes) -> None:
        """How a peer sees us."""
        told = _run(punching._read_all(_Said(data), punching.MAX_IDENTIFY_BYTES))
        punching._endpoint(parse_identify_response(told).observed_addr)

    def requests() -> list[bytes]:
        connect = HopMessage(type=HopMessage.CONNECT)
        connect.peer.id = called.to_bytes()
        connect.peer.addrs.append(Multiaddr("/ip4/203.0.113.5/tcp/4001").to_bytes())
        return [*map(_framed, (connect, HopMessage(type=HopMessage.RESERVE)))]

    def answers() -> list[bytes]:
        granted = HopMessage(type=HopMessage.STATUS, status=circuits.OK)
        granted.reservation.expire = 2_000_000_000
        granted.reservation.addrs.append(Multiaddr("/ip4/203.0.113.5/tcp/4001").to_bytes())
        granted.limit.duration, granted.limit.data = 120, 1 << 17
        return [_framed(granted)]

    def calls() -> list[bytes]:
        words = StopMessage(type=StopMessage.CONNECT)
        words.peer.id = caller.to_bytes()
        words.limit.duration, words.limit.data = 120, 1 << 17
        return [_framed(words)]

    def holes() -> list[bytes]:
        words = HolePunch(type=HolePunch.CONNECT)
        for host in ("ip4/203.0.113.5", "ip6/2001:db8::1", "ip6/::ffff:203.0.113.5"):
            words.ObsAddrs.append(Multiaddr(f"/{host}/tcp/4001").to_bytes())
        return [_framed(words), _framed(HolePunch(type=HolePunch.CONNECT))]

    def sights() -> list[bytes]:
        told = Identify(public_key=bytes(36), agent_version="x", protocols=["/ipfs/id/1.0.0"])
        told.observed_addr = Multiaddr("/ip4/203.0.113.5/tcp/4001").to_bytes()
        return [told.SerializeToString(), _framed(told)]

    def _framed(words: Any) -> bytes:
        return bytes(encode_varint_prefixed(words.SerializeToString()))

    # What the callers of these take for a stranger that makes no sense.
    unread: tuple[type[BaseException], ...] = (DecodeError, BaseLibp2pError, ValueError)
    made: tuple[tuple[str, Callable[[bytes], None], Callable[[], list[bytes]], Any], ...] = (
        ("circuit-request", request, requests, unread),
        ("circuit-answer", answer, answers, (*unread, CircuitRefused)),
        ("circuit-call", call, calls, unread),
        ("hole-words", hole, holes, unread),
        ("seen-address", seen, sights, unread),
    )
    return tuple(
        Target(name=name, parse=parse, seeds=seeds, errors=errors)
        for name, parse, seeds, errors in made
    )


TARGETS = _targets() if importlib.util.find_spec("libp2p") is not None else ()

"""The two ends of a circuit through a relay: libp2p's circuit relay v2, without the relay itself.

In: a py-libp2p host. Out: places at relays, connections to peers through them, and those that peers
open to us where we have one. The messages are the specification's (libp2p/specs,
relay/circuit-v2.md). py-libp2p's own classes are not used: they take circuits from peers that are
no relay of ours, reserve a place for each dial, and name the wrong relay in what they accept. A
connection through a circuit is as any other: Noise proves both peers, the relay reads nothing. All
of it on trio.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, StopMessage
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from protocol.identity import PeerId
from protocol.transport.paced_stream import PacedStream

log = logging.getLogger(__name__)

HOP = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
OK = 100  # of the specification's status codes
CONNECTION_FAILED, PERMISSION_DENIED, MALFORMED = 203, 202, 400
MAX_WORDS_BYTES = 4096
USEFUL_BYTES = 64 * 2**20  # a relay that carries less is good for arranging to meet, no more

Admits = Callable[[PeerId], bool]


class CircuitRefused(Exception):
    """A relay, or the peer behind it, said no."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Our place at a relay, while we stay connected to it."""

    relay: ID
    renew_s: float  # of the wall clock, as `until_s`
    until_s: float
    carries: bool  # whether enough bytes for more than a few words


class Circuits:
    """Both kinds of ends, over one host."""

    def __init__(self, host: Any, admits: Admits, *, timeout_s: float) -> None:
        self.reserved: dict[ID, Reservation] = {}
        self.refused: Counter[str] = Counter()
        self.refused_until: dict[ID, float] = {}  # relays that had no place for us, on trio's clock
        self.called = _nobody  # told of each peer that has come in through a circuit
        self._host, self._admits, self._timeout_s = host, admits, timeout_s
        host.set_stream_handler(STOP, self._be_called)

    async def reserve(self, relay: ID) -> Reservation:
        """Have a connected relay keep a place for us, or keep it for longer.

        Raises:
            CircuitRefused: it has none, or is no relay.
        """
        with _failing_after(self._timeout_s):
            stream = await self._host.new_stream(relay, [HOP])
            try:
                await say(stream, HopMessage(type=HopMessage.RESERVE))
                answer = await hear(stream, HopMessage)
            finally:
                await end(stream)
        self.reserved[relay] = _granted(relay, answer, time.time())
        return self.reserved[relay]

    async def connect(self, relay: ID, peer: ID) -> Any:
        """A connection to `peer` through a connected relay; its `carries` says if it carries much.

        Raises:
            CircuitRefused: the peer has no place there, or does not answer.
        """
        with _failing_after(3 * self._timeout_s):
            stream = await self._host.new_stream(relay, [HOP])
            try:
                words = HopMessage(type=HopMessage.CONNECT)
                words.peer.id = peer.to_bytes()
                await say(stream, words)
                answer = await hear(stream, HopMessage)
                if answer.status != OK:
                    raise CircuitRefused(f"no circuit through {relay} ({answer.status})")
                raw, address = _base(stream, relay, peer, is_caller=True)
                connection = await self._host.upgrade_outbound_connection(raw, peer)
            except BaseException:
                with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
                    await stream.reset()
                raise
        connection.set_transport_info([address], ConnectionType.RELAYED)
        connection.carries = _carries(answer)
        return connection

    async def _be_called(self, stream: Any) -> None:
        """A relay opens a circuit to us on this stream."""
        relay = stream.muxed_conn.peer_id
        try:
            with _failing_after(2 * self._timeout_s):
                words = await hear(stream, StopMessage)
                status = self._judge(relay, words)
                await say(stream, StopMessage(type=StopMessage.STATUS, status=status))
                if status != OK:
                    await end(stream)
                    return
                caller = ID(words.peer.id)
                raw, address = _base(stream, relay, caller, is_caller=False)
                muxed = await self._host.upgrade_inbound_connection(raw, address)
        except Exception as error:  # of a library with many kinds, about a stranger
            log.debug("a circuit to us failed", extra={"relay": str(relay), "why": repr(error)})
            with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
                await stream.reset()
            return
        for connection in self._host.get_network().connections.get(muxed.peer_id, []):
            if connection.muxed_conn is muxed:
                connection.set_transport_info([address], ConnectionType.RELAYED)
                connection.carries = _carries(words)
        await self.called(muxed.peer_id)

    def _judge(self, relay: ID, words: Any) -> int:
        if relay not in self.reserved:
            self.refused["circuits by no relay of ours"] += 1
            return PERMISSION_DENIED
        if words.type != StopMessage.CONNECT or not 0 < len(words.peer.id) <= 64:
            self.refused["malformed circuits"] += 1
            return MALFORMED
        if not self._admits(PeerId(str(ID(words.peer.id)))):
            self.refused["peer not admitted"] += 1
            return PERMISSION_DENIED
        return OK


def is_direct(connection: Any) -> bool:
    return not connection.is_closed and connection.get_connection_type() == ConnectionType.DIRECT


def connections_of(host: Any, peer: ID) -> list[Any]:
    """The open ones, of every kind."""
    return [each for each in host.get_network().connections.get(peer, []) if not each.is_closed]


async def say(stream: Any, words: Any) -> None:
    await stream.write(encode_varint_prefixed(words.SerializeToString()))


async def hear(stream: Any, kind: Any) -> Any:
    words = kind()
    words.ParseFromString(await read_varint_prefixed_bytes_limited(stream, MAX_WORDS_BYTES))
    return words


async def end(stream: Any) -> None:
    with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
        await stream.close()


def _base(stream: Any, relay: ID, peer: ID, *, is_caller: bool) -> tuple[Any, Multiaddr]:
    """What the library secures and multiplexes, and its address."""
    address = Multiaddr(f"/p2p/{relay}/p2p-circuit/p2p/{peer}")
    kind = ConnectionType.RELAYED
    return RawConnection(PacedStream(stream), is_caller, kind, [address]), address


def _granted(relay: ID, answer: Any, now_s: float) -> Reservation:
    """What a relay's answer is worth; no place lasts longer than a day."""
    if answer.status != OK or not answer.HasField("reservation"):
        raise CircuitRefused(f"the relay refuses a reservation ({answer.status})")
    until_s = min(float(answer.reservation.expire), now_s + 86_400)
    return Reservation(relay, (now_s + until_s) / 2, until_s, _carries(answer))


def _carries(words: Any) -> bool:
    return not words.HasField("limit") or not 0 < words.limit.data < USEFUL_BYTES


@contextlib.contextmanager
def _failing_after(timeout_s: float) -> Any:
    """Every way in which a conversation can fail is one."""
    try:
        with trio.fail_after(timeout_s):
            yield
    except CircuitRefused:
        raise
    except Exception as error:  # of a library with many kinds
        raise CircuitRefused(f"no answer: {error!r}") from error


async def _nobody(peer: ID) -> None:
    """Nobody wants to know."""

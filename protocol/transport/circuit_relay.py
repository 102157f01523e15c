"""A relay for circuits, within quotas: the middle of libp2p's circuit relay v2.

In: peers that ask for a place here, and peers that ask for those. Out: two streams joined, and what
was carried for whom. The messages are the specification's (libp2p/specs, relay/circuit-v2.md).
py-libp2p's own relay is not used: it reserves in whatever name it is told, and when one of a peer's
circuits ends it may close another. A place lasts while its peer stays connected; who comes through
a circuit itself gets neither place nor circuit. All of it on trio.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, StopMessage
from multiaddr import Multiaddr

from protocol.identity import PeerId
from protocol.rate_limits import Limit, RateLimit
from protocol.transport.circuits import (
    CONNECTION_FAILED,
    HOP,
    MALFORMED,
    OK,
    PERMISSION_DENIED,
    STOP,
    Admits,
    end,
    hear,
    is_direct,
    say,
)
from protocol.transport.control_plane import CircuitLimits
from protocol.transport.paced_stream import PacedStream, splice

log = logging.getLogger(__name__)

RESERVATION_REFUSED, RESOURCE_LIMIT_EXCEEDED, NO_RESERVATION = 200, 201, 204
ASKED = Limit(per_s=1, burst=20)  # reservations and circuits of one peer
MAX_COUNTED = 1000  # peers whose bytes are remembered


class _UsedUp(Exception):
    """A circuit has carried what it may."""


class CircuitRelay:
    """The relay of one host."""

    def __init__(
        self,
        host: Any,
        admits: Admits,
        limits: CircuitLimits,
        *,
        timeout_s: float,
        now_s: Callable[[], float] = trio.current_time,
    ) -> None:
        """`now_s`: of one monotonic clock."""
        self.refused: Counter[str] = Counter()
        self.carried: Counter[str] = Counter()  # bytes, by the peer that was called
        self.n_circuits = 0
        self._host, self._admits, self._limits = host, admits, limits
        self._timeout_s, self._now_s = timeout_s, now_s
        self._places: dict[ID, float] = {}  # until when
        self._busy: Counter[str] = Counter()  # circuits, by each of their two peers
        self._asked = RateLimit(ASKED)
        self._day, self._today_bytes = 0, 0
        host.set_stream_handler(HOP, self.handle)

    def status(self) -> dict[str, object]:
        return {
            "places": len(self._places),
            "circuits": self.n_circuits,
            "carried_bytes": self.carried.total(),
            "refused": dict(self.refused),
        }

    async def handle(self, stream: Any) -> None:
        """One request of another peer, and the circuit it may become."""
        peer = stream.muxed_conn.peer_id
        try:
            with trio.fail_after(self._timeout_s):
                words = await hear(stream, HopMessage)
                if words.type == HopMessage.RESERVE:
                    await say(stream, self._reserve(peer, stream))
                    await end(stream)
                    return
            await self._connect(peer, stream, words)
        except Exception as error:  # of a library with many kinds, about a stranger
            log.debug("no circuit", extra={"peer": str(peer), "reason": repr(error)})
            with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
                await stream.reset()

    def _reserve(self, peer: ID, stream: Any) -> Any:
        """The answer to a peer that wants a place."""
        self._tidy()
        if why := self._why_no_place(peer):
            self.refused[why] += 1
            return HopMessage(type=HopMessage.STATUS, status=RESERVATION_REFUSED)
        self._places[peer] = time.time() + self._limits.place_s
        answer = HopMessage(type=HopMessage.STATUS, status=OK)
        answer.reservation.expire = int(self._places[peer])
        # Where it has reached us is where others can; our own idea of it may be a wildcard.
        us = Multiaddr(f"/p2p/{self._host.get_id()}")
        for address in self._host.get_addrs()[:4]:
            plain = address if "/p2p/" in str(address) else address.encapsulate(us)
            if "/0.0.0.0/" not in str(plain) and "/p2p-circuit" not in str(plain):
                answer.reservation.addrs.append(plain.to_bytes())
        self._tell_limits(answer)
        return answer

    def _why_no_place(self, peer: ID) -> str:
        if not self._may_ask(peer):
            return "reservations of one peer"
        if peer not in self._places and len(self._places) >= self._limits.places:
            return "reservations"
        return ""

    def _may_ask(self, peer: ID) -> bool:
        """Over a connection of its own, not too often, and if it is admitted at all."""
        connections = self._host.get_network().connections.get(peer, [])
        return (
            any(is_direct(each) for each in connections)
            and self._admits(PeerId(str(peer)))
            and self._asked.take(str(peer), 1.0, self._now_s())
        )

    async def _connect(self, caller: ID, stream: Any, words: Any) -> None:
        called = ID(words.peer.id)
        status = self._judge(caller, called, words)
        if status != OK:
            with trio.fail_after(self._timeout_s):
                await say(stream, HopMessage(type=HopMessage.STATUS, status=status))
            await end(stream)
            return
        self.n_circuits += 1
        self._busy.update([str(caller), str(called)])
        try:
            await self._carry(caller, called, stream)
        finally:
            self.n_circuits -= 1
            self._busy.subtract([str(caller), str(called)])
            self._busy += Counter()  # those that came to nothing go

    def _judge(self, caller: ID, called: ID, words: Any) -> int:
        self._tidy()
        if words.type != HopMessage.CONNECT or not 0 < len(words.peer.id) <= 64:
            return self._refuse(MALFORMED, "malformed")
        if not self._may_ask(caller):
            return self._refuse(PERMISSION_DENIED, "circuits of one peer")
        if called not in self._places:
            return self._refuse(NO_RESERVATION, "circuits to peers without a place")
        most = self._limits.circuits_per_peer
        if max(self._busy[str(caller)], self._busy[str(called)]) >= most:
            return self._refuse(RESOURCE_LIMIT_EXCEEDED, "circuits of one peer")
        if self.n_circuits >= self._limits.circuits:
            return self._refuse(RESOURCE_LIMIT_EXCEEDED, "circuits")
        if self._today_bytes >= self._limits.bytes_per_day:
            return self._refuse(RESOURCE_LIMIT_EXCEEDED, "bytes of this day")
        return OK

    def _refuse(self, status: int, why: str) -> int:
        self.refused[why] += 1
        return status

    async def _carry(self, caller: ID, called: ID, stream: Any) -> None:
        onward = await self._call(caller, called)
        answer = HopMessage(type=HopMessage.STATUS, status=OK if onward else CONNECTION_FAILED)
        self._tell_limits(answer)
        with trio.fail_after(self._timeout_s):
            await say(stream, answer)
        if onward is None:
            self.refused["peers that do not take a circuit"] += 1
            await end(stream)
            return
        left_bytes = self._limits.circuit_bytes

        def passed(n_bytes: int) -> None:
            nonlocal left_bytes
            left_bytes -= n_bytes
            self._today_bytes += n_bytes
            self.carried[str(called)] += n_bytes
            if left_bytes < 0 or self._today_bytes > self._limits.bytes_per_day:
                raise _UsedUp

        ends = PacedStream(stream), PacedStream(onward)
        with trio.move_on_after(self._limits.circuit_s):
            await splice(*ends, idle_s=self._limits.idle_s, passed=passed)

    async def _call(self, caller: ID, called: ID) -> Any:
        """A stream to the peer that is called, once it has agreed; else None."""
        stream = None
        words = StopMessage(type=StopMessage.CONNECT)
        words.peer.id = caller.to_bytes()
        self._tell_limits(words)
        try:
            with trio.fail_after(self._timeout_s):
                stream = await self._host.new_stream(called, [STOP])
                await say(stream, words)
                if (await hear(stream, StopMessage)).status == OK:
                    return stream
        except Exception as error:  # of a library with many kinds, about a stranger
            log.debug("it does not take the circuit", extra={"reason": repr(error)})
        if stream is not None:
            with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
                await stream.reset()
        return None

    def _tell_limits(self, words: Any) -> None:
        words.limit.duration, words.limit.data = self._limits.circuit_s, self._limits.circuit_bytes

    def _tidy(self) -> None:
        """Places of those who are gone; bytes of another day."""
        now_s = time.time()
        connected = set(self._host.get_connected_peers())
        self._places = {
            peer: until_s
            for peer, until_s in self._places.items()
            if until_s > now_s and peer in connected
        }
        if len(self.carried) > MAX_COUNTED:
            self.carried = Counter(dict(self.carried.most_common(MAX_COUNTED // 2)))
        if self._day != int(now_s // 86_400):
            self._day, self._today_bytes = int(now_s // 86_400), 0

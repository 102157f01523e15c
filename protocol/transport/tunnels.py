"""The gRPC service through libp2p streams, for peers that no other way leads to.

In: a py-libp2p host with its circuits and holes; the port on which the service listens here. Out:
ports on loopback whose connections come out at a peer's service, and the other way round. TLS runs
from end to end inside, so a tunnel proves nothing and reads nothing: whoever dials pins the peer as
ever. It costs what Python's libp2p costs, some ten times a TCP connection; direct dials and relays
that splice come before it. All of it on trio.
"""

import contextlib
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from protocol.hole_rounds import HoleRounds
from protocol.identity import PeerId
from protocol.transport.circuits import (
    HOP,
    Admits,
    CircuitRefused,
    Circuits,
    connections_of,
    is_direct,
)
from protocol.transport.control_plane import TunnelLimits
from protocol.transport.origins import brought
from protocol.transport.paced_stream import PacedStream, SocketEnd, splice
from protocol.transport.punching import Punching

log = logging.getLogger(__name__)

TUNNEL = TProtocol("/manyhands/tunnel/1")
LOOK_S = 1.0  # how often places at relays are looked after, and holes
PUNCH_S = 20.0  # a hole is there by then, or not at all
KEEP_CIRCUIT_S = 30.0
NO_HOLE_S = 300.0  # and is not tried again so long; whoever comes and goes has another router
REFUSED_S = 60.0  # a relay that had no place for us is not asked again so long


class Tunnels:
    """Both sides, over one host."""

    def __init__(
        self,
        host: Any,
        circuits: Circuits,
        punching: Punching,
        admits: Admits,
        limits: TunnelLimits,
        *,
        timeout_s: float,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self.service_port = 0  # where the service listens on loopback; 0: there is none
        self.wants_places: Callable[[], bool] = lambda: True  # whether to be reached by circuits
        self.relays: tuple[tuple[str, int, PeerId], ...] = ()  # where they are found, to be told
        self.carried_bytes = 0
        self.holes: dict[PeerId, int] = {}  # those there are, each with a number of its own
        self._host, self._circuits, self._punching = host, circuits, punching
        self._admits, self._limits, self._timeout_s = admits, limits, timeout_s
        self._streams: Counter[str] = Counter()  # of others, to our service
        self._no_hole_until: dict[ID, float] = {}
        self._calling: dict[ID, _Calling] = {}
        self._rounds: HoleRounds[ID] = HoleRounds()
        self._numbers = itertools.count(1)
        self._nursery: Any = None
        circuits.called = self._called
        host.set_stream_handler(TUNNEL, self.serve)

    async def run(self) -> None:
        """Keep places at relays and try holes, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._look_for_holes)
            while True:
                await self._keep_places()
                await self._leave_circuits()
                await trio.sleep(LOOK_S)

    def status(self) -> dict[str, object]:
        return {
            "relays": [relay for _, _, relay in self.relays],
            "streams": self._streams.total(),
            "punched": self._punching.n_punched,
            "symmetric": self._punching.is_symmetric,
            "carried_bytes": self.carried_bytes,
        }

    # --- to others --------------------------------------------------------------------------------

    async def open(
        self, peer: ID, relays: Sequence[PeerInfo], *, punched: bool | None = None
    ) -> "LocalEnd":
        """A port on loopback that leads to `peer`, through a hole or through a circuit.

        Args:
            punched: None: through a hole that there is, else a circuit, if the relay carries one.

        Raises:
            CircuitRefused: there is no such way.
        """
        if punched is None:
            punched = await self._best(peer, relays)
        await self._ensure(peer, relays, punched=punched)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        local = LocalEnd(listeners[0].socket.getsockname()[1], punched, trio.CancelScope())

        async def accepted(socket: Any) -> None:
            end = SocketEnd(socket)
            try:
                await self._ensure(peer, relays, punched=punched)
                stream = await self._stream_to(peer, punched=punched)
            except Exception as error:  # of a library with many kinds
                log.debug("a tunnel is lost", extra={"peer": str(peer), "why": repr(error)})
                await end.reset()
                return
            await self._join(PacedStream(stream), end)

        async def listen() -> None:
            with local.scope:
                await trio.serve_listeners(accepted, listeners)

        self._nursery.start_soon(listen)
        return local

    async def _ensure(self, peer: ID, relays: Sequence[PeerInfo], *, punched: bool) -> None:
        """A connection of that kind, old or new."""
        if self._connection(peer, punched=punched) is not None:
            return
        if punched and (why := self._why_no_hole(peer)):
            raise CircuitRefused(why)
        await self._be_connected(peer, relays)
        if punched:  # whoever is called begins
            with trio.move_on_after(PUNCH_S):
                while not self._punching.has_direct(peer):  # noqa: ASYNC110 (dialled or accepted)
                    await trio.sleep(0.05)
        if self._connection(peer, punched=punched) is None:
            if not punched:
                raise CircuitRefused("the relay carries a few words only")
            self._no_hole_until[peer] = trio.current_time() + NO_HOLE_S
            raise CircuitRefused("no hole could be punched")

    def _why_no_hole(self, peer: ID) -> str:
        if self._punching.is_symmetric:
            return "our router is symmetric: no hole can be punched through it"
        if trio.current_time() < self._no_hole_until.get(peer, 0.0):
            return "no hole could be punched a while ago"
        self._no_hole_until.pop(peer, None)
        return ""

    async def _best(self, peer: ID, relays: Sequence[PeerInfo]) -> bool:
        """Whether a hole is the way: there is one, or the relay carries nothing."""
        if self._connection(peer, punched=True) is not None:
            return True
        await self._be_connected(peer, relays)
        return self._connection(peer, punched=False) is None

    async def _be_connected(self, peer: ID, relays: Sequence[PeerInfo]) -> None:
        """A circuit, of any use; one that is on its way is waited for, and outlives who waits."""
        if any(not is_direct(each) for each in connections_of(self._host, peer)):
            return
        calling = self._calling.get(peer)
        if calling is None:
            calling = self._calling[peer] = _Calling(trio.Event())
            self._nursery.start_soon(self._call, peer, relays, calling)
        await calling.ended.wait()
        if calling.why is not None:
            raise calling.why

    async def _call(self, peer: ID, relays: Sequence[PeerInfo], calling: "_Calling") -> None:
        calling.why = CircuitRefused("no relay is known at which it has a place")
        for relay in relays:
            try:
                await self.meet(relay)
                self._punching.expect(peer)
                await self._circuits.connect(relay.peer_id, peer)
                calling.why = None
                break
            except CircuitRefused as refused:
                calling.why = refused
        del self._calling[peer]
        calling.ended.set()

    async def meet(self, relay: PeerInfo) -> None:
        """Connect to a relay from the port we listen on: what it sees is what others may dial."""
        if not connections_of(self._host, relay.peer_id):
            await self._punching.dial_from_port(relay)
            await self._punching.look(relay.peer_id)

    def _connection(self, peer: ID, *, punched: bool) -> Any:
        for each in connections_of(self._host, peer):
            if is_direct(each) == punched and (punched or getattr(each, "carries", False)):
                return each
        return None

    async def _stream_to(self, peer: ID, *, punched: bool) -> Any:
        connection = self._connection(peer, punched=punched)
        if connection is None:
            raise CircuitRefused("the connection has ended")
        stream = await connection.new_stream()
        try:
            await self._host.multiselect_client.select_one_of(
                [TUNNEL], MultiselectCommunicator(stream), int(self._timeout_s)
            )
        except BaseException:
            with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
                await stream.reset()
            raise
        stream.set_protocol(TUNNEL)
        return stream

    # --- from others ------------------------------------------------------------------------------

    async def serve(self, stream: Any) -> None:
        """A peer's stream to our service."""
        peer = str(stream.muxed_conn.peer_id)
        far = PacedStream(stream)
        why = self._why_not(peer)
        if why:
            self.refused[why] += 1
            with trio.move_on_after(1.0), contextlib.suppress(Exception):
                await far.reset()
            return
        self._streams[peer] += 1
        try:
            with trio.fail_after(self._timeout_s):
                socket = await trio.open_tcp_stream("127.0.0.1", self.service_port)
            over = brought(f"tunnel {peer}", socket.socket.getsockname())
            try:
                await self._join(far, SocketEnd(socket))
            finally:
                over()
        except Exception as error:  # the service is gone, or the peer
            log.debug("a tunnel has ended", extra={"peer": peer, "why": repr(error)})
            with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
                await far.reset()
        finally:
            self._streams[peer] -= 1
            self._streams += Counter()  # those that came to nothing go

    def _why_not(self, peer: str) -> str:
        if not self.service_port:
            return "tunnels to no service"
        if not self._admits(PeerId(peer)):
            return "peer not admitted"
        if self._streams[peer] >= self._limits.streams_per_peer:
            return "tunnels of one peer"
        if self._streams.total() >= self._limits.streams:
            return "tunnels"
        return ""

    async def _join(self, far: PacedStream, near: SocketEnd) -> None:
        with contextlib.suppress(Exception):  # either side's way to end is the other's end
            await splice(far, near, idle_s=self._limits.idle_s, passed=self._count)

    def _count(self, n_bytes: int) -> None:
        self.carried_bytes += n_bytes

    # --- holes ------------------------------------------------------------------------------------

    async def _look_for_holes(self) -> None:
        while True:
            self._look_at_holes()
            await trio.sleep(LOOK_S)

    async def _called(self, peer: ID) -> None:
        self._look_at_holes()

    def _look_at_holes(self) -> None:
        """Those there are get numbers, and are tried with callers to whom there is none: neither
        may have known where it is seen, and routers are opened."""
        connected = self._host.get_connected_peers()
        direct = [peer for peer in connected if self._punching.has_direct(peer)]
        named = [PeerId(str(peer)) for peer in direct]
        self.holes = {peer: self.holes.get(peer) or next(self._numbers) for peer in named}
        callers = [peer for peer in connected if self._has_called(peer)]
        for peer in self._rounds.begin(callers, direct, trio.current_time()):
            self._nursery.start_soon(self._try_a_hole, peer)

    def _has_called(self, peer: ID) -> bool:
        """Whether it holds a circuit to us."""
        circuits = (each for each in connections_of(self._host, peer) if not is_direct(each))
        return any(not each.muxed_conn.is_initiator for each in circuits)

    async def _try_a_hole(self, peer: ID) -> None:
        is_open = await self._punching.punch(peer)
        self._rounds.ended(peer, trio.current_time(), is_open=is_open)

    # --- places at relays -------------------------------------------------------------------------

    async def _keep_places(self) -> None:
        """Renew what we have at half its time, and find relays while there are too few."""
        connected = set(self._host.get_connected_peers())
        self._punching.forget(connected)
        held, now_s = self._circuits.reserved, time.time()
        for relay in list(held):
            if relay not in connected or held[relay].until_s < now_s or not self.wants_places():
                del held[relay]
        due = [relay for relay, each in held.items() if each.renew_s < now_s]
        if self.wants_places() and len(held) < self._limits.places:
            due += [peer for peer in connected if peer not in held and self._may_relay(peer)]
        for relay in due[: self._limits.places]:
            await self._reserve(relay)
        self.relays = tuple(filter(None, map(self._found_at, held)))

    async def _reserve(self, relay: ID) -> None:
        try:
            is_new = relay not in self._circuits.reserved
            await self._circuits.reserve(relay)
            if is_new:
                await self._punching.look(relay)
        except CircuitRefused as refused:
            log.debug("no place", extra={"relay": str(relay), "reason": str(refused)})
            self._circuits.refused_until[relay] = trio.current_time() + REFUSED_S

    def _may_relay(self, peer: ID) -> bool:
        """Whether we could dial it, and it says that it relays, and has not just refused."""
        until_s = self._circuits.refused_until.get(peer, 0.0)
        if trio.current_time() < until_s or self._found_at(peer) is None:
            return False
        try:
            return str(HOP) in self._host.get_peerstore().get_protocols(peer)
        except Exception:  # it was not asked yet
            return False

    def _found_at(self, relay: ID) -> tuple[str, int, PeerId] | None:
        """Where we dialled it; None if others could not."""
        for each in connections_of(self._host, relay):
            remote = each.muxed_conn.get_remote_address()
            is_dialable = each.muxed_conn.is_initiator and not getattr(each, "is_punched", False)
            if is_direct(each) and is_dialable and remote is not None:
                return str(remote[0]), int(remote[1]), PeerId(str(relay))
        return None

    async def _leave_circuits(self) -> None:
        """Circuits that nothing has run over for a while are closed: relays have few."""
        now_s = trio.current_time()
        for connections in list(self._host.get_network().connections.values()):
            for each in list(connections):
                if is_direct(each) or each.is_closed or each.get_streams():
                    each.idle_since_s = math.inf
                    continue
                each.idle_since_s = min(now_s, getattr(each, "idle_since_s", math.inf))
                if now_s - each.idle_since_s > KEEP_CIRCUIT_S:
                    with trio.move_on_after(1.0), contextlib.suppress(Exception):
                        await each.close()


@dataclass(slots=True)
class _Calling:
    """A circuit on its way."""

    ended: trio.Event
    why: CircuitRefused | None = None  # there is none


@dataclass(frozen=True, slots=True)
class LocalEnd:
    """A port on loopback; cancelling its scope ends it and all that runs through it."""

    port: int
    is_punched: bool
    scope: Any

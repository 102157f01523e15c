"""The transport for real networks: gRPC over HTTP/2 and mutual TLS, one identity at each end.

In: an identity, a swarm, and a gate where not everybody belongs to it. Out: listeners and
connections. The caller pins the peer id it expects, the listener learns the caller's; see
`protocol.tls` for how. Messages are raw bytes: no protobuf between the tensors and the wire. All
objects of one transport belong to one event loop.
"""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # strangers' broken handshakes are no news
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # we start processes, we never fork

import grpc

from protocol.address import Address
from protocol.errors import IntegrityError, ManyhandsError, PeerMisbehaved, PeerUnreachable
from protocol.identity import Identity, PeerId
from protocol.path import Path
from protocol.tls import (
    PUBLIC_NETWORK,
    LeafRenewal,
    anchor_of_network,
    anchor_of_peer,
    issue_client_leaf,
    issue_server_leaf,
    tls_name,
)
from protocol.transport.admission import Admission
from protocol.transport.control_plane import Tunnelling
from protocol.transport.greeting import FEATURES, Greeting
from protocol.transport.grpc_connection import GrpcConnection
from protocol.transport.grpc_listener import GrpcListener
from protocol.transport.interface import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Counters,
    Gate,
    Service,
)
from protocol.transport.port_watch import PortWatch
from protocol.transport.reach import reachable_hosts, who_answers, why_not_listening
from protocol.transport.relayed import why_not_relayed

# A little above our own bound: what lies between is counted and answered with a typed error, and
# the core cuts off what is larger without telling the listener.
_CORE_MESSAGE_BYTES = MAX_MESSAGE_BYTES + 2**20

IDLE_MS = 5 * 60_000
MAX_CONNECTIONS = 4096  # of one listener; far below what a process may have open
EVERYWHERE = ("", "0.0.0.0", "::")  # hosts that stand for all interfaces
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _CORE_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16_384),
    ("grpc.http2.max_frame_size", 4 * 2**20),
    ("grpc.http2.lookahead_bytes", 16 * 2**20),
    ("grpc.http2.write_buffer_size", 8 * 2**20),
    ("grpc.keepalive_time_ms", 20_000),  # inside the time after which NATs forget a connection
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_LISTENER_OPTIONS = (
    *_OPTIONS,
    ("grpc.so_reuseport", 0),  # else two nodes silently share a port
    ("grpc.max_concurrent_streams", 1024),  # per connection
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Without a call under way; streams are calls. Whoever comes back connects again by itself.
    ("grpc.max_connection_idle_ms", IDLE_MS),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
)
_CONNECTION_OPTIONS = (
    *_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # a TCP connection of its own
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # What an attempt may take, whatever its name: three round trips of a long way at least.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class GrpcTransport:
    """See `protocol.transport.Transport`."""

    def __init__(
        self,
        identity: Identity,
        swarm_id: bytes,
        *,
        version: int = PROTOCOL_VERSION,
        features: frozenset[str] = FEATURES,
        gate: Gate | None = None,
        network: str = PUBLIC_NETWORK,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.peer_id: PeerId = identity.peer_id
        self.counters = Counters()
        self.tunnelling: Tunnelling | None = None  # through libp2p, where it runs
        self._network = network
        greeting = Greeting(version, swarm_id, features=features)
        self._admission = Admission(greeting, gate, identity.peer_id)
        self._client_leaf = LeafRenewal(lambda: issue_client_leaf(identity, network), now=now)
        self._server_leaf = LeafRenewal(lambda: issue_server_leaf(identity), now=now)

    async def listen(self, host: str, port: int, service: Service) -> GrpcListener:
        server = grpc.aio.server(options=_LISTENER_OPTIONS)
        listener = GrpcListener(
            server,
            service,
            peer_id=self.peer_id,
            admission=self._admission,
            counters=self.counters,
        )
        self._admission.opened(listener)
        watched: list[PortWatch] = []

        def accepted() -> None:
            for each in watched:
                each.accepted()

        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = server.add_secure_port(target, self._server_credentials(accepted))
        except RuntimeError as error:
            raise why_not_listening(host, port) from error

        def addresses() -> tuple[Address, ...]:
            return tuple(Address(each, bound, self.peer_id) for each in reachable_hosts(host))

        watch = PortWatch(bound, "" if host in EVERYWHERE else host)
        watched.append(watch)
        await listener.start(addresses, watch)
        return listener

    async def dial(
        self, address: Address, *, timeout_s: float = 5.0, path: Path | None = None
    ) -> GrpcConnection:
        if address.is_tunnel:
            return await self._dial_through(address, path, timeout_s=timeout_s)
        connection = self._connect(address)
        self._admission.opened(connection)
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            await connection.hello(timeout_s=timeout_s)
        except PeerUnreachable as error:
            await connection.aclose()
            remaining_s = deadline - asyncio.get_running_loop().time()
            if remaining_s <= 0:
                raise
            raise await self._impostor_or(error, address, remaining_s) from error
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def _dial_through(
        self, address: Address, path: Path | None, *, timeout_s: float
    ) -> GrpcConnection:
        """Inside a tunnel, which ends with the connection."""
        if self.tunnelling is None:
            raise PeerUnreachable(address.peer_id, "only a tunnel leads there: libp2p is not on")
        deadline = asyncio.get_running_loop().time() + timeout_s
        tunnel = await self.tunnelling.open(address, path, timeout_s=timeout_s)
        try:
            remaining_s = max(0.1, deadline - asyncio.get_running_loop().time())
            connection = await self.dial(tunnel.address, timeout_s=remaining_s)
        except BaseException:
            await tunnel.aclose()
            raise
        connection.pass_through(tunnel)
        return connection

    def hole_to(self, peer_id: PeerId) -> int:
        return self.tunnelling.holes.get(peer_id, 0) if self.tunnelling else 0

    async def ask_openly(
        self, address: Address, method: str, request: bytes, *, timeout_s: float = 5.0
    ) -> bytes:
        if address.is_tunnel:
            raise PeerUnreachable(address.peer_id, "no tunnel leads to a swarm with members")
        connection = self._connect(address)
        try:
            return await connection.call(method, request, timeout_s=timeout_s)
        finally:
            await connection.aclose()

    def _connect(self, address: Address) -> GrpcConnection:
        options = (
            *_CONNECTION_OPTIONS,
            ("grpc.ssl_target_name_override", tls_name(address.peer_id)),
        )
        credentials = self._channel_credentials(address.peer_id)
        channel = grpc.aio.secure_channel(address.target, credentials, options=options)
        return GrpcConnection(
            channel,
            address.peer_id,
            path=address.path,
            admission=self._admission,
            counters=self.counters,
        )

    def _server_credentials(self, accepted: Callable[[], None]) -> Any:
        """`accepted` is called with each connection, in a thread of gRPC."""
        roots = anchor_of_network(self._network)
        served = self._server_leaf.current()

        def configuration() -> Any:
            pair = (served.key_pem, served.certificate_pem)
            return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

        def renewed() -> Any:
            """Asked before every handshake, in a thread of gRPC; None keeps what there is."""
            nonlocal served
            accepted()
            current = self._server_leaf.current()
            if current is served:
                return None
            served = current
            return configuration()

        return grpc.dynamic_ssl_server_credentials(
            configuration(), renewed, require_client_authentication=True
        )

    def _channel_credentials(self, expected: PeerId) -> Any:
        leaf = self._client_leaf.current()
        return grpc.ssl_channel_credentials(
            anchor_of_peer(expected), leaf.key_pem, leaf.certificate_pem
        )

    async def _impostor_or(
        self, error: PeerUnreachable, address: Address, remaining_s: float
    ) -> ManyhandsError:
        """Tell another peer at that address from nobody: gRPC reports both as unavailable."""
        if address.relay:
            return await why_not_relayed(address, timeout_s=remaining_s) or error
        try:
            found = await who_answers(address, timeout_s=remaining_s)
        except IntegrityError as proof:
            self.counters.handshakes_failed += 1
            reason = f"whoever answers at {address.target} proves no identity: {proof}"
            return PeerMisbehaved(address.peer_id, reason)
        if found is None or found == address.peer_id:
            reason = f"nobody answers at {address.target}: {error.reason}"
            return PeerUnreachable(address.peer_id, reason)
        self.counters.handshakes_failed += 1
        hint = f"use /p2p/{found} if that is the peer you meant"
        return PeerMisbehaved(address.peer_id, f"{address.target} is peer {found}", hint=hint)

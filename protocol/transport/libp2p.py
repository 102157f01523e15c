"""The network of discovery over py-libp2p: the same key and peer id, TCP, Noise and yamux only.

In: an identity, where to listen, bootstrap peers. Out: a `ControlPlane`. libp2p is an optional
extra and speaks trio: it is imported when a plane starts, and lives in a thread of its own. Its
defaults would also accept plaintext and half a dozen transports; what may be spoken is named here
outright. What strangers may have of us is the `doorkeeper`'s, what they may ask `kademlia`'s. Where
asked to, the host also carries the service itself, and circuits of others: see `tunnelling`.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from protocol.address import Address
from protocol.errors import ConfigError
from protocol.identity import Identity, PeerId
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.control_plane import (
    CLOSEST,
    CircuitLimits,
    ControlPlane,
    Keeper,
    PlaneLimits,
    Told,
    TunnelLimits,
)
from protocol.transport.doorkeeper import Doorkeeper
from protocol.transport.lan import MAX_HEARD, LocalNetwork, PlainWords
from protocol.transport.reach import reachable_hosts, why_not_listening
from protocol.transport.trio_thread import TrioThread
from protocol.transport.tunnelling import Libp2pTunnelling, info_of

if TYPE_CHECKING:
    from protocol.transport.kademlia import Kademlia

log = logging.getLogger(__name__)

INSTALL_HINT = (
    "apt-get install build-essential python3-dev libgmp-dev && pip install 'manyhands[libp2p]'"
)
BOOTSTRAP_EVERY_S = 10.0
SETTLE_AGAIN_S, SETTLE_EVERY_S = 10.0, 300.0
ENOUGH_PEERS = 4  # bootstrap peers are left alone while so many are connected


def is_installed() -> bool:
    """Whether this Python can run a plane. Imports nothing."""
    from importlib.util import find_spec

    return find_spec("libp2p") is not None and find_spec("trio") is not None


class Libp2pPlane(ControlPlane):
    """One host. Started and stopped on the same asyncio loop."""

    def __init__(
        self,
        identity: Identity,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        bootstrap: Sequence[Address] = (),
        limits: PlaneLimits | None = None,
        swarm_id: bytes = OPEN_SWARM_ID,
        lan: bool = False,
        tunnels: TunnelLimits | None = None,
        relaying: CircuitLimits | None = None,
    ) -> None:
        """
        Args:
            lan: also find peers on the local network, and be found there.
            relaying: what others may have of this host as a relay for circuits; None: nothing.
            tunnels: carry the service through streams of this host; None: not at all.
            swarm_id: of any swarm but the open one, those alone who know it get a connection.
        """
        self.peer_id: PeerId = identity.peer_id
        self.addresses: tuple[Address, ...] = ()
        self.problem = "not started"
        self._identity, self._host, self._port = identity, host, port
        self._bootstrap = [each for each in bootstrap if each.peer_id != identity.peer_id]
        self._limits = limits or PlaneLimits()
        self._swarm_key = _swarm_key(swarm_id)
        self._door = Doorkeeper(self._limits, self._admits, time.monotonic)
        self._lan = lan
        self._heard: deque[Address] = deque(maxlen=MAX_HEARD)  # on the network, not greeted yet
        self._listening: asyncio.Task[None] | None = None
        self._thread: TrioThread | None = None
        self._keeper: Keeper | None = None
        self._dht: Kademlia | None = None
        if self._swarm_key:  # the library puts its cipher on one end of a circuit alone
            tunnels = relaying = None
        self.tunnelling: Libp2pTunnelling = Libp2pTunnelling(
            tunnels, relaying, self._admits, self._limits.timeout_s
        )
        self._connected: tuple[PeerId, ...] = ()

    @property
    def refused(self) -> Counter[str]:  # type: ignore[override]  # there a field; here a sum
        kademlia = self._dht.refused if self._dht else Counter[str]()
        return self._door.refused + kademlia + self.tunnelling.refused

    async def start(self, keeper: Keeper) -> None:
        try:
            port = await self._start(keeper)
        except ConfigError as error:
            self.problem = str(error)
            await self.stop()
            raise
        hosts = reachable_hosts(self._host)
        self.addresses = tuple(Address(host, port, self.peer_id) for host in hosts)
        self.problem = ""
        if self._lan:
            network = LocalNetwork(self.addresses, PlainWords(self._swarm_key), self._heard.append)
            self._listening = asyncio.create_task(network.run(), name="mdns")

    async def _start(self, keeper: Keeper) -> int:
        """The port; whatever a library of this size trips over is a reason to go on without it."""
        if not is_installed():
            raise ConfigError("libp2p is not installed", hint=INSTALL_HINT)
        self._keeper = keeper
        try:
            self._thread = await asyncio.to_thread(_import_and_start, asyncio.get_running_loop())
            port: int = await self._thread.start(self._serve)
            self.tunnelling.thread = self._thread
        except Exception as error:
            raise ConfigError(f"libp2p does not start: {error!r}", hint=INSTALL_HINT) from error
        if not port:
            raise why_not_listening(self._host, self._port)
        return port

    async def stop(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        thread, self._thread, self.tunnelling.thread = self._thread, None, None
        self.addresses, self._connected, self.problem = (), (), self.problem or "stopped"
        if thread is not None:
            await thread.stop()

    def peers(self) -> Collection[PeerId]:
        return self._connected

    async def publish(self, key: bytes, value: bytes) -> int:
        thread, dht = self._thread, self._dht
        if thread is None or dht is None or self.problem:
            return 0
        return await thread.call(lambda: dht.publish(key, value))

    async def find(self, key: bytes, *, n_peers: int = CLOSEST) -> Collection[Told]:
        thread, dht = self._thread, self._dht
        if thread is None or dht is None or self.problem:
            return ()
        found = await thread.call(lambda: dht.find(key, n_peers))
        return [Told(PeerId(str(peer)), value) for peer, value in found]

    def _admits(self, peer_id: PeerId) -> bool:
        return self._keeper is None or self._keeper.admits(peer_id)

    # --- on trio ----------------------------------------------------------------------------------

    async def _serve(self, *, task_status: Any) -> None:
        """Run the host until the thread stops; started with its port, or with 0."""
        import trio

        is_started = False
        try:
            host, listen = self._make_host()
            async with host.run(listen_addrs=listen):
                ports = [int(address.value_for_protocol("tcp")) for address in host.get_addrs()]
                self._dht = dht = self._make_dht(host)
                self.tunnelling.begin(host, (self._host, ports[0] if ports else 0))
                is_started = True
                task_status.started(ports[0] if ports else 0)  # none when it cannot listen
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.tunnelling.run)
                    await self._stay_connected(host, dht)
        except Exception as error:
            if not is_started:
                raise
            # A library of this size fails in ways nobody foresaw; the node goes on without it.
            self.problem = f"libp2p ended: {error!r}"
            log.error("discovery over libp2p has ended; gossip goes on", extra={"why": repr(error)})

    def _make_host(self) -> tuple[Any, list[Any]]:
        from libp2p import new_host
        from libp2p.crypto.ed25519 import Ed25519PrivateKey
        from libp2p.crypto.keys import KeyPair
        from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
        from libp2p.custom_types import TProtocol
        from libp2p.network.config import ConnectionConfig
        from libp2p.security.noise.transport import PROTOCOL_ID, Transport
        from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
        from libp2p.stream_muxer.yamux.yamux import Yamux
        from multiaddr import Multiaddr

        logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # strangers' failures, by the dozen
        key = Ed25519PrivateKey.from_bytes(self._identity.key.seed)
        keys = KeyPair(key, key.get_public_key())
        noise = Transport(keys, noise_privkey=create_noise_key_pair().private_key)
        family = "ip6" if ":" in self._host else "ip4"
        listen = [Multiaddr(f"/{family}/{self._host}/tcp/{self._port}")]
        host = new_host(
            key_pair=keys,
            listen_addrs=listen,
            sec_opt={PROTOCOL_ID: noise},
            muxer_opt={TProtocol(YAMUX): Yamux},
            resource_manager=self._door,
            connection_config=ConnectionConfig(
                max_connections=self._limits.connections,
                max_connections_per_peer=self._limits.connections_per_peer,
                min_connections=0,
                low_watermark=0,  # whom to connect to is decided below
                high_watermark=self._limits.connections,
                dial_timeout=self._limits.timeout_s,
                inbound_upgrade_timeout=self._limits.timeout_s,
                outbound_upgrade_timeout=self._limits.timeout_s,
            ),
            disable_identify_address_discovery=True,  # a dial-back tells more
            psk=self._swarm_key.hex() or None,
        )
        if str(host.get_id()) != self.peer_id:
            raise AssertionError(f"libp2p calls {self.peer_id} {host.get_id()}")
        return host, listen

    def _make_dht(self, host: Any) -> "Kademlia":
        from protocol.transport.kademlia import Kademlia

        thread, keeper = self._thread, self._keeper
        assert thread is not None
        assert keeper is not None

        async def keep(sender: PeerId, key: bytes, value: bytes) -> bool:
            return await thread.ask(lambda: keeper.keep(sender, key, value))

        async def kept(sender: PeerId, key: bytes) -> bytes:
            return await thread.ask(lambda: keeper.kept(sender, key))

        return Kademlia(host, keep, kept, self._admits, self._limits)

    async def _stay_connected(self, host: Any, dht: "Kademlia") -> None:
        """Greet bootstrap peers while few are connected, and know who is closest to us."""
        import trio

        greet_s = settle_s = 0.0
        async with trio.open_nursery() as nursery:
            while True:
                connected = host.get_connected_peers()
                await dht.meet(connected)
                dht.forget(connected)
                self._connected = tuple(PeerId(str(peer)) for peer in connected)
                now_s = trio.current_time()
                if len(connected) < ENOUGH_PEERS and now_s >= greet_s:
                    greet_s = now_s + BOOTSTRAP_EVERY_S
                    for address in self._bootstrap:
                        if address.peer_id not in self._connected:
                            nursery.start_soon(self._greet, host, address)
                while self._heard:
                    nursery.start_soon(self._greet, host, self._heard.popleft())
                if connected and now_s >= settle_s:
                    settle_s = now_s + (SETTLE_EVERY_S if settle_s else SETTLE_AGAIN_S)
                    nursery.start_soon(dht.settle)
                await trio.sleep(0.5)

    async def _greet(self, host: Any, address: Address) -> None:
        import trio

        with trio.move_on_after(self._limits.timeout_s):
            try:
                await self.tunnelling.meet(host, info_of(address))
            except Exception as error:  # of a library with many kinds, about a stranger
                extra = {"address": str(address), "reason": repr(error)}
                log.debug("a bootstrap peer does not answer", extra=extra)


def _swarm_key(swarm_id: bytes) -> bytes:
    """Of a swarm that is not open: what libp2p's private networks are entered with, else nothing.

    py-libp2p's cipher for them is not the one of other implementations; all our peers have it.
    """
    if swarm_id == OPEN_SWARM_ID:
        return b""
    return sha256(b"manyhands-private-network-v1\x00" + swarm_id).digest()


def _import_and_start(loop: asyncio.AbstractEventLoop) -> TrioThread:
    """Off the loop: the import takes a second."""
    import libp2p  # noqa: F401  (so that nobody on the loop has to)

    return TrioThread("libp2p", loop)

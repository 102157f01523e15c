"""The libp2p host of a node: the same key, the same peer id, on the network of discovery.

In: an identity and where to listen. Out: a running host with addresses. It speaks TCP, Noise and
yamux only: the library's defaults would also accept plaintext. Records, gossip and relays will
come through this facade; the data plane stays on gRPC. libp2p is an optional extra and speaks
trio: it is imported when a host starts, and lives in a thread of its own.
"""

from typing import Any

from protocol.address import Address
from protocol.errors import ConfigError
from protocol.identity import Identity, PeerId
from protocol.transport.reach import reachable_hosts, why_not_listening
from protocol.transport.trio_thread import TrioThread

INSTALL_HINT = (
    "apt-get install build-essential python3-dev libgmp-dev && pip install 'manyhands[libp2p]'"
)


class Libp2pHost:
    """One host. `start` it, then `stop` it; both on the same asyncio loop."""

    def __init__(self, identity: Identity, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.peer_id: PeerId = identity.peer_id
        self.addresses: tuple[Address, ...] = ()
        self._identity, self._host, self._port = identity, host, port
        self._thread: TrioThread | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: libp2p is not installed, or it cannot listen there.
        """
        try:
            import libp2p  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"libp2p is not installed: {error}", hint=INSTALL_HINT) from error
        self._thread = TrioThread("libp2p")
        try:
            port: int = await self._thread.start(self._serve)
        except BaseException:
            await self.stop()
            raise
        if not port:
            await self.stop()
            raise why_not_listening(self._host, self._port)
        hosts = reachable_hosts(self._host)
        self.addresses = tuple(Address(host, port, self.peer_id) for host in hosts)

    async def stop(self) -> None:
        thread, self._thread = self._thread, None
        self.addresses = ()
        if thread is not None:
            await thread.stop()

    async def _serve(self, *, task_status: Any) -> None:
        """On trio: run the host until the thread stops; started with its port."""
        import trio
        from libp2p import new_host
        from libp2p.crypto.ed25519 import Ed25519PrivateKey
        from libp2p.crypto.keys import KeyPair
        from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
        from libp2p.security.noise.transport import PROTOCOL_ID, Transport
        from multiaddr import Multiaddr

        key = Ed25519PrivateKey.from_bytes(self._identity.key.seed)
        keys = KeyPair(key, key.get_public_key())
        noise = Transport(keys, noise_privkey=create_noise_key_pair().private_key)
        family = "ip6" if ":" in self._host else "ip4"
        listen = [Multiaddr(f"/{family}/{self._host}/tcp/{self._port}")]
        # Security named outright: the library's defaults would accept plaintext as well.
        host = new_host(key_pair=keys, listen_addrs=listen, sec_opt={PROTOCOL_ID: noise})
        if str(host.get_id()) != self.peer_id:
            raise AssertionError(f"libp2p calls {self.peer_id} {host.get_id()}")
        async with host.run(listen_addrs=listen):
            ports = [int(address.value_for_protocol("tcp")) for address in host.get_addrs()]
            task_status.started(ports[0] if ports else 0)  # none when it cannot listen
            await trio.sleep_forever()

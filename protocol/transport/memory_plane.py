"""The network of discovery inside one process: the twin of `libp2p.py` for tests of rules.

In: planes, and who cannot reach whom. Out: the same calls with the same limits, by distances
between the same hashes, without sockets, threads or a routing table: everybody knows everybody.
"""

from collections import Counter
from collections.abc import Collection
from hashlib import sha256

from protocol.address import Address
from protocol.identity import LIBP2P_ED25519_PREFIX, PeerId, public_key_from_peer_id
from protocol.transport.control_plane import CLOSEST, Keeper, Told


class MemoryPlanes:
    """All planes of one network."""

    def __init__(self) -> None:
        self.running: dict[PeerId, MemoryPlane] = {}
        self.cut_off: set[PeerId] = set()

    def plane(self, peer_id: PeerId) -> "MemoryPlane":
        return MemoryPlane(self, peer_id)


class MemoryPlane:
    """One peer's end; see `ControlPlane`."""

    def __init__(self, network: MemoryPlanes, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self.addresses: tuple[Address, ...] = ()
        self.refused: Counter[str] = Counter()
        self.tunnelling = None
        self.problem = ""
        self._network = network
        self._keeper: Keeper | None = None

    async def start(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._network.running[self.peer_id] = self
        self.addresses = (Address("127.0.0.1", 4001, self.peer_id),)

    async def stop(self) -> None:
        self._network.running.pop(self.peer_id, None)
        self._keeper, self.addresses = None, ()

    def peers(self) -> Collection[PeerId]:
        cut_off = self._network.cut_off
        if self.peer_id in cut_off or self._keeper is None:
            return ()
        return [peer for peer in self._network.running if peer not in {self.peer_id, *cut_off}]

    async def publish(self, key: bytes, value: bytes) -> int:
        kept = [await keeper.keep(self.peer_id, key, value) for _, keeper in self._near(key)]
        return sum(kept)

    async def find(self, key: bytes, *, n_peers: int = CLOSEST) -> Collection[Told]:
        near = self._near(key)[:n_peers]
        told = [Told(peer, await keeper.kept(self.peer_id, key)) for peer, keeper in near]
        return [each for each in told if each.value]

    def _near(self, key: bytes) -> list[tuple[PeerId, Keeper]]:
        reached = [self._network.running[peer] for peer in self.peers()]
        found = [
            (each.peer_id, each._keeper)
            for each in reached
            if each._keeper is not None and each._keeper.admits(self.peer_id)
        ]
        return sorted(found, key=lambda each: distance(each[0], key))[:CLOSEST]


def distance(peer_id: PeerId, key: bytes) -> int:
    """Kademlia's (Maymounkov and Mazières, 2002), between hashes as libp2p's kad-dht spec has it:
    of a peer its id in bytes is hashed, of a value its key."""
    peer = b"\x00\x24" + LIBP2P_ED25519_PREFIX + public_key_from_peer_id(peer_id)
    return _hashed(peer) ^ _hashed(key)


def _hashed(data: bytes) -> int:
    return int.from_bytes(sha256(data).digest(), "big")

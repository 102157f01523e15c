"""Who and what a simulated swarm is made of: the model, the peers, the links between them.

In: numbers, or a seeded generator. Out: values that never change during a run. Speeds follow the
curve that the node's batcher shows: one row through one block takes `block_s`, and every further
row of the same step adds `share` of that (8 rows at once give 4.4 times the tokens of one).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from protocol.identity import PeerId, peer_id_from_public_key
from protocol.messages import require
from protocol.signing import SigningKey

SHARE = 0.12
KV_SHARE = 0.25  # of a node's memory; the rest is weights

# Round trips between regions in milliseconds, as the public clouds publish them, rounded.
REGION_RTT_MS: Mapping[tuple[str, str], float] = {
    ("eu", "eu"): 25,
    ("us-east", "us-east"): 25,
    ("us-west", "us-west"): 25,
    ("asia", "asia"): 45,
    ("eu", "us-east"): 85,
    ("eu", "us-west"): 145,
    ("asia", "eu"): 220,
    ("us-east", "us-west"): 65,
    ("asia", "us-east"): 200,
    ("asia", "us-west"): 150,
}
REGION_WEIGHTS: Mapping[str, float] = {"eu": 0.35, "us-east": 0.25, "us-west": 0.2, "asia": 0.2}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a model weighs. The default is like a Llama of 70 B parameters in int8."""

    n_blocks: int = 80
    block_bytes: int = 850_000_000
    row_bytes: int = 16 * 1024  # one position's hidden state on the wire
    kv_bytes: int = 4 * 1024  # one position in one block

    def __post_init__(self) -> None:
        require(self.n_blocks > 0, "a model has blocks")
        require(min(self.block_bytes, self.row_bytes, self.kv_bytes) > 0, "everything weighs")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSpec:
    """One volunteer's machine."""

    peer_id: PeerId
    region: str
    block_s: float  # one row through one block, alone in its step
    prefill_block_s: float  # one of many prompt rows through one block
    capacity_blocks: int
    kv_bytes: int  # room for sessions
    share: float = SHARE
    last_mile_s: float = 0.002  # one way
    up_bytes_per_s: float = 5e6
    down_bytes_per_s: float = 12.5e6
    load_block_s: float = 0.3  # from disk into memory

    def __post_init__(self) -> None:
        require(min(self.block_s, self.prefill_block_s) > 0, "computing takes time")
        require(self.capacity_blocks > 0 and self.kv_bytes >= 0, "a peer holds a block")
        require(min(self.up_bytes_per_s, self.down_bytes_per_s) > 0, "a link carries bytes")
        require(self.share >= 0 and self.last_mile_s >= 0, "time runs forward")

    def step_s(self, n_blocks: int, batch: int) -> float:
        """One decode step of `batch` rows through `n_blocks`."""
        return n_blocks * self.block_s * (1 + self.share * (batch - 1))

    def blocks_per_s(self, prompt_per_token: float = 0.0) -> float:
        """At the largest batches, when each token comes with so many prompt rows."""
        return 1 / (self.block_s * self.share + self.prefill_block_s * prompt_per_token)


class World:
    """All peers that ever appear, and how far each is from each."""

    def __init__(
        self,
        model: ModelShape,
        peers: Sequence[PeerSpec],
        *,
        region_rtt_ms: Mapping[tuple[str, str], float] = REGION_RTT_MS,
    ) -> None:
        self.model, self.peers = model, tuple(peers)
        self.index = {peer.peer_id: i for i, peer in enumerate(self.peers)}
        require(len(self.index) == len(self.peers), "a peer appears twice")
        self.regions = tuple(sorted({name for pair in region_rtt_ms for name in pair}))
        require(all(peer.region in self.regions for peer in peers), "an unknown region")
        n = len(self.regions)
        self._region_s = np.zeros((n, n))
        for (one, other), rtt_ms in region_rtt_ms.items():
            i, j = self.regions.index(one), self.regions.index(other)
            self._region_s[i, j] = self._region_s[j, i] = rtt_ms / 2000

    @cached_property
    def one_way_s(self) -> NDArray[np.float64]:
        """[peer, peer]: seconds from one to the other; nothing to itself."""
        regions = np.array([self.regions.index(peer.region) for peer in self.peers])
        mile_s = np.array([peer.last_mile_s for peer in self.peers])
        table: NDArray[np.float64] = (
            self._region_s[regions[:, None], regions[None, :]] + mile_s[:, None] + mile_s[None, :]
        )
        np.fill_diagonal(table, 0.0)
        return table

    def spec(self, peer_id: PeerId) -> PeerSpec:
        return self.peers[self.index[peer_id]]

    def client_one_way_s(self, region: str, peer: PeerSpec) -> float:
        """From a client in `region`, which has a last mile too, to a peer."""
        i, j = self.regions.index(region), self.regions.index(peer.region)
        return float(self._region_s[i, j]) + peer.last_mile_s + 0.005


def peer_id_of(n: int) -> PeerId:
    """Peer ids are public keys; a simulated peer's grows from a number and signs nothing."""
    seed = sha256(f"simulated peer {n}".encode()).digest()
    return peer_id_from_public_key(SigningKey.from_seed(seed).public_key)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of machine: its share of the swarm, and the ranges its numbers are drawn from."""

    weight: float
    block_ms: tuple[float, float]
    prefill_ratio: tuple[float, float]  # a prompt row costs this much less than a step alone
    blocks: tuple[int, int]
    down_mbit: tuple[float, float]


# int8 blocks of 0.85 GB at the memory bandwidth of laptops, gamers' cards and workstations.
KINDS = (
    Kind(0.50, (8.0, 16.0), (15, 25), (4, 8), (50, 250)),
    Kind(0.35, (2.5, 5.0), (25, 40), (8, 14), (100, 500)),
    Kind(0.15, (1.0, 2.0), (30, 50), (16, 28), (200, 1000)),
)


def volunteers(n: int, rng: random.Random, model: ModelShape) -> list[PeerSpec]:
    """`n` machines as strangers bring them: many slow, some fast, at home in four regions."""
    specs = []
    for i in range(n):
        kind = rng.choices(KINDS, [kind.weight for kind in KINDS])[0]
        block_s = rng.uniform(*kind.block_ms) / 1000
        capacity = min(model.n_blocks, rng.randint(*kind.blocks))
        down = rng.uniform(*kind.down_mbit) * 1e6 / 8
        specs.append(
            PeerSpec(
                peer_id=peer_id_of(i),
                region=rng.choices(list(REGION_WEIGHTS), list(REGION_WEIGHTS.values()))[0],
                block_s=block_s,
                prefill_block_s=block_s / rng.uniform(*kind.prefill_ratio),
                capacity_blocks=capacity,
                kv_bytes=round(capacity * model.block_bytes * KV_SHARE / (1 - KV_SHARE)),
                last_mile_s=rng.uniform(0.001, 0.008),
                up_bytes_per_s=down * rng.uniform(0.1, 0.5),
                down_bytes_per_s=down,
            )
        )
    return specs

"""The peers that serve one model and mean to stay, as placement counts them.

In: announcements, all of them claims. Out: members with speed and risk, what each could hold, and
the sums of `board.py`. Peers that drain or move are left out: whoever plans with them plans a hole.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.board import NEVER, Board, Member
from scheduler.capacity import UNMEASURED_BLOCKS_PER_S, blocks_per_s, serving
from scheduler.flow import Floats
from scheduler.joint import Capacity, water_level
from scheduler.lifetime import leaves_soon
from scheduler.passage import through_ms

HERE = "\0"  # the region of a newcomer, and of who is near it


@dataclass(frozen=True, slots=True)
class Table:
    """Members by peer id, the most blocks each could hold, and where they are.

    A capacity of 0 is not known, or its owner fixed the span: nobody asks such a peer to move.
    """

    members: dict[PeerId, Member]
    capacities: dict[PeerId, int]
    regions: dict[PeerId, str]
    board: Board

    @classmethod
    def of(
        cls,
        announcements: Iterable[Announcement],
        manifest: bytes,
        n_blocks: int,
        *,
        without: PeerId | None = None,
        now_ms: int | None = None,
        loading: Iterable[Announcement] = (),
    ) -> Self:
        """Args:
        loading: records of peers that will serve; they count as if they did, as newcomers.
        now_ms: wall clock, by which peers have an age; None: nobody's leaving is feared.
        """
        members, capacities, regions = {}, {}, {}
        for peer in serving(announcements, manifest):
            if peer.span is None or peer.span.stop > n_blocks or peer.peer_id == without:
                continue
            since_ms = peer.measured.since_ms
            is_known = now_ms is not None and since_ms > 0
            leaves = leaves_soon(((now_ms or 0) - since_ms) / 1000) if is_known else NEVER
            members[peer.peer_id] = Member(peer.span, blocks_per_s(peer), leaves)
            capacities[peer.peer_id] = peer.measured.capacity_blocks
            regions[peer.peer_id] = peer.region
        soon = NEVER if now_ms is None else leaves_soon(0.0)
        speed = _typical(members.values())  # before they count themselves
        for peer in loading:
            if peer.peer_id in members or peer.peer_id == without or peer.manifest != manifest:
                continue
            if peer.loading is not None and peer.loading.stop <= n_blocks:
                members[peer.peer_id] = Member(peer.loading, speed, soon)
                capacities[peer.peer_id], regions[peer.peer_id] = 0, peer.region
        return cls(members, capacities, regions, Board.of(members.values(), n_blocks))

    @property
    def n_blocks(self) -> int:
        return self.board.n_blocks

    @property
    def typical_speed(self) -> float:
        """In blocks per second, of the peer in the middle."""
        return _typical(self.members.values())

    def best_flow(self) -> float:
        """Tokens per second that no placement of these peers exceeds."""
        return water_level(
            [
                Capacity(self.capacities[peer] or len(member.span), member.blocks_per_s)
                for peer, member in self.members.items()
            ],
            self.n_blocks,
        )

    def places(self, peer: PeerId) -> Iterator[Member]:
        """This peer with every span as long as it can hold."""
        member, length = self.members[peer], min(self.capacities[peer], self.n_blocks)
        for start in range(self.n_places(peer)):
            yield member.at(Span(start, start + length))

    def n_places(self, peer: PeerId) -> int:
        return self.n_blocks - min(self.capacities[peer], self.n_blocks) + 1

    def near(self, region: str, peers: Collection[PeerId]) -> set[PeerId]:
        """Members of a region, and those named."""
        return {p for p in self.members if p in peers or (region and self.regions[p] == region)}

    def through_ms(
        self, places: Sequence[Span], near: Collection[PeerId], blocks_per_s: float
    ) -> Floats:
        """How soon a token can pass each place if a peer of this speed, near these, is there."""
        return through_ms(
            [*self.members.values()],
            [HERE if peer in near else self.regions[peer] for peer in self.members],
            self.n_blocks,
            self.board.swarm.tokens_per_s(),
            places,
            region=HERE,
            blocks_per_s=blocks_per_s,
        )


def _typical(members: Iterable[Member]) -> float:
    speeds = [member.blocks_per_s for member in members]
    return median(speeds) if speeds else UNMEASURED_BLOCKS_PER_S

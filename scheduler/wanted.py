"""What a session asks of its hosts, and why a peer is none for it.

In: announcements. Out: those that may serve, split into those that may serve together, and for each
of the others the first constraint it fails, in words that a person can act on. Prices are those of
announced offers; whether the terms of a tab keep to them is looked at again when they are signed.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from protocol.announcements import Announcement
from protocol.constraints import MAX_GROUPS, MAX_NAMED, Constraints, Group, why_relayed
from protocol.errors import UsageError
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.measured import MAX_GROUP_CHARS, State
from protocol.profile import rounds_rows
from protocol.regions import doubts, is_within
from scheduler.prices import LEASE_S, UNREADABLE, Price, ahead_of, asked

GroupsOf = Callable[[Announcement], frozenset[str]]  # those that its certificate names


class Goal(StrEnum):
    """What a client is minded to: a token soon, a token for little, or much of both in all."""

    BALANCED = "balanced"  # the next token soon, for a price in proportion
    FAST = "fast"  # the next token soon; prices decide between equals
    CHEAP = "cheap"  # for the least; time decides between equals
    THROUGHPUT = "throughput"  # many answers in all: little of the swarm's time for each token
    LATENCY = BALANCED  # as it was called before there were prices

    @classmethod
    def _missing_(cls, value: object) -> "Goal | None":
        return cls.BALANCED if value == "latency" else None

    @property
    def ms_per_ncr(self) -> float:
        """How long a token may take, at most, to cost a nanocredit less."""
        return MS_PER_NCR[self]

    @property
    def link_share(self) -> float:
        """Of a link's time: while rows travel, nodes run others."""
        return 0.02 if self is Goal.THROUGHPUT else 1.0


# A balanced client's hour is worth 0.036 of a credit: 70 billion weights at electricity's price
# are some 200 ncr a token, so 20 ms, about what such a token takes. Fast and cheap are far from it.
MS_PER_NCR = {Goal.BALANCED: 0.1, Goal.FAST: 0.001, Goal.CHEAP: 10.0, Goal.THROUGHPUT: 0.1}


class Constraint(StrEnum):
    """What rules a peer out; the text is what a person calls it."""

    MODEL = "model"
    STATE = "state"
    CONTEXT = "context"
    AVOID = "avoid"
    QUARANTINE = "no-quarantine"
    ADAPTER = "adapter"
    PROFILE = "profile"
    REGION = "region"
    DOUBTED = "believe-regions"
    GROUP = "group"
    PRICE = "max-price"
    AHEAD = "max-prepaid"
    DIRECT = "no-relays"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Which peers a client will have; the defaults rule nobody out but private groups.

    regions: `eu` takes `eu` and `eu-west`. believe_regions: also where measurements contradict a
    peer. groups: of which one shall serve; without any, none that belongs to any. max_price: ncr
    for a million positions through one block. max_cost: ncr for all of the session. max_prepaid:
    ncr that a hop may ask for ahead. require: the blocks these peers hold are run by them alone.
    direct: none that relays carry anything to.
    """

    regions: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    max_price: int | None = None
    max_cost: int | None = None
    max_prepaid: int = 0
    avoid: tuple[PeerId, ...] = ()
    require: tuple[PeerId, ...] = ()
    believe_regions: bool = False
    direct: bool = False

    def __post_init__(self) -> None:
        if any(isinstance(each, str) for each in (self.regions, self.avoid, self.require)):
            raise UsageError("regions and peers are several: regions=('eu',)")
        listed = [peer for group in self.groups for peer in group.members]
        for peer in (*self.avoid, *self.require, *listed):
            public_key_from_peer_id(peer)
        if both := sorted({*self.avoid} & {*self.require}):
            raise UsageError(
                f"{both[0]} is both avoided and required", hint="choose one of the two"
            )
        members = [len(group.members) for group in self.groups]
        if max(len(self.regions), len(self.avoid), len(self.require), *members, 0) > MAX_NAMED:
            raise UsageError(f"up to {MAX_NAMED} peers and regions can be named")
        if any(not region or not region.isprintable() for region in self.regions):
            raise UsageError("a region is a word, such as eu or eu-west")
        if len(self.groups) > MAX_GROUPS:
            raise UsageError(f"up to {MAX_GROUPS} groups can be named")
        for group in self.groups:
            if not 0 < len(group.name) <= MAX_GROUP_CHARS or not group.name.isprintable():
                raise UsageError(f"a group has up to {MAX_GROUP_CHARS} printable characters")
        if self.max_price is not None and self.max_price < 0:
            raise UsageError(f"a price is 0 or more, got {self.max_price}")
        if self.max_cost is not None and self.max_cost < 0:
            raise UsageError(f"a cost is 0 or more, got {self.max_cost}")
        if self.max_prepaid < 0:
            raise UsageError(f"what is paid ahead is 0 or more, got {self.max_prepaid}")

    def constraints(self, profile: str | None) -> Constraints:
        """What of it every hop is told, and keeps its neighbours to."""
        return Constraints(
            regions=self.regions,
            groups=self.groups,
            avoid=self.avoid,
            require=self.require,
            profile=profile or "",
            believes_regions=self.believe_regions,
            direct=self.direct,
        )


ANY_PEER = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a session asks of its hosts.

    `profile` None: any that rounds nothing on the wire, but one for the whole chain. doubted: who
    cannot be in the region that it announces. members: who is in a group that was asked for; None:
    as peers announce it. `judged` says who is both.
    """

    manifest: bytes
    n_blocks: int
    n_positions: int = 0  # prompt and answer
    n_prompt: int = 0  # of them: rows that have to be run before the next token
    lease_s: float = LEASE_S  # for which it has room
    hidden_size: int = 0  # of a row; 0: not known here
    profile: str | None = None
    adapter: str = ""  # name@digest
    allow_mix: bool = False  # the client takes hops of different profiles
    avoid: Collection[PeerId] = ()
    has_begun: bool = False  # room that hosts keep for answers under way is for it, too
    limits: Limits = ANY_PEER
    goal: Goal = Goal.LATENCY
    doubted: frozenset[PeerId] = frozenset()
    members: frozenset[PeerId] | None = None
    shunned: frozenset[PeerId] = frozenset()  # provably at fault, as this client sees it

    @property
    def n_answer(self) -> int:
        """Over so many tokens what a prompt costs is spread."""
        return max(1, self.n_positions - self.n_prompt)

    def price_at(self, peer: Announcement) -> Price:
        """What its announced offer asks in this session. It announces a span."""
        assert peer.span is not None
        return asked(peer.offer, peer.span, self.n_blocks, self.n_positions, self.lease_s)

    def judged(
        self, announcements: Iterable[Announcement], groups_of: GroupsOf | None = None
    ) -> Self:
        """The same, by what these announcements show. groups_of: None where nobody certifies."""
        limits, peers = self.limits, tuple(announcements)
        doubted = frozenset(doubts(peers)) if limits.regions and not limits.believe_regions else ()
        if not limits.groups or groups_of is None:
            return replace(self, doubted=frozenset(doubted), members=None)
        members = frozenset(
            peer.peer_id
            for peer in peers
            if any(group.holds(peer, groups_of(peer)) for group in limits.groups)
        )
        return replace(self, doubted=frozenset(doubted), members=members)

    def groups(self, announcements: Iterable[Announcement]) -> list[list[Announcement]]:
        """The peers that may serve, split into those that may serve together."""
        groups: dict[str, list[Announcement]] = defaultdict(list)
        for announcement in announcements:
            if self.rules_out(announcement) is None:
                groups["" if self.allow_mix else announcement.profile].append(announcement)
        return [
            groups[profile]
            for profile in sorted(groups)
            if {peer.peer_id for peer in groups[profile]}.issuperset(self.limits.require)
        ]

    def rules_out(self, peer: Announcement) -> Constraint | None:
        """The first constraint that `peer` fails."""
        limits = self.limits
        if peer.manifest != self.manifest or peer.n_blocks != self.n_blocks or peer.span is None:
            return Constraint.MODEL
        if peer.measured.state is not State.SERVING:
            return Constraint.STATE
        if peer.peer_id in self.avoid or peer.peer_id in limits.avoid:
            return Constraint.AVOID
        if peer.peer_id in self.shunned:
            return Constraint.QUARANTINE
        if peer.max_positions < self.n_positions:
            return Constraint.CONTEXT
        if self.adapter and self.adapter not in peer.adapters:
            return Constraint.ADAPTER
        if not self._runs_as_wanted(peer.profile):
            return Constraint.PROFILE
        if not self._is_in_group(peer):
            return Constraint.GROUP
        if limits.regions and not any(is_within(peer.region, region) for region in limits.regions):
            return Constraint.REGION
        if limits.regions and peer.peer_id in self.doubted:
            return Constraint.DOUBTED
        if limits.direct and why_relayed(peer):
            return Constraint.DIRECT
        if peer.offer and self._asks_too_much(peer):
            return Constraint.PRICE
        if peer.offer and ahead_of(peer.offer) > limits.max_prepaid:
            return Constraint.AHEAD
        return None

    def _is_in_group(self, peer: Announcement) -> bool:
        if not self.limits.groups:
            return not peer.measured.group
        if self.members is not None:
            return peer.peer_id in self.members
        return any(group.holds(peer, None) for group in self.limits.groups)

    def _asks_too_much(self, peer: Announcement) -> bool:
        assert peer.span is not None
        price = self.price_at(peer)
        cap = self.limits.max_price
        return price == UNREADABLE or (cap is not None and price.over(len(peer.span)) > cap)

    def _runs_as_wanted(self, profile: str) -> bool:
        if self.profile is None:
            return not rounds_rows(profile)
        return self.allow_mix or profile == self.profile

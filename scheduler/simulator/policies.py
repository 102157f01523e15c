"""What a placement and routing rule is to the simulator, and what it may look at.

In: the swarm as it is, or as its table of announcements has it. Out: spans for peers, seats for
sessions. The rules themselves: `manyhands_rule.py` asks the real scheduler; the others are what we
measure it against.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.load import Load
from protocol.messages import Span
from scheduler.simulator.traces import Request
from scheduler.simulator.world import PeerSpec, World


class Seat(NamedTuple):
    """The blocks that one peer runs for a session."""

    peer_id: PeerId
    span: Span


Chain = tuple[Seat, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is true of a peer at this moment; baselines see it without any delay."""

    spec: PeerSpec
    span: Span | None  # what it serves, or is loading
    is_serving: bool
    kv_free_bytes: int
    n_sessions: int
    up_since_s: float


class Swarm(Protocol):
    """What a rule may look at. `standing` is the truth, `announcements` what a peer would know."""

    @property
    def world(self) -> World: ...

    @property
    def now_s(self) -> float: ...

    @property
    def standing(self) -> Mapping[PeerId, Standing]:
        """Everybody who is there."""
        ...

    @property
    def announcements(self) -> Sequence[Announcement]:
        """What has spread and has not expired; some of them may be dead."""
        ...

    def ask_load(self, peer_id: PeerId) -> Load | None:
        """What a peer answers who is asked how busy it is; None: it is gone."""
        ...


class Missing(NamedTuple):
    """A run of blocks that lost its hop, between the hops that stay (None: there is none)."""

    span: Span
    before: PeerId | None
    after: PeerId | None


Spans = Mapping[PeerId, Span]


class Policy(Protocol):
    """A rule. All of its randomness comes from the generator it is given."""

    name: str
    survives: bool  # a session that loses a hop is mended; else it is lost once it has begun
    drains: bool  # who leaves properly, or moves, hands its sessions over first
    fetches_first: bool  # who moves serves its old span until the new one's weights are there
    admits: bool  # nodes keep room for answers under way, and no long line of prompts
    look_s: float  # between two looks of a peer at its place

    def joined(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        """A peer came: which spans should be loaded now, by it or by anybody."""
        ...

    def left(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        """A peer went: the same question."""
        ...

    def looked(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        """A serving peer looks around, every now and then: the same question."""
        ...

    def route(
        self, swarm: Swarm, request: Request, avoid: Collection[PeerId], rng: random.Random
    ) -> Chain | None:
        """Seats for a new session, or None."""
        ...

    def mend(
        self,
        swarm: Swarm,
        request: Request,
        missing: Missing,
        avoid: Collection[PeerId],
        rng: random.Random,
    ) -> Chain | None:
        """Seats for a lost run of blocks, or None."""
        ...

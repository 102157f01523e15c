"""Who is there when, and who asks what when: join and leave traces, and requests.

In: a world, a seed and what kind of day it is. Out: a `Trace`, the same for every policy that is
compared on it. Peers keep their identity and their disk when they come back.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from protocol.identity import PeerId
from protocol.messages import require
from scheduler.simulator.world import REGION_WEIGHTS, World

KINDS = ("steady", "exponential", "diurnal", "flash crowd", "outage")


@dataclass(frozen=True, slots=True, order=True)
class Presence:
    """A peer is there from `join_s` until it goes, properly or without a word."""

    join_s: float
    leave_s: float
    peer_id: PeerId
    is_proper: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.join_s < self.leave_s, "a presence runs forward")


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """Somebody asks: a prompt of so many rows, for so many tokens."""

    at_s: float
    region: str
    n_prompt: int
    n_answer: int

    def __post_init__(self) -> None:
        require(self.n_prompt > 0 and self.n_answer > 0, "nobody asks for nothing")

    @property
    def n_positions(self) -> int:
        return self.n_prompt + self.n_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    name: str
    presences: tuple[Presence, ...]
    requests: tuple[Request, ...]
    horizon_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """How long volunteers stay and stay away, on average, and how many go without a word."""

    stay_s: float = 2400.0
    away_s: float = 800.0
    crash: float = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Poisson arrivals; lengths are log-normal around their medians, as chats have them."""

    per_s: float
    n_prompt: float = 300.0
    n_answer: float = 200.0
    sigma: float = 0.6
    longest: int = 4000

    @property
    def means(self) -> tuple[float, float]:
        """Expected prompt and answer length (the cut at `longest` apart)."""
        spread = math.exp(self.sigma**2 / 2)
        return self.n_prompt * spread, self.n_answer * spread


def make_trace(
    kind: str,
    world: World,
    rng: random.Random,
    *,
    asking: Asking,
    horizon_s: float,
    churn: Churn | None = None,
) -> Trace:
    """A trace of one of `KINDS`; all but the steady one churn exponentially besides."""
    require(kind in KINDS, f"a trace is one of {', '.join(KINDS)}")
    churn = churn or Churn()
    bumps: list[tuple[float, float, float]] = []
    if kind == "steady":
        presences = [Presence(0.0, horizon_s + 1, peer.peer_id) for peer in world.peers]
    elif kind == "exponential":
        presences = list(_exponential(world, rng, horizon_s, churn))
    elif kind == "diurnal":
        presences = list(_diurnal(world, rng, horizon_s, churn))
    elif kind == "flash crowd":
        presences = list(_flash_crowd(world, rng, horizon_s, churn))
        bumps = [(0.4 * horizon_s, 0.6 * horizon_s, 2.0)]
    else:
        presences = list(_outage(world, rng, horizon_s, churn))
    requests = _requests(asking, rng, horizon_s, bumps)
    return Trace(
        name=kind,
        presences=tuple(sorted(presences)),
        requests=tuple(sorted(requests)),
        horizon_s=horizon_s,
    )


def _exponential(
    world: World, rng: random.Random, horizon_s: float, churn: Churn
) -> Iterator[Presence]:
    for peer in world.peers:
        yield from _stays(peer.peer_id, rng, churn, 0.0, horizon_s)


def _stays(
    peer_id: PeerId, rng: random.Random, churn: Churn, begin_s: float, end_s: float
) -> Iterator[Presence]:
    """Alternating exponential stays and absences, in their long-run mix from the beginning."""
    at_s = begin_s
    if rng.random() > churn.stay_s / (churn.stay_s + churn.away_s):
        at_s += rng.expovariate(1 / churn.away_s)
    while at_s < end_s:
        leave_s = at_s + rng.expovariate(1 / churn.stay_s) + 1.0
        yield Presence(at_s, min(leave_s, end_s + 1), peer_id, rng.random() > churn.crash)
        at_s = leave_s + rng.expovariate(1 / churn.away_s) + 1.0


def _diurnal(
    world: World, rng: random.Random, horizon_s: float, churn: Churn
) -> Iterator[Presence]:
    """Each region has its evening: presence swings once over the trace, regions out of step."""
    regions = sorted({peer.region for peer in world.peers})
    for peer in world.peers:
        phase = regions.index(peer.region) / len(regions)
        # Home from the middle of its evening, 0.7 of the trace long, on either side of its end.
        begin = (phase + rng.gauss(0, 0.04)) % 1.0
        for start in (begin - 1.0, begin):
            join_s, leave_s = max(0.0, start) * horizon_s, (start + 0.7) * horizon_s
            if leave_s > join_s + 1 and join_s < horizon_s:
                yield from _stays(peer.peer_id, rng, churn, join_s, min(leave_s, horizon_s))


def _flash_crowd(
    world: World, rng: random.Random, horizon_s: float, churn: Churn
) -> Iterator[Presence]:
    """A third of the peers are there from 0.35 to 0.75 of the trace only."""
    for i, peer in enumerate(world.peers):
        if i % 3:
            yield from _stays(peer.peer_id, rng, churn, 0.0, horizon_s)
        else:
            join_s = rng.uniform(0.35, 0.40) * horizon_s
            leave_s = rng.uniform(0.65, 0.75) * horizon_s
            yield Presence(join_s, leave_s, peer.peer_id, rng.random() > churn.crash)


def _outage(world: World, rng: random.Random, horizon_s: float, churn: Churn) -> Iterator[Presence]:
    """The largest region is gone from 0.4 to 0.6 of the trace, without a word."""
    gone, back = 0.4 * horizon_s, 0.6 * horizon_s
    largest = max(REGION_WEIGHTS, key=lambda region: REGION_WEIGHTS[region])
    for presence in _exponential(world, rng, horizon_s, churn):
        if world.peers[world.index[presence.peer_id]].region != largest:
            yield presence
            continue
        if presence.join_s < gone:
            leave_s = min(presence.leave_s, gone)
            proper = presence.is_proper and presence.leave_s < gone
            yield Presence(presence.join_s, leave_s, presence.peer_id, proper)
        if presence.leave_s > back:
            join_s = max(presence.join_s, back + rng.uniform(0, 30))
            if presence.leave_s > join_s:
                yield Presence(join_s, presence.leave_s, presence.peer_id, presence.is_proper)


def _requests(
    asking: Asking,
    rng: random.Random,
    horizon_s: float,
    bumps: list[tuple[float, float, float]],
) -> Iterator[Request]:
    highest = max([1.0, *(factor for _, _, factor in bumps)])
    at_s = 0.0
    while True:
        at_s += rng.expovariate(asking.per_s * highest)
        if at_s >= horizon_s:
            return
        factor = next((f for begin, end, f in bumps if begin <= at_s < end), 1.0)
        if rng.random() * highest > factor:  # thinning: Lewis and Shedler 1979
            continue
        yield Request(
            at_s,
            rng.choices(list(REGION_WEIGHTS), list(REGION_WEIGHTS.values()))[0],
            _length(asking.n_prompt, asking, rng),
            _length(asking.n_answer, asking, rng),
        )


def _length(median: float, asking: Asking, rng: random.Random) -> int:
    return max(1, min(asking.longest, round(median * math.exp(rng.gauss(0, asking.sigma)))))

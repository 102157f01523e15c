"""Who is slower or faster than it says, told from what whole chains took.

In: rides, each so many tokens over one chain: what every hop had announced, and what a token really
took. Out: for each peer, the milliseconds per block that it takes beyond what it says. Pure.

A client sees only the sum over a chain, and no hop's word about itself is proof. But chains differ:
a peer that is in every slow chain and in no quick one is told apart from those who happened to be
beside it. That is linear regression: `y = A x + noise`, with y what each ride took beyond what was
said, A the blocks that each peer ran in it, and x, unknown, held to be small until shown otherwise
(a Gaussian prior; ridge regression, Hoerl and Kennard 1970). The prior is narrower below zero:
nobody gains by saying too much. Blame that cannot be told apart is shared by the blocks, and moves
as soon as it can.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protocol.identity import PeerId
from protocol.messages import require

HALF_LIFE_S = 600.0
NOISE, NOISE_MS = 0.04, 0.3  # of a ride's time per token, standard deviation
FEW_TOKENS = 16  # a ride of so many tokens is twice as uncertain as a long one
SPREAD = 3.0  # of what is said: how far off a peer may well be
BELOW = 0.05  # how much narrower the prior is below zero
ROUNDS = 3  # who is below zero is known after the first, mostly
CHANGED = 1.3  # a peer that announces this many times more or less is judged anew


@dataclass(frozen=True, slots=True)
class Leg:
    """One hop of a ride. `block_ms`: what each of its blocks was to take, by what it announced."""

    peer: PeerId
    n_blocks: int
    block_ms: float
    alone_ms: float  # the same for a session that it has to itself

    def __post_init__(self) -> None:
        require(0 < self.n_blocks < 1 << 20, "a leg runs blocks")
        require(0 < self.block_ms < 1e7 and 0 < self.alone_ms < 1e7, "a block takes time")


@dataclass(frozen=True, slots=True)
class Ride:
    """Tokens that one chain made. `besides_ms`: links and visits, as they were believed."""

    at_s: float  # wall clock: rides outlive processes
    n_tokens: int
    token_ms: float
    besides_ms: float
    legs: tuple[Leg, ...]

    def __post_init__(self) -> None:
        require(0 < len(self.legs) <= 512 and self.n_tokens > 0, "a ride has legs and tokens")
        require(0 <= self.token_ms < 1e7 and 0 <= self.besides_ms < 1e9, "a ride takes time")
        require(0 <= self.at_s < 1e11, "a ride was at some time")

    @property
    def company(self) -> frozenset[PeerId]:
        """Who carried it."""
        return frozenset(leg.peer for leg in self.legs)

    @property
    def said_ms(self) -> float:
        """What a token was to take."""
        return self.besides_ms + sum(leg.n_blocks * leg.block_ms for leg in self.legs)


def slower_ms(rides: Sequence[Ride], now_s: float) -> dict[PeerId, float]:
    """Milliseconds per block beyond what was announced, of every peer of the rides; below 0 of one
    that is faster than it says.
    """
    rides = _current(rides)
    if not rides:
        return {}
    peers = sorted({leg.peer for ride in rides for leg in ride.legs})
    column = {peer: i for i, peer in enumerate(peers)}
    blocks = np.zeros((len(rides), len(peers)))
    beyond_ms, noise = np.zeros(len(rides)), np.zeros(len(rides))
    for row, ride in enumerate(rides):
        for leg in ride.legs:
            blocks[row, column[leg.peer]] += leg.n_blocks
        beyond_ms[row] = ride.token_ms - ride.said_ms
        noise[row] = _noise_ms(ride, (now_s - ride.at_s) / HALF_LIFE_S) ** 2
    above = np.array(_expected_spread_ms(rides, peers)) ** 2
    found = np.zeros(len(peers))
    for _ in range(ROUNDS):
        spread = np.where(found < 0, above * BELOW**2, above)
        covariance = (blocks * spread) @ blocks.T + np.diag(noise)
        found = spread * (blocks.T @ np.linalg.solve(covariance, beyond_ms))
    return {peer: float(found[i]) for peer, i in column.items()}


def undivided(rides: Sequence[Ride]) -> dict[PeerId, float]:
    """When each peer rode last of those that rode in one company alone, and not the only one in it:
    what is held against them may be another's.
    """
    companies: dict[PeerId, set[frozenset[PeerId]]] = defaultdict(set)
    latest_s: dict[PeerId, float] = {}
    for ride in rides:
        for leg in ride.legs:
            companies[leg.peer].add(ride.company)
            latest_s[leg.peer] = max(latest_s.get(leg.peer, 0.0), ride.at_s)
    loyal = {peer for peer, kept in companies.items() if len(kept) == 1}
    return {peer: latest_s[peer] for peer in loyal if len(loyal & next(iter(companies[peer]))) > 1}


def _expected_spread_ms(rides: Sequence[Ride], peers: Sequence[PeerId]) -> list[float]:
    """How far a peer may be off: by what it says, but who says far less than others by theirs."""
    said = {leg.peer: leg.block_ms for ride in rides for leg in ride.legs}
    usual = statistics.median_high(said.values())
    return [SPREAD * max(said[peer], usual) for peer in peers]


def _noise_ms(ride: Ride, age: float) -> float:
    few = 1 + FEW_TOKENS / ride.n_tokens
    return float(max(NOISE * ride.token_ms, NOISE_MS) * few**0.5 * 2.0 ** min(max(0.0, age), 20.0))


def _current(rides: Sequence[Ride]) -> list[Ride]:
    """Without those in which some hop said quite another speed than it did later."""
    latest: dict[PeerId, tuple[float, float]] = {}
    for ride in rides:
        for leg in ride.legs:
            latest[leg.peer] = max(latest.get(leg.peer, (0.0, 0.0)), (ride.at_s, leg.alone_ms))

    def still_holds(leg: Leg) -> bool:
        return 1 / CHANGED <= leg.alone_ms / latest[leg.peer][1] <= CHANGED

    return [ride for ride in rides if all(map(still_holds, ride.legs))]

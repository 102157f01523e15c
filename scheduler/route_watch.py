"""What a session saw of its chain, for the client's record of its peers.

In: each chain that stood, each token as it came, each hop that was lost. Out: rides, complaints and
failures in a `PeerRecords`. Watching changes nothing about the session.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from protocol.chain_actions import Seat
from protocol.errors import ManyhandsError
from protocol.identity import PeerId
from protocol.typical import typical
from scheduler.blame import Leg, Ride
from scheduler.directory import Directory
from scheduler.latency import Latencies
from scheduler.peer_record import PeerRecords
from scheduler.route_cost import alone_us, cost_of
from scheduler.wanted import Goal, Wanted

LEAST_TOKENS = 8  # of one chain, before they say anything
MOST_MS = 1e6  # that a block or a wait can be said to take: more is nonsense, and as bad


class RouteWatch:
    """Of one session."""

    def __init__(
        self,
        records: PeerRecords,
        directory: Directory,
        wanted: Callable[[], Wanted],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._records, self._directory, self._wanted = records, directory, wanted
        self._clock, self._wall = clock, wall
        self._legs: tuple[Leg, ...] = ()
        self._besides_ms = 0.0
        self._times: list[float] = []
        self._charged: dict[str, ManyhandsError] = {}

    def routed(self, seats: Sequence[Seat]) -> None:
        """A chain stands, and what its hops announce now is what they promise."""
        self.ended()
        self._legs, self._besides_ms = self._promised(seats)

    def token(self) -> None:
        """One came that was a round's first: those that were drafted with it took no round."""
        self._times.append(self._clock())

    def lost(self, avoid: Mapping[str, ManyhandsError]) -> None:
        """Hops were given up for these reasons, of which some may be known already."""
        self.ended()
        for peer, error in avoid.items():
            if self._charged.get(peer) is not error:
                self._charged[peer] = error
                known = self._directory.get(PeerId(peer))
                self._records.note_failure(PeerId(peer), error, self._wall(), known)

    def link_down(self, one: str, other: str) -> None:
        """One hop says that it cannot reach the other."""
        self._records.note_link_down(PeerId(one), PeerId(other), self._wall())

    def ended(self) -> None:
        """The chain is no more, or the answer is complete: what it took is noted."""
        legs, times, self._legs, self._times = self._legs, self._times, (), []
        if legs and len(times) > LEAST_TOKENS:
            token_ms = 1000 * typical([later - earlier for earlier, later in pairwise(times)])
            n_tokens = len(times) - 1
            ride = Ride(self._wall(), n_tokens, token_ms, self._besides_ms, legs)
            self._records.note_ride(ride)

    def _promised(self, seats: Sequence[Seat]) -> tuple[tuple[Leg, ...], float]:
        """Of one session beside those there are: nobody promised a row the time that it has in a
        full batch, though who wants throughput chooses by that.
        """
        wanted, live = replace(self._wanted(), goal=Goal.LATENCY), self._directory.live()
        latencies = Latencies(live, self._directory.rtt_ms)
        known = {peer.peer_id: peer for peer in live}
        legs: list[Leg] = []
        besides_ms = 0.0
        for seat in seats:
            peer = known.get(PeerId(seat.peer))
            if peer is None or peer.span is None:
                return (), 0.0
            cost = cost_of(peer, wanted)
            said_ms = (cost.compute_ms, alone_us(peer) / 1000 / len(peer.span))
            legs.append(Leg(peer.peer_id, len(seat.span), *(min(ms, MOST_MS) for ms in said_ms)))
            besides_ms += cost.hop_ms + cost.queue_ms
        ring = [PeerId(seat.peer) for seat in (*seats, seats[0])]
        besides_ms += sum(latencies.one_way_ms(one, other) for one, other in pairwise(ring))
        return tuple(legs), min(besides_ms, MOST_MS)

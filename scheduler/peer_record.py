"""What this client saw of its peers, which it believes before what they say of themselves.

In: rides (what chains took), failures and who was to blame, links that did not stand. Out: by how
much a peer is slower than it announces, and what its failures are expected to cost, in milliseconds
per token. All of it ages. `blame.py` tells who of a slow chain is slow, `record_file.py` keeps it
across processes.

Only the guilty are charged: honest refusals cost nothing, nor does our own deadline. When one hop
says that it cannot reach another, it is their link that is avoided; a peer about which two others
complain is charged, and so is one that complains about two. Two hops of which an audit finds that
one has to lie about the rows between them are kept apart for longer, and neither is charged.

Blame that rides have not divided yet is not held against anybody for long: each of those it may
belong to is tried again at a time of its own, in other company.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import sha256

from protocol.announcements import Announcement
from protocol.errors import (
    InDebt,
    IntegrityError,
    ManyhandsError,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    VersionMismatch,
)
from protocol.identity import PeerId
from protocol.messages import require
from protocol.path import Path
from scheduler.blame import Ride, slower_ms, undivided
from scheduler.route_cost import alone_us
from scheduler.trust import NO_TRUST

MAX_RIDES, MAX_ALIKE = 64, 4  # in all, and over the same hops
MAX_PEERS = 1_000
HALF_LIFE_S = 600.0  # of failures, and of what they are weighed against
FAILOVER_MS, ANSWER_TOKENS = 2_000.0, 64  # what a failure costs, and over how many tokens
CHEAT = 8.0  # what was provably wrong counts as so many failures
HIDDEN = 0.5  # of dials of whom no stranger can dial: we may be its neighbour
GONE_S, GONE_MS = 30.0, 10_000.0  # nobody answered, and no word since: an announcement's lifetime
IN_DEBT_S = 300.0  # who refused us for our debt is asked last for so long
LINK_S = 60.0  # a link that did not stand is avoided for so long
DISPUTED_S = 3600.0  # and one whose ends contradict each other
LOOK_AGAIN_S = 10.0  # at rides that age
LEAST_PATIENCE_S = 60.0
LEAST_FACTOR = 0.5  # nobody is believed to be faster than this part of what it says
BROKEN, PENALTY = 0.5, 2.0  # slower by more than this part: a promise is broken, and costs beside
GIVEN_UP = "misbehaved", "refused", "unreachable", "failed"
INNOCENT = (PeerBusy, PeerRefused, VersionMismatch)

Pair = tuple[PeerId, PeerId]


@dataclass(slots=True)
class Standing:
    """Of one peer; the sums are as of `at_s`."""

    at_s: float
    failures: float = 0.0
    served: float = 0.0
    failed_at_s: float = 0.0
    gone_since: int | None = None  # it did not answer; the sequence of its announcement then

    def __post_init__(self) -> None:
        numbers = (self.at_s, self.failures, self.served, self.failed_at_s)
        require(all(0 <= number < 1e11 for number in numbers), "a standing is of sound numbers")

    def aged(self, now_s: float) -> None:
        keep = 0.5 ** (max(0.0, now_s - self.at_s) / HALF_LIFE_S)
        self.failures, self.served, self.at_s = self.failures * keep, self.served * keep, now_s


class PeerRecords:
    """One per client, shared by its sessions. `now_s` is wall clock: records outlive processes.

    n_misbehaved: how often work did not hold that a peer did for this client, since it began.
    gave_up: how often a peer was given up and somebody else asked, by what it did, since then.
    trust: in what peers compute, by what this home found out.
    """

    def __init__(self) -> None:
        self.rides: list[Ride] = []
        self.standings: dict[PeerId, Standing] = {}
        self.n_misbehaved = 0
        self.gave_up = Counter[str]()
        self.trust = NO_TRUST
        self._complaints: dict[Pair, float] = {}
        self._disputed: dict[Pair, float] = {}
        self._in_debt_s: dict[PeerId, float] = {}  # who refused us for what we owe it, and when
        self._slower_ms: dict[PeerId, float] | None = None
        self._slower_at_s = 0.0

    # --- what is noted ----------------------------------------------------------------------------

    def note_ride(self, ride: Ride) -> None:
        """A chain made tokens; its hops did not fail."""
        self.keep(ride)
        for leg in ride.legs:
            standing = self._standing(leg.peer, ride.at_s)
            standing.served += 1
            standing.gone_since = None

    def keep(self, ride: Ride) -> None:
        """A few of each company: what one chain took often says no more about who of it is slow."""
        alike = [known for known in self.rides if known.company == ride.company]
        if len(alike) >= MAX_ALIKE:
            self.rides.remove(alike[0])
        elif len(self.rides) >= MAX_RIDES:
            del self.rides[0]
        self.rides.append(ride)
        self._slower_ms = None

    def take_over(self, other: "PeerRecords") -> None:
        """What another client of this home saw, and this one does not know yet."""
        rides = sorted({*self.rides, *other.rides}, key=lambda ride: ride.at_s)
        self.rides.clear()
        for ride in rides:
            self.keep(ride)
        for peer, standing in other.standings.items():
            known = self.standings.get(peer)
            if known is None or known.at_s < standing.at_s:
                self.standings[peer] = standing
        while len(self.standings) > MAX_PEERS:
            self._forget_oldest()

    def note_failure(
        self, peer: PeerId, error: ManyhandsError, now_s: float, announced: Announcement | None
    ) -> None:
        """`peer` was lost for this reason; `announced` is what was known of it then."""
        self.gave_up[_kind(error)] += 1
        if isinstance(error, InDebt):
            self._in_debt_s[peer] = now_s
        if isinstance(error, INNOCENT) or not isinstance(error, PeerError | IntegrityError):
            return
        if type(error) is PeerError and self._is_of_link(peer, now_s):
            return
        standing = self._standing(peer, now_s)
        if isinstance(error, PeerUnreachable):
            standing.gone_since = announced.sequence if announced else 0
        is_proven = isinstance(error, PeerMisbehaved | IntegrityError)
        self.n_misbehaved += is_proven
        if standing.failed_at_s != now_s:
            standing.failures += CHEAT if is_proven else 1.0
        standing.failed_at_s = now_s

    def note_link_down(self, one: PeerId, other: PeerId, now_s: float) -> None:
        """`one` says that it cannot reach `other`."""
        since_s = now_s - LINK_S
        self._complaints = {p: at for p, at in self._complaints.items() if at > since_s}
        self._complaints[one, other] = now_s
        blamed_by = {pair[0] for pair in self._complaints if pair[1] == other}
        blames = {pair[1] for pair in self._complaints if pair[0] == one}
        for peer, others in ((other, blamed_by), (one, blames)):
            if len(others) > 1:
                self._standing(peer, now_s).failures += 1

    def note_disputed(self, sender: PeerId, receiver: PeerId, now_s: float) -> None:
        """What passed between them was wrong, or they signed for different rows: one of them lies;
        or the rows are gone that would tell.

        Which one, nobody can tell, so nobody is charged, however many others it is in dispute with:
        two keys of one owner would be enough to have an honest hop taken for a cheat.
        """
        since_s = now_s - DISPUTED_S
        self._disputed = {p: at for p, at in self._disputed.items() if at > since_s}
        self._disputed[sender, receiver] = now_s

    # --- what is believed -------------------------------------------------------------------------

    def believed(self, peers: Iterable[Announcement], now_s: float) -> dict[PeerId, float]:
        """By how much each takes longer than it announces; those not named are as they say."""
        slower = self._slower(now_s)
        return {
            peer.peer_id: max(LEAST_FACTOR, 1 + slower[peer.peer_id] / alone_ms)
            for peer in peers
            if slower.get(peer.peer_id) and (alone_ms := _alone_ms(peer))
        }

    def risk_ms(self, peers: Iterable[Announcement], now_s: float) -> dict[PeerId, float]:
        """What each is expected to cost beside its time, per token; those not named cost none."""
        found = {peer.peer_id: self._risk_ms(peer, now_s) for peer in peers}
        return {peer: ms for peer, ms in found.items() if ms > 0}

    def broken_links(self, now_s: float) -> Collection[Pair]:
        """Pairs of which one said lately that it cannot reach the other."""
        return [pair for pair, at_s in self._complaints.items() if now_s - at_s < LINK_S]

    def disputed_links(self, now_s: float) -> Collection[Pair]:
        """Pairs of which one lies about what passed between them, or whose rows are gone."""
        return [pair for pair, at_s in self._disputed.items() if now_s - at_s < DISPUTED_S]

    def _risk_ms(self, peer: Announcement, now_s: float) -> float:
        risk_ms = self._penalty_ms(peer, now_s) + self.trust.risk_ms(peer)
        if now_s - self._in_debt_s.get(peer.peer_id, -IN_DEBT_S) < IN_DEBT_S:
            risk_ms += GONE_MS  # it would refuse again: only where nobody else serves its blocks
        standing = self.standings.get(peer.peer_id)
        if standing is None or not standing.failures + standing.served:
            doubt = HIDDEN if _is_out_of_reach(peer) else 0.0
            return risk_ms + doubt * FAILOVER_MS / ANSWER_TOKENS
        standing.aged(now_s)
        is_silent = standing.gone_since is not None and peer.sequence <= standing.gone_since
        if is_silent and now_s - standing.failed_at_s < GONE_S:
            return risk_ms + GONE_MS
        fails = standing.failures / (standing.failures + standing.served + 1)
        return risk_ms + fails * FAILOVER_MS / ANSWER_TOKENS

    def _penalty_ms(self, peer: Announcement, now_s: float) -> float:
        """For a broken promise: who says less than it takes must not gain by it."""
        slower_ms, alone_ms = self._slower(now_s).get(peer.peer_id, 0.0), _alone_ms(peer)
        beyond_ms = slower_ms - BROKEN * alone_ms
        return PENALTY * beyond_ms * len(peer.span) if peer.span and beyond_ms > 0 else 0.0

    # --- inside -----------------------------------------------------------------------------------

    def _slower(self, now_s: float) -> dict[PeerId, float]:
        if self._slower_ms is None or now_s - self._slower_at_s > LOOK_AGAIN_S:
            self._slower_ms, self._slower_at_s = slower_ms(self.rides, now_s), now_s
            for peer, at_s in undivided(self.rides).items():
                if self._slower_ms.get(peer, 0.0) > 0 and now_s - at_s > _patience_s(peer, at_s):
                    del self._slower_ms[peer]
        return self._slower_ms

    def _is_of_link(self, peer: PeerId, now_s: float) -> bool:
        """Whether a single other peer has just complained that it cannot reach this one."""
        by = [one for one, other in self.broken_links(now_s) if other == peer]
        return len(by) == 1

    def _standing(self, peer: PeerId, now_s: float) -> Standing:
        if peer not in self.standings and len(self.standings) >= MAX_PEERS:
            self._forget_oldest()
        standing = self.standings.setdefault(peer, Standing(now_s))
        standing.aged(now_s)
        return standing

    def _forget_oldest(self) -> None:
        del self.standings[min(self.standings, key=lambda peer: self.standings[peer].at_s)]


def _patience_s(peer: PeerId, since_s: float) -> float:
    """How long blame that may be another's is held against a peer before it gets a new chance. For
    each another time: tried again together, they would be as hard to tell apart as before.
    """
    drawn = sha256(f"{peer} {since_s}".encode()).digest()[0] / 255
    return LEAST_PATIENCE_S * (1 + 3 * drawn)


def _is_out_of_reach(peer: Announcement) -> bool:
    """Whether by its own word strangers cannot dial it, and nobody carries it."""
    return not peer.reach.is_dialable and all(each.path is Path.DIRECT for each in peer.addresses)


def _alone_ms(peer: Announcement) -> float:
    """Per block, for a session that it has to itself."""
    return alone_us(peer) / 1000 / len(peer.span) if peer.span else 0.0


def _kind(error: ManyhandsError) -> str:
    """Of `GIVEN_UP`."""
    kinds = (PeerMisbehaved, IntegrityError), (PeerRefused, PeerBusy), (PeerUnreachable,)
    for name, kind in zip(GIVEN_UP, kinds, strict=False):
        if isinstance(error, kind):
            return name
    return GIVEN_UP[-1]

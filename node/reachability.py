"""Whether strangers can dial this node: a verdict from what peers saw, without I/O.

In: answers to dial-backs, and the machine's own addresses. Out: a verdict with its reason, and by
whom and when it was found; the addresses that were confirmed, and those that were not. Two peers
must agree, so that no single one can talk a node off the network, or onto an address that nobody
can dial; where only one peer can tell, it decides. Evidence ages, and a peer's latest answer
replaces its earlier one. The wider scope is looked at first: that a neighbour on the same network
gets through says nothing about strangers, and no second witness of them is waited for among
neighbours.

Whoever dials back was asked by this node, and routers with address-dependent filtering (RFC 4787
section 5) let in whom their home has sent to, and nobody else. That strangers get through as well
is shown by the first one who does.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TypeVar

from protocol.address import Endpoint
from protocol.dialling_back import Answer, Outcome
from protocol.identity import PeerId
from protocol.reachability import Nat, Scope, Verdict, scope_of

Key = TypeVar("Key")
Value = TypeVar("Value")

QUORUM = 2
MAX_AGE_S = 1800.0  # three rounds of questions
MAX_ENDPOINTS, MAX_WITNESSES = 16, 16
WIDEST_FIRST = (Scope.WORLD, Scope.NETWORK, Scope.MACHINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A peer that dialled one of our endpoints."""

    peer_id: PeerId
    endpoint: Endpoint
    outcome: Outcome
    at_s: float
    took_us: int = 0
    reason: str = ""

    @property
    def reached(self) -> bool:
        return self.outcome is Outcome.REACHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is known now. why: in words; at_s: of the latest witness; 0 when there is none."""

    verdict: Verdict = Verdict.UNKNOWN
    nat: Nat = Nat.UNKNOWN
    why: str = "no peer has dialled this node back yet"
    at_s: float = 0.0
    witnesses: tuple[Witness, ...] = ()  # of the scope that decided, latest first
    confirmed: tuple[Endpoint, ...] = ()
    refuted: tuple[Endpoint, ...] = ()
    seen_hosts: tuple[str, ...] = ()  # by how many peers, most first
    stranger: str = ""  # from where somebody came in to whom this node had sent nothing

    @property
    def is_doubtful(self) -> bool:
        """Whether a router may be open to those alone who were asked."""
        return self.verdict is Verdict.MAPPED and not self.stranger

    @property
    def is_undecided(self) -> bool:
        """Whether somebody has dialled an address that is not this machine's own, and more would
        have to: where all the others are hidden, too, nobody will."""
        return self.verdict is Verdict.UNKNOWN and bool(self.witnesses) and self.nat is not Nat.NONE


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one connection: to whom it went, and how it was seen there."""

    towards: str  # the address of the peer
    seen: Endpoint


class Reachability:
    """See the module. `at_s` and `now_s` are of one monotonic clock."""

    def __init__(self) -> None:
        self._tried: dict[Endpoint, dict[PeerId, Witness]] = {}
        self._seen: dict[PeerId, tuple[float, str]] = {}
        self._nat: tuple[float, Nat] | None = None
        self._stranger: tuple[str, str] | None = None  # from where, and where we were then

    def answered(self, by: PeerId, port: int, answer: Answer, *, at_s: float) -> None:
        """A peer that was asked about `port` said this."""
        if answer.seen is None:
            return
        _note(self._seen, by, (at_s, answer.seen.host), MAX_WITNESSES)
        if not answer.outcome.was_tried:
            return
        endpoint = Endpoint(answer.seen.host, port)
        witness = Witness(
            peer_id=by,
            endpoint=endpoint,
            outcome=answer.outcome,
            at_s=at_s,
            took_us=answer.took_us,
            reason=answer.reason,
        )
        witnesses = self._tried.get(endpoint, {})
        _note(witnesses, by, witness, MAX_WITNESSES)
        _note(self._tried, endpoint, witnesses, MAX_ENDPOINTS)

    def sampled(self, samples: Sequence[Sample], *, at_s: float) -> None:
        """How connections that left from one and the same local port were seen."""
        if (nat := mapping_of(samples)) is not Nat.UNKNOWN:
            self._nat = at_s, nat

    def let_in(self, host: str, now_s: float) -> None:
        """Somebody from there, to whom this node had sent nothing, got through to its port."""
        for seen in self._seen_hosts(now_s)[:1]:
            self._stranger = host, seen

    def moved(self) -> None:
        """This machine has other addresses now: nothing said before counts."""
        self._tried.clear()
        self._seen.clear()
        self._nat = self._stranger = None

    def neighbours(self, peers: Iterable[PeerId]) -> set[PeerId]:
        """Those of `peers` who see this node at an address that the world does not."""
        return {
            peer
            for peer in peers
            if peer in self._seen and scope_of(self._seen[peer][1]) is not Scope.WORLD
        }

    def finding(
        self,
        own_hosts: Collection[str],
        n_dialers: int,
        now_s: float,
        *,
        n_silent: int = 0,
        n_near: int = 0,
    ) -> Finding:
        """own_hosts: this machine's addresses; n_dialers: how many peers there are to ask, of whom
        `n_silent` could not be asked, and `n_near` others are neighbours.

        That it cannot be dialled takes those alone who can be asked. Behind routers the silent ones
        are hidden themselves, and would wait for this node's word as it does for theirs.
        """

        def quorum_of(n_peers: int) -> Mapping[Scope, int]:
            far, any_scope = (min(QUORUM, max(1, n)) for n in (n_peers - n_near, n_peers))
            return {scope: far if scope is Scope.WORLD else any_scope for scope in Scope}

        quorum, against = quorum_of(n_dialers), quorum_of(n_dialers - n_silent)
        fresh = [
            witness
            for witnesses in self._tried.values()
            for witness in witnesses.values()
            if now_s - witness.at_s < MAX_AGE_S
        ]
        seen = self._seen_hosts(now_s)
        known = Finding(
            nat=self._nat_kind(seen, own_hosts, now_s),
            confirmed=_confirmed(fresh, quorum, own_hosts),
            refuted=_refuted(fresh, quorum),
            seen_hosts=seen,
            stranger=self._stranger[0] if self._stranger and self._stranger[1] in seen[:1] else "",
        )
        for scope in WIDEST_FIRST:
            of_scope = [each for each in fresh if scope_of(each.endpoint.host) is scope]
            if (found := _judged(of_scope, known, against[scope], own_hosts)) is not None:
                return found
        if fresh:
            return _told(replace(known, why=_too_few(fresh)), fresh)
        return known

    def _seen_hosts(self, now_s: float) -> tuple[str, ...]:
        fresh = (host for at_s, host in self._seen.values() if now_s - at_s < MAX_AGE_S)
        return tuple(host for host, _ in Counter(fresh).most_common())

    def _nat_kind(self, seen: Sequence[str], own_hosts: Collection[str], now_s: float) -> Nat:
        world = [host for host in seen if scope_of(host) is Scope.WORLD] or seen
        if world and world[0] in own_hosts:
            return Nat.NONE
        if self._nat is None or now_s - self._nat[0] >= MAX_AGE_S:
            return Nat.UNKNOWN
        return self._nat[1]


def mapping_of(samples: Iterable[Sample]) -> Nat:
    """How a router maps connections that leave from one local port, by how they were seen.

    RFC 5780 section 4.3: the same endpoint at different addresses is endpoint-independent mapping.
    Only what crosses into the widest scope is compared, one address family at a time.
    """
    kinds = []
    for version in (4, 6):
        family = [each for each in samples if ip_address(each.seen.host).version == version]
        scopes = {scope_of(each.seen.host) for each in family}
        widest = next((scope for scope in WIDEST_FIRST if scope in scopes), None)
        towards: dict[Endpoint, set[str]] = {}
        for each in family:
            if scope_of(each.seen.host) is widest:
                towards.setdefault(each.seen, set()).add(each.towards)
        if any(len(hosts) > 1 for hosts in towards.values()):
            kinds.append(Nat.ENDPOINT_INDEPENDENT)
        elif len(towards) > 1:
            kinds.append(Nat.SYMMETRIC)
    return kinds[0] if kinds else Nat.UNKNOWN


def _judged(
    witnesses: Sequence[Witness], known: Finding, against: int, own_hosts: Collection[str]
) -> Finding | None:
    """The verdict of one scope; None where it takes more witnesses."""
    by_endpoint = _by_endpoint(witnesses)
    reached = [endpoint for endpoint in known.confirmed if endpoint in by_endpoint]
    if reached:
        best = reached[0]
        theirs = [each for each in by_endpoint[best] if each.reached]
        verdict = Verdict.DIRECT if best.host in own_hosts else Verdict.MAPPED
        why = f"{_peers(theirs)} dialled {best} and reached this node"
        return _told(replace(known, verdict=verdict, why=why), by_endpoint[best])
    failed = [each for each in witnesses if not each.reached]
    if len({each.peer_id for each in failed}) < against:
        return None
    is_own = _is_own(failed, own_hosts)
    verdict = Verdict.FIREWALLED if is_own else Verdict.NAT
    return _told(replace(known, verdict=verdict, why=_why_not(failed, is_own)), witnesses)


def _confirmed(
    witnesses: Iterable[Witness], quorum: Mapping[Scope, int], own_hosts: Collection[str]
) -> tuple[Endpoint, ...]:
    """Widest scope first, then this machine's own, then by how many reached them."""
    counts = {
        endpoint: sum(each.reached for each in theirs)
        for endpoint, theirs in _by_endpoint(witnesses).items()
    }
    confirmed = [
        endpoint
        for endpoint, n_reached in counts.items()
        if n_reached >= quorum[scope_of(endpoint.host)]
    ]

    def rank(endpoint: Endpoint) -> tuple[int, bool, int, Endpoint]:
        scope = WIDEST_FIRST.index(scope_of(endpoint.host))
        return scope, endpoint.host not in own_hosts, -counts[endpoint], endpoint

    return tuple(sorted(confirmed, key=rank))


def _refuted(witnesses: Iterable[Witness], quorum: Mapping[Scope, int]) -> tuple[Endpoint, ...]:
    """Where so many failed, and not so many got through."""

    def is_refuted(endpoint: Endpoint, theirs: Sequence[Witness]) -> bool:
        needed, n_reached = quorum[scope_of(endpoint.host)], sum(each.reached for each in theirs)
        return n_reached < needed <= len(theirs) - n_reached

    by_endpoint = _by_endpoint(witnesses)
    return tuple(sorted(each for each, theirs in by_endpoint.items() if is_refuted(each, theirs)))


def _by_endpoint(witnesses: Iterable[Witness]) -> Mapping[Endpoint, list[Witness]]:
    found: dict[Endpoint, list[Witness]] = {}
    for each in witnesses:
        found.setdefault(each.endpoint, []).append(each)
    return found


def _is_own(failed: Sequence[Witness], own_hosts: Collection[str]) -> bool:
    """Whether most of those who failed dialled an address of this very machine."""
    return 2 * sum(each.endpoint.host in own_hosts for each in failed) > len(failed)


def _why_not(failed: Sequence[Witness], is_own: bool) -> str:
    endpoint, n_failed = Counter(each.endpoint for each in failed).most_common(1)[0]
    outcomes = Counter(each.outcome.value for each in failed if each.endpoint == endpoint)
    said = ", ".join(f"{word} ({n})" if n_failed > 1 else word for word, n in outcomes.items())
    whose = "this machine's own address" if is_own else "the address that peers see it at"
    return f"{_peers(failed)} dialled {endpoint}, {whose}, in vain: {said}"


def _too_few(fresh: Sequence[Witness]) -> str:
    latest = max(fresh, key=lambda each: each.at_s)
    return f"one peer is too few to go by: {latest.endpoint} {latest.outcome.value}"


def _peers(witnesses: Iterable[Witness]) -> str:
    n_peers = len({each.peer_id for each in witnesses})
    return "1 peer" if n_peers == 1 else f"{n_peers} peers"


def _told(known: Finding, witnesses: Iterable[Witness]) -> Finding:
    """Who said so, and when."""
    latest_first = tuple(sorted(witnesses, key=lambda each: -each.at_s))
    return replace(known, witnesses=latest_first, at_s=latest_first[0].at_s)


def _note(known: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """The latest stands last; the oldest goes when there are too many."""
    known.pop(key, None)
    known[key] = value
    if len(known) > most:
        del known[next(iter(known))]

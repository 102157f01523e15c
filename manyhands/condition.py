"""How peers and models of a swarm are, and for whatever is not well, why. Pure.

In: announcements, and what this machine saw of each peer: whether it answered, how fast, how long
ago it was heard of. Out: a condition per peer and per model, in words for people and in values for
scripts. What is announced is a claim; what was seen here is not, and is said first.

A model's hosts are those that take new sessions and answer. Who loads blocks, and will serve them,
is told beside, and counts as nobody's host. They chain together only when they
share an execution profile, so the profile that serves the model best speaks for it.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from manyhands.coverage import Run, hosts_per_block, spell, stretches
from manyhands.own_words import OwnWords
from manyhands.whereabouts import spoken
from node.manners import BY_OWNER
from protocol.announcements import Announcement
from protocol.measured import State
from protocol.messages import Span
from protocol.path import Path
from scheduler.capacity import blocks_per_s
from scheduler.flow import Host, bottleneck
from scheduler.route_cost import alone_us

SLOW = 1.5  # times what was announced
SLOW_MS = 10.0  # and as much more at least: less is seen by nobody, and small models waver by it
FULL_POSITIONS = 256  # a node that has room for fewer is full to most who ask
SKEWED_S = 60.0
WELL = State.SERVING.value
NOTHING_SAID = OwnWords()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What this machine knows of a peer by itself. None: not tried, or not known."""

    rtt_ms: float | None = None
    way: Path = Path.DIRECT  # by which it answered
    why_not: str = ""  # it was dialled, and this is why nobody answered
    age_s: float = 0.0  # of its announcement, by our clock
    slowdown: float | None = None  # how many times longer it took than it announces
    skew_s: float = 0.0  # by how much its clock is ahead of ours
    loading_s: float | None = None  # for how long it has been loading what it will serve
    own: OwnWords = NOTHING_SAID  # of a node of this home: what it said when it was asked
    doubt: str = ""  # why it cannot be in the region that it announces

    @property
    def path(self) -> str:
        """How it is reached from here."""
        if self.why_not:
            return "none"
        return "unknown" if self.rtt_ms is None else self.way.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Of one peer. state: the worst there is to say; why: all that is not well, worst first."""

    state: str
    why: tuple[str, ...] = ()

    @property
    def takes_sessions(self) -> bool:
        return self.state not in ("unreachable", "draining", "moving", "paused", "loading")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCondition:
    """coverage: (start, stop, hosts) over all blocks; coming: (start, stop, how many load them)
    of those that somebody loads. limits: what keeps the flow from more."""

    profile: str
    coverage: tuple[tuple[int, int, int], ...]
    tokens_per_s: float
    limits: tuple[Run, ...]
    warnings: tuple[str, ...] = ()
    coming: tuple[tuple[int, int, int], ...] = ()

    @property
    def n_blocks(self) -> int:
        return self.coverage[-1][1]

    @property
    def least_hosts(self) -> int:
        return min(n_hosts for _, _, n_hosts in self.coverage)

    @property
    def missing(self) -> tuple[Run, ...]:
        return self.runs_with(0)

    def runs_with(self, n_hosts: int) -> tuple[Run, ...]:
        """The blocks that have exactly so many hosts."""
        return tuple((start, stop) for start, stop, n in self.coverage if n == n_hosts)


def condition_of(peer: Announcement, seen: Seen) -> Condition:
    """What is to say of one peer."""
    found: list[tuple[str, str]] = []
    if peer.span is None and peer.loading is not None:
        found.append(("loading", _loading(peer.loading, seen)))
    if seen.why_not:
        own_word = "" if peer.reach.is_dialable else f"; by its own word {spoken(peer.reach)}"
        found.append(("unreachable", f"not reachable from here: {seen.why_not}{own_word}"))
    if peer.measured.state is State.DRAINING:
        found.append(("draining", "draining: it leaves and takes no new sessions"))
    if peer.measured.state is State.MOVING:
        found.append(("moving", "moving: it takes no new sessions until it serves other blocks"))
    if peer.measured.state is State.PAUSED:
        found.append(("paused", _paused(peer, seen)))
    if seen.age_s * 1000 >= peer.lifetime_ms / 2:  # it should have spoken, and lost one message
        found.append(("silent", f"silent since {seen.age_s:.0f} s: nobody heard of it"))
    if (room := positions_free(peer)) is not None and room < FULL_POSITIONS:
        found.append(("full", f"full: room for {room} more tokens of context"))
    if slow := _slow(peer, seen):
        found.append(("slow", slow))
    if abs(seen.skew_s) >= SKEWED_S:
        side = "ahead" if seen.skew_s > 0 else "behind"
        found.append((WELL, f"its clock is {abs(seen.skew_s):.0f} s {side}"))
    if seen.doubt:
        found.append((WELL, seen.doubt))
    state = found[0][0] if found else WELL
    return Condition(state=state, why=tuple(why for _, why in found))


def _slow(peer: Announcement, seen: Seen) -> str:
    """By how much, where somebody would notice."""
    if seen.slowdown is None or seen.slowdown < SLOW:
        return ""
    said_ms = alone_us(peer) / 1000
    took_ms = said_ms * seen.slowdown
    if took_ms - said_ms < SLOW_MS:
        return ""
    return f"slow: a step took {took_ms:.1f} ms, it announces {said_ms:.1f} ms"


def _loading(span: Span, seen: Seen) -> str:
    since = "" if seen.loading_s is None else f" since {_long(seen.loading_s)}"
    return f"loading blocks {span}{since}: it will serve them"


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _paused(peer: Announcement, seen: Seen) -> str:
    """By its own clock, as far as we know how that differs from ours."""
    measured = peer.measured
    why = f"paused: {measured.paused or 'it gives way to its owner'}"
    if not measured.back_ms and BY_OWNER in measured.paused:
        return why
    if not measured.back_ms:
        return f"{why}; it comes back by itself"
    back = time.localtime(measured.back_ms / 1000 - seen.skew_s)
    return f"{why}; back at {time.strftime('%a %H:%M', back)} or later"


def positions_free(peer: Announcement) -> int | None:
    """How many positions of context fit what is left of its KV room; None: it does not tell."""
    per_position = peer.measured.position_bytes
    return peer.kv_free_bytes // per_position if per_position else None


def model_condition(conditions: Mapping[Announcement, Condition]) -> ModelCondition:
    """How one model is served by those who announce it, one at least."""
    n_blocks = blocks_of_model(peer.n_blocks for peer in conditions)
    serving = {peer: how for peer, how in conditions.items() if peer.span is not None}
    by_profile: dict[str, list[Host]] = {peer.profile: [] for peer in serving} or {"": []}
    for peer, condition in serving.items():
        if condition.takes_sessions and peer.span is not None and peer.n_blocks == n_blocks:
            by_profile[peer.profile].append(Host(peer.span, blocks_per_s(peer)))
    judged = [_judged(profile, by_profile[profile], n_blocks) for profile in sorted(by_profile)]
    best = max(judged, key=lambda found: (-_n_missing(found), found.tokens_per_s))
    loading = [p.loading for p in conditions if p.span is None and p.loading is not None]
    coming = stretches(hosts_per_block(loading, n_blocks))
    return replace(
        best,
        warnings=tuple(_warnings(best, conditions)),
        coming=tuple(stretch for stretch in coming if stretch[2]),
    )


def blocks_of_model(said: Iterable[int]) -> int:
    """How many a model has, by those who announce it: most of them, and so no single liar."""
    counts = Counter(said)
    return max(counts, key=lambda n_blocks: (counts[n_blocks], -n_blocks))


def _judged(profile: str, hosts: list[Host], n_blocks: int) -> ModelCondition:
    flow = bottleneck(hosts, n_blocks)
    return ModelCondition(
        profile=profile,
        coverage=stretches(hosts_per_block((host.span for host in hosts), n_blocks)),
        tokens_per_s=flow.tokens_per_s,
        limits=tuple((span.start, span.stop) for span in flow.spans),
    )


def _n_missing(found: ModelCondition) -> int:
    return sum(stop - start for start, stop in found.missing)


def _warnings(found: ModelCondition, conditions: Mapping[Announcement, Condition]) -> Iterator[str]:
    for run in found.missing:
        yield f"nobody serves blocks {spell([run])}{_who_would(run, found.profile, conditions)}"
    single, n_serving = found.runs_with(1), sum(peer.span is not None for peer in conditions)
    if single and not found.missing and n_serving > 1:
        yield f"blocks {spell(single)} have one host only: without it no answer is complete"
    odd = sum(peer.n_blocks != found.n_blocks for peer in conditions)
    if odd:
        who = "1 peer says" if odd == 1 else f"{odd} peers say"
        yield f"{who} that the model has another number of blocks: nobody uses what they announce"
    others = sorted({peer.profile for peer in conditions if peer.span} - {found.profile})
    if others:
        n_others = sum(peer.profile in others for peer in conditions)
        who = "1 peer runs" if n_others == 1 else f"{n_others} peers run"
        yield f"{who} {', '.join(others)} and share no chain with {found.profile}"


def _who_would(run: Run, profile: str, conditions: Mapping[Announcement, Condition]) -> str:
    """Why those who announce these blocks do not count; "" where nobody announces them."""
    states = {
        condition.state
        for peer, condition in conditions.items()
        if (span := peer.span or peer.loading) is not None
        and span.start < run[1]
        and run[0] < span.stop
        and (peer.profile == profile or peer.span is None)
        and not condition.takes_sessions
    }
    return f": who announces them is {' or '.join(sorted(states))}" if states else ""

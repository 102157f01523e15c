"""Whether a node may give its span up, and when it looks for a better one. Pure: no clock, no I/O.

In: the table of announcements as this node holds it. Out: the blocks that would be left without a
host, and the same table as it will be once everybody keeps the rule below; numbers of seconds.

No block may lose its last host because nodes move, and several may want to at once. So whoever
wants to move says so (state `moving`), waits until all have heard, and looks again. Those who said
it before it did are gone for it. Of those who said it at the same time the highest lot goes, and
the others, who see that one, stay; but who follows somebody on the move that gives up the same
blocks relies on nobody else to stay there: lots are drawn among the first alone. For the lots of
three may go round in a circle with who heard whom: A after F, D at the same time as both.

That no block is left alone: of those who leave it, let one be the last to have spoken among those
who followed, or, if none did, the one with the lowest lot. Two that have not heard of each other
when they decide cannot exist while a word takes at most half the wait (the later of the two had
heard the earlier one before it spoke), so it knew of all the others, and relied on none of them.
"""

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.measured import State
from protocol.messages import Span


@dataclass(frozen=True, slots=True)
class Target:
    """What a node may serve: blocks of a model, named by its manifest's digest."""

    manifest: bytes
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a node looks, and how long it waits. Nodes that started together must spread
    within seconds; later a look costs and moves cost more, so both become rare.
    """

    first_s: float = 1.5  # between looks, right after the start and while blocks lack a host
    growth: float = 1.3
    last_s: float = 30.0
    jitter: float = 0.3
    settle_s: float = 3.0  # twice what a word takes to reach everybody
    rest_s: float = 5.0  # after a move or a failed one, doubled by every other of the last hour
    longest_rest_s: float = 600.0

    def look_s(self, n_looks: int, rng: random.Random, *, is_whole: bool) -> float:
        """Seconds until the next look, after `n_looks` in a row that changed nothing."""
        grown = self.first_s * self.growth ** min(n_looks, 100)
        return self._spread(min(grown, self.last_s) if is_whole else self.first_s, rng)

    def pause_s(self, n_recent: int, rng: random.Random) -> float:
        """Seconds of rest after the `n_recent`-th move or failure of the last hour: there is room
        for a dozen, so that a swarm whose nodes disagree comes to rest.
        """
        return self._spread(min(self.rest_s * 2.0 ** (n_recent - 1), self.longest_rest_s), rng)

    def _spread(self, seconds: float, rng: random.Random) -> float:
        return seconds * rng.uniform(1 - self.jitter, 1 + self.jitter)


def as_it_will_be(
    announcements: Iterable[Announcement], peer_id: PeerId, gone: Collection[Announcement]
) -> list[Announcement]:
    """The table when everybody has heard: those that give way to `peer_id` serve on, as it does.

    Args:
        gone: who was on the move already when `peer_id` said that it is, as it was then.
    """
    seen = []
    for one in announcements:
        is_own = one.peer_id == peer_id
        yields = lot(one.peer_id) < lot(peer_id) and not any(_share(one, other) for other in gone)
        if one.measured.state is State.MOVING and (is_own or yields):
            one = replace(one, measured=replace(one.measured, state=State.SERVING))
        seen.append(one)
    return seen


def movers(announcements: Iterable[Announcement], peer_id: PeerId) -> list[Announcement]:
    """Who else is on the move."""
    moving = (one for one in announcements if one.measured.state is State.MOVING)
    return [one for one in moving if one.peer_id != peer_id]


def orphans(
    announcements: Sequence[Announcement], peer_id: PeerId, now: Target, target: Target
) -> tuple[int, ...]:
    """Blocks of the model served now that would lack a host if `peer_id` went to `target`.

    For a while it serves nothing. Where the swarm is whole that must not break it; where it is
    not, nobody can use what it serves, and only what it gives up for good counts.
    """
    hosts = [one for one in announcements if one.manifest == now.manifest and one.span]
    others = _covered(
        one for one in hosts if one.peer_id != peer_id and one.measured.state is State.SERVING
    )
    n_blocks = max((one.n_blocks for one in hosts), default=now.span.stop)
    is_whole = len(_covered(hosts) | set(_blocks(now.span))) >= n_blocks
    kept = target.span if target.manifest == now.manifest and not is_whole else None
    return tuple(
        block
        for block in _blocks(now.span)
        if block not in others and not (kept and kept.start <= block < kept.stop)
    )


def is_whole(announcements: Iterable[Announcement], manifest: bytes) -> bool:
    """Whether every block of the model has somebody who takes sessions."""
    hosts = [one for one in announcements if one.manifest == manifest]
    n_blocks = max((one.n_blocks for one in hosts), default=1)
    serving = (one for one in hosts if one.measured.state is State.SERVING)
    return len(_covered(serving)) >= n_blocks


def lot(peer_id: PeerId) -> bytes:
    """Who goes first among equals: the same for everybody, and nobody's choice."""
    return sha256(f"move {peer_id}".encode()).digest()


def _share(one: Announcement, other: Announcement) -> bool:
    """Whether they are one peer, or host a block together."""
    if one.peer_id == other.peer_id:
        return True
    if one.manifest != other.manifest or one.span is None or other.span is None:
        return False
    return max(one.span.start, other.span.start) < min(one.span.stop, other.span.stop)


def _covered(hosts: Iterable[Announcement]) -> set[int]:
    return {block for host in hosts if host.span for block in _blocks(host.span)}


def _blocks(span: Span) -> range:
    return range(span.start, span.stop)

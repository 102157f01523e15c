"""Which of its links a node announces: an announcement holds few of them.

In: round trips to everybody whom it measured. Out: as many as fit: the nearest half of them, which
are where routes go, and others spread evenly over the rest. Were only the nearest told, nobody in a
swarm of several regions would ever hear how far one region is from another, and links that nobody
tells are taken for short ones.
"""

from collections.abc import Iterable

from protocol.announcements import MAX_LINKS, Link

NEAREST = MAX_LINKS // 2


def told_links(links: Iterable[Link]) -> tuple[Link, ...]:
    """At most `MAX_LINKS` of them, nearest first."""
    ordered = sorted(links, key=lambda link: (link.rtt_us, link.peer_id))
    if len(ordered) <= MAX_LINKS:
        return tuple(ordered)
    rest = ordered[NEAREST:]
    n_far = MAX_LINKS - NEAREST
    far = [rest[i * (len(rest) - 1) // (n_far - 1)] for i in range(n_far)]
    return (*ordered[:NEAREST], *far)

"""What announced peers can do for a model, as placement and health count it.

In: announcements, all of them claims. Out: hosts for `flow.py`. How far a claim is believed is left
to those who know more: `peer_record.py` for the client that was served.
"""

from collections.abc import Iterable

from protocol.announcements import Announcement
from protocol.measured import State
from scheduler.flow import Host

UNMEASURED_BLOCKS_PER_S = 500.0  # the same 2 ms a block as in `routing.py`
MOST_BLOCKS_PER_S = 1e8  # more is a lie or a mistake, and would drown the others in rounding


def blocks_per_s(announcement: Announcement) -> float:
    """How many blocks per second this peer runs at its best batch size, by its own account."""
    if announcement.span is None:
        return 0.0
    steps = announcement.measured.decode_steps_us
    if not steps and announcement.decode_us:
        steps = ((1, announcement.decode_us),)
    sessions_per_us = max((size / us for size, us in steps), default=0.0)
    if not sessions_per_us:
        return UNMEASURED_BLOCKS_PER_S
    return min(sessions_per_us * len(announcement.span) * 1e6, MOST_BLOCKS_PER_S)


def serving(
    announcements: Iterable[Announcement], manifest: bytes, *, is_stable: bool = True
) -> list[Announcement]:
    """Who serves this model; with `is_stable` only who means to stay as it is."""
    return [
        announcement
        for announcement in announcements
        if announcement.manifest == manifest
        and announcement.span is not None
        and (not is_stable or announcement.measured.state is State.SERVING)
    ]


def hosts(announcements: Iterable[Announcement], manifest: bytes) -> list[Host]:
    """Those that take new sessions, for `max_flow` and `bottleneck`."""
    return [
        Host(announcement.span, blocks_per_s(announcement))
        for announcement in serving(announcements, manifest)
        if announcement.span is not None
    ]

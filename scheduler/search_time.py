"""How long a search for seats goes on, and how long it rests between two looks: rules without I/O.

In: what the request allows, and whether peers that are there have no room. Out: until when, and
pauses in seconds. Who is missing may never come, so that wait is short. Who is there and full will
have room: a session stands in that line as long as its caller lets it, and asks less and less often
(truncated exponential backoff with jitter: RFC 5681's doubling, and Ethernet's, IEEE 802.3, 4.2.3).
"""

import random
import time

from protocol.errors import (
    ManyhandsError,
    OfferBroken,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    VersionMismatch,
)

AGAIN_S = (0.1, 0.25)  # between looks, drawn: clients that failed together do not return together
FINAL = (PeerRefused, VersionMismatch, PeerMisbehaved, OfferBroken)  # no time mends these
FULL_GROWTH, MAX_FULL_S = 1.5, 3.0  # where all are full: longer each time, up to that


class SearchTime:
    """Of one session's searches, from the first one on until a chain stands."""

    def __init__(self, wait_s: float, room_wait_s: float | None, rng: random.Random) -> None:
        """wait_s: for peers to appear. room_wait_s: for room; None: while there is time at all."""
        self._wait_s, self._room_wait_s, self._rng = wait_s, room_wait_s, rng
        self._since: float | None = None
        self._n_full = 0

    def begin(self) -> None:
        """A search begins, or goes on with those who were found in between and said no."""
        self._since = time.monotonic() if self._since is None else self._since

    def over(self) -> None:
        """The chain stands: the next search has time of its own."""
        self._since, self._n_full = None, 0

    def until(self, deadline: float, *, is_full: bool, has_begun: bool) -> float:
        """is_full: all who are missing are there, without room. has_begun: the answer, which is
        not broken off for want of room while it has time."""
        assert self._since is not None
        if not is_full:
            return min(deadline, self._since + self._wait_s)
        if has_begun or self._room_wait_s is None:
            return deadline
        return min(deadline, self._since + max(self._wait_s, self._room_wait_s))

    def rest_s(self, *, is_full: bool) -> float:
        """Until the next look."""
        low_s, high_s = AGAIN_S
        if is_full:
            grown = FULL_GROWTH**self._n_full
            high_s = min(high_s * grown, MAX_FULL_S)
            low_s = min(low_s * grown, high_s / 2)
            self._n_full = min(self._n_full + 1, 32)
        return self._rng.uniform(low_s, high_s)


def passes(why: ManyhandsError) -> bool:
    """Whether a peer that failed like this may serve a moment later (5a.15)."""
    return isinstance(why, PeerError) and not isinstance(why, FINAL)

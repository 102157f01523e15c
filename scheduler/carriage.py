"""What it takes to carry rows from one peer to the next: a prompt's, and each token's own.

In: what peers announce of their bandwidth, how many rows there are and how wide. Out: milliseconds
for any pair, spread over the answer's tokens, as all costs of a route are. A link is as fast as
the slower of its ends: the way up of one, the way down of the other. What nobody measured costs
nothing. Replays carry the same rows.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from protocol.announcements import Announcement
from protocol.errors import UsageError
from protocol.profile import Profile
from protocol.wire import wire_format
from scheduler.wanted import Wanted


def carriage_ms(
    senders: Sequence[Announcement], takers: Sequence[Announcement], wanted: Wanted
) -> NDArray[np.float64]:
    """[from, to], per token of the answer."""
    up = _known(np.array([peer.measured.up_bytes_per_s for peer in senders], np.float64))
    down = _known(np.array([peer.measured.down_bytes_per_s for peer in takers], np.float64))
    rows_per_token = 1 + wanted.n_prompt / wanted.n_answer
    row_bytes = np.array(
        [_row_bytes(peer.profile, wanted.hidden_size) for peer in senders], np.float64
    )
    sent_bytes = rows_per_token * row_bytes
    carried: NDArray[np.float64] = 1000 * sent_bytes[:, None] / np.minimum.outer(up, down)
    return carried


def _known(bytes_per_s: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(bytes_per_s > 0, bytes_per_s, np.inf)


@lru_cache(maxsize=256)
def _row_bytes(profile: str, hidden_size: int) -> int:
    try:
        return wire_format(Profile.parse(profile).wire).row_bytes(hidden_size)
    except UsageError:  # a stranger's word for it that we do not know
        return 0

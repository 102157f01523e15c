"""What of its free room a node does not give to new sessions.

In: how much room there is, how much of it is free, who is here and how long a line of prompts. Out:
bytes that are kept, for answers that lost a hop elsewhere and could go on here: to break one off is
worse than to begin none. Cellular networks keep guard channels for calls that change cells (Hong
and Rappaport 1986). A new session behind a long line gets no room at all: its rows would not run
for long, and what it holds on its other hops would stand idle meanwhile. That an answer has begun
is its client's word, so what is had by it is little, and has to be shown by the commit. Pure.
"""

from collections.abc import Iterable

from node.shares import Holding
from protocol.errors import PeerBusy
from protocol.messages import Commit, Reserve

KEPT = 0.125  # of the room
LINE_S = 10.0  # of prompts


def kept_room(
    budget_bytes: int, free_bytes: int, n_sessions: int, line_s: float, cost_bytes: int = 0
) -> int:
    """Of `free_bytes`. line_s: 0 where one node runs the whole model: nobody else waits for it.
    cost_bytes: of who asks; beside whoever needs nearly all room, nothing could be kept ever."""
    if not n_sessions:
        return 0
    eighth = round(KEPT * budget_bytes)
    if cost_bytes > budget_bytes - eighth:
        eighth = 0
    return max(0, min(free_bytes if line_s > LINE_S else eighth, free_bytes))


def longest_wait_s(reserve: Reserve, is_whole: bool, *, is_new: bool) -> float:
    """Behind how long a line of prompts a session may begin, or go on."""
    budget_s = reserve.budget_ms / 1000
    return budget_s if is_whole or not is_new else min(budget_s, LINE_S)


def goes_on(reserve: Reserve) -> bool:
    """Whether its client says that its answer has begun: it lost a hop, or one hands it over."""
    return reserve.has_begun or bool(reserve.handover.peer)


def may_claim(client: str, n_bytes: int, budget_bytes: int, claims: Iterable[Holding]) -> bool:
    """Whether the client is believed once more. claims: what is held here by such words. Of one
    client they come to as much as is kept, and of all clients so many are not committed to."""
    held = tuple(claims)
    own_bytes = sum(each.n_bytes for each in held if each.client == client)
    open_bytes = sum(each.n_bytes for each in held if not each.is_committed)
    return max(own_bytes, open_bytes) + n_bytes <= KEPT * budget_bytes


def require_begun(commit: Commit, reserve: Reserve, n_taken: int) -> None:
    """n_taken: rows that a hop which leaves has handed over.

    Raises:
        PeerBusy: an answer that had begun has a token, or its rows; this one has neither.
    """
    n_before = 0 if reserve.client_ends else commit.n_prompt
    if commit.n <= n_before and not n_taken:
        reason = "room is left for answers that have begun, and this one has no token yet"
        raise PeerBusy("", reason, hint="try again shortly")

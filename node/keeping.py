"""What of its free room a node does not give to new sessions.

In: how much room there is, how much of it is free, who is here and how long a line of prompts. Out:
bytes that are kept, for answers that lost a hop elsewhere and could go on here: to break one off is
worse than to begin none. Cellular networks keep guard channels for calls that change cells (Hong
and Rappaport 1986). A new session behind a long line gets no room at all: its rows would not run
for long, and what it holds on its other hops would stand idle meanwhile. Pure.
"""

from protocol.messages import Reserve

KEPT = 0.125  # of the room
LINE_S = 10.0  # of prompts


def kept_room(budget_bytes: int, free_bytes: int, n_sessions: int, line_s: float) -> int:
    """Of `free_bytes`. line_s: 0 where one node runs the whole model: nobody else waits for it."""
    if not n_sessions:
        return 0
    kept = free_bytes if line_s > LINE_S else round(KEPT * budget_bytes)
    return max(0, min(kept, free_bytes))


def longest_wait_s(reserve: Reserve, is_whole: bool) -> float:
    """Behind how long a line of prompts a session may begin, or go on."""
    budget_s = reserve.budget_ms / 1000
    return budget_s if is_whole or goes_on(reserve) else min(budget_s, LINE_S)


def goes_on(reserve: Reserve) -> bool:
    """Whether its answer has begun: it lost a hop, or is handed over by one."""
    return reserve.has_begun or bool(reserve.handover.peer)

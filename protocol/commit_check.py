"""Whether a commit fits what its hop has told (DESIGN 5a.5).

In: a commit, the reserve it follows, how far the hop is. Out: nothing, or the rule that was broken.
"""

from protocol.messages import Commit, Reserve, require


def check_commit(commit: Commit, reserve: Reserve, *, length: int, journal_from: int) -> None:
    """Raises PeerMisbehaved: the client asks for what this hop has not."""
    require(commit.length <= length, "committed to rows this hop has not run")
    require(commit.n <= reserve.capacity, "committed beyond the reserved room")
    if not reserve.client_ends:  # the last row is run again: its token may be lost
        require(max(commit.length, commit.next_length) < commit.n, "nothing is left to run")
        require(commit.n_prompt > 0, "a prompt has ids")
    if reserve.is_first:
        require(bool(commit.ids), "the first hop needs the ids")
    if not reserve.is_last:
        held_from = min(journal_from, commit.length)
        require(held_from <= commit.next_length, "the successor lacks rows this journal lost")

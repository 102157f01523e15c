"""Whom a client stops waiting for: hops that fell silent, and those that keep others waiting.

In: the hops of a chain, and `now` in seconds. Out: the hops to go on without, all of them at once:
a power cut takes a room full of hops, and to notice them one after the other would take as many
times as long. Pure; `chain_session.py` loses them.

A machine that was too busy to listen, or slept, has heard nobody: that time counts for nothing.

A hop that has reserved gives its room back after RESERVE_S. So nobody who answers late may hold up
a new hop for that long: it would go, and bear the blame of another.
"""

from collections.abc import Sequence
from itertools import pairwise

from protocol.chain_hops import Hop
from protocol.patience import RESERVE_S

SILENCE_S = 3.0  # a hop reports every 0.25 s; this long without a word is a loss
AGREE_S = 5.0  # to answer a reserve or a raise
DEAF_S = 1.0  # without a tick, of which there are ten a second: we did not hear what was said
HOLD_S = RESERVE_S - 0.5  # the same, once another hop has reserved: it is told before it gives up


class Hearing:
    """Whether a client was there to hear, by its own ticks."""

    __slots__ = ("_ticked_at",)

    def __init__(self) -> None:
        self._ticked_at: float | None = None

    def deaf_s(self, now: float) -> float:
        """For how long it was not, until this tick."""
        passed_s = 0.0 if self._ticked_at is None else now - self._ticked_at
        self._ticked_at = now
        return passed_s if passed_s >= DEAF_S else 0.0


def excuse(hops: Sequence[Hop], deaf_s: float, now: float) -> None:
    """While nobody listened, nobody was silent."""
    for hop in hops:
        hop.heard_at = min(now, hop.heard_at + deaf_s)


def silent(hops: Sequence[Hop], now: float) -> list[Hop]:
    """Those of a running chain that say nothing any more."""
    return [hop for hop in hops if now - hop.heard_at >= SILENCE_S]


def late(hops: Sequence[Hop], epoch: int, since: float, now: float) -> list[Hop]:
    """Those that have not agreed to `epoch`, about which they were asked at `since`.

    A survivor that was silent already when it was asked has no time left but what remained.
    """
    waiting = [hop for hop in hops if hop.agreed_epoch != epoch]
    held = [hop.reserved_at for hop in hops if hop.agreed_epoch == epoch and not hop.committed]
    if now - since >= AGREE_S or now - min(held, default=now) >= HOLD_S:
        return waiting
    return silent([hop for hop in waiting if hop.committed], now)


def blamed(hops: Sequence[Hop]) -> str:
    """Of a chain that stands still: the hop with in > out, or else the far end of the link with
    out > next in (5a.10)."""
    for hop in hops:
        if hop.rows_in > hop.rows_out:
            return hop.peer
    for hop, successor in pairwise(hops):
        if hop.rows_out > successor.rows_in:
            return successor.peer
    return hops[-1].peer

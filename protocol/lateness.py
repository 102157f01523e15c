"""Whom a client stops waiting for: hops that fell silent, and those that keep others waiting.

In: the hops of a chain, and `now` in seconds. Out: the hops to go on without, all of them at once:
a power cut takes a room full of hops, and to notice them one after the other would take as many
times as long. Pure; `chain_session.py` loses them.

A hop that has reserved gives its room back after RESERVE_S. So nobody who answers late may hold up
a new hop for that long: it would go, and bear the blame of another.
"""

from collections.abc import Sequence

from protocol.chain_hops import Hop
from protocol.patience import RESERVE_S

SILENCE_S = 3.0  # a hop reports every 0.25 s; this long without a word is a loss
AGREE_S = 5.0  # to answer a reserve or a raise
HOLD_S = RESERVE_S - 0.5  # the same, once another hop has reserved: it is told before it gives up


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

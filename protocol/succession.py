"""A hop goes, and others take its place while the chain still runs (DESIGN 5a.19).

In: which hop goes, who was found, what they say. Out: whom to ask, and when all are ready. Nothing
is disturbed until then: the heirs reserve in an epoch of their own and take over what the leaver
has run; then that epoch becomes the chain's, as after a loss, and journals fill what is left. Any
other disturbance meanwhile makes an epoch above theirs: they are given up, and sought again later.
"""

from collections.abc import Mapping, Sequence

from protocol.chain_actions import ChainAction, FindHeirs, Release, Seat, SendReserve
from protocol.chain_hops import Hop
from protocol.errors import ManyhandsError, PeerBusy
from protocol.messages import Reserved

HEIRS_S = 60.0  # to take over what they can
MOST_TRIES = 5  # to find heirs for one leaver, before it is left alone for a while
AGAIN_S, LONGEST_AGAIN_S = 1.0, 8.0  # after nobody was found; doubled each time


class Succession:
    """Of one leaver at a time."""

    __slots__ = ("_since", "epoch", "heirs", "leaver")

    def __init__(self) -> None:
        self.leaver: Hop | None = None
        self.heirs: list[Hop] = []
        self.epoch = -1  # in which they would serve
        self._since = 0.0

    def heir(self, peer: str) -> Hop | None:
        return next((heir for heir in self.heirs if heir.peer == peer), None)

    def takes_over(self, peer: str) -> bool:
        """Whether it was asked to have what the leaver has run."""
        heir = self.heir(peer)
        return heir is not None and heir.is_heir

    def seek(
        self,
        hops: Sequence[Hop],
        avoid: Mapping[str, ManyhandsError],
        epoch: int,
        n_rows: int,
        now: float,
    ) -> list[ChainAction]:
        """Have somebody found for the next hop that goes, to serve in `epoch`, if there is one."""
        leaver = next((hop for hop in hops if hop.leaving and hop.seek_at <= now), None)
        if self.leaver is not None or leaver is None or leaver.leaving is None:
            return []
        if leaver.tries >= MOST_TRIES:
            _rest(leaver, now)
            return []
        self.leaver, self.epoch, self._since = leaver, epoch, now
        leaver.tries += 1
        others = tuple(hop.seat for hop in hops if hop is not leaver)
        avoid = {**avoid, leaver.peer: PeerBusy(leaver.peer, "it is leaving")}
        left_s = max(0.0, leaver.leaves_at - now)
        return [FindHeirs(epoch, leaver.seat, leaver.leaving, left_s, n_rows, others, avoid)]

    def found(
        self, epoch: int, seats: Sequence[Seat], now: float, *, hand_over: bool
    ) -> list[ChainAction]:
        """Who takes the leaver's blocks; nobody: it serves on, and somebody may come."""
        if self.leaver is None or self.epoch != epoch or self.heirs:
            return []
        if not seats:
            _rest(self.leaver, now)
            return self.give_up()
        self.heirs = [Hop(seat, is_heir=hand_over) for seat in seats]
        leaver = self.leaver.seat if hand_over else None
        return [SendReserve(seat, epoch, leaver) for seat in seats]

    def reserved(self, heir: Hop, message: Reserved) -> bool:
        """Whether with this one all heirs have taken over what they can."""
        if message.epoch == self.epoch:
            heir.length, heir.journal_from = message.prefix_length, message.journal_from
            heir.agreed_epoch = self.epoch
        return all(one.agreed_epoch == self.epoch for one in self.heirs)

    def is_late(self, now: float) -> bool:
        return self.leaver is not None and now - self._since >= HEIRS_S

    def give_up(self) -> list[ChainAction]:
        """What the heirs took over is dropped."""
        heirs, self.heirs, self.leaver = self.heirs, [], None
        return [Release(heir.peer) for heir in heirs]


def forgiven(avoid: Mapping[str, ManyhandsError]) -> dict[str, ManyhandsError]:
    """Without those who had no room: they may have some when they are asked next."""
    return {peer: why for peer, why in avoid.items() if not isinstance(why, PeerBusy)}


def _rest(leaver: Hop, now: float) -> None:
    """Nobody takes its place for the moment."""
    leaver.seek_at = now + min(AGAIN_S * 2**leaver.rests, LONGEST_AGAIN_S)
    leaver.rests, leaver.tries = min(leaver.rests + 1, 10), 0

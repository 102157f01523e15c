"""Whom we do not hear for a while, since when and why: one peer, by its proven identity.

In: offences, as they are seen, and the time. Out: bans that end by themselves. One offence may be
an accident, so each peer has some to spend, which come back with time; who spends them all is
banned, and longer each time it comes to that again. Addresses are never banned: behind one there
may be many people, and identities are what connections prove. Pure; whoever keeps bans across
restarts is `node/barring.py`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocol.identity import PeerId
from protocol.rate_limits import Limit, RateLimit

OFFENCES = Limit(per_s=1 / 60, burst=20)  # of one peer
FIRST_S, GROWTH, LONGEST_S = 600.0, 4.0, 86_400.0
FORGIVEN_S = 86_400.0  # after a ban has ended: the next one is a first one again
MAX_BANS = 1_000
MAX_WHY_CHARS = 200
MAX_UNTIL_MS = 253_402_300_799_000  # the last day that a calendar of four digits has


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """`number`: which one it is of this peer, from 1."""

    peer_id: PeerId
    why: str
    until_ms: int  # wall clock: it outlives a restart
    number: int = 1

    def __post_init__(self) -> None:
        is_timely = 0 <= self.until_ms <= MAX_UNTIL_MS
        if self.number < 1 or not is_timely or not self.why.isprintable():
            raise ValueError("a ban has a reason, a number and an end")


class Bans:
    """See the module. One of a process's; on its event loop's thread, but `of` from any."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._offences = RateLimit(OFFENCES)
        self._bans: dict[PeerId, Ban] = {}  # also those that ended lately; oldest first
        self._watching: list[Callable[[], None]] = []

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed` is called when a peer was banned, or heard again before its time."""
        self._watching.append(changed)

    def of(self, peer_id: PeerId) -> Ban | None:
        """The ban that holds for a peer now."""
        ban = self._bans.get(peer_id)
        return ban if ban is not None and ban.until_ms > self._now_ms() else None

    def now(self) -> tuple[Ban, ...]:
        """All that hold, those that end first at first."""
        now_ms = self._now_ms()
        held = (ban for ban in tuple(self._bans.values()) if ban.until_ms > now_ms)
        return tuple(sorted(held, key=lambda ban: (ban.until_ms, ban.peer_id)))

    def offend(self, peer_id: PeerId, why: str, weight: float = 1.0) -> Ban | None:
        """Hold something against a peer; its ban, if that was one too many."""
        if self.of(peer_id) is not None:
            return None  # what was under way when it was banned
        took = self._offences.take(peer_id, weight, self._now_ms() / 1000)
        if took or peer_id not in self._offences:  # in a crowd nobody pays for what others did
            return None
        return self._ban(peer_id, why)

    def lift(self, peer_id: PeerId) -> bool:
        """Hear a peer again, and hold nothing against it; whether it was banned."""
        was_banned = self.of(peer_id) is not None
        self._bans.pop(peer_id, None)
        self._offences.forget(peer_id)
        if was_banned:
            self._tell()
        return was_banned

    def restore(self, bans: Iterable[Ban]) -> None:
        """Those of an earlier process."""
        self._bans |= {ban.peer_id: ban for ban in bans}
        self._tidy()

    def _ban(self, peer_id: PeerId, why: str) -> Ban:
        now_ms, former = self._now_ms(), self._bans.pop(peer_id, None)
        number = 1
        if former is not None and former.until_ms + FORGIVEN_S * 1000 > now_ms:
            number = former.number + 1
        lasts_s = min(LONGEST_S, FIRST_S * GROWTH ** min(number - 1, 10))
        plain = "".join(c if c.isprintable() else " " for c in why[:MAX_WHY_CHARS])
        ban = Ban(
            peer_id=peer_id, why=plain, until_ms=now_ms + round(lasts_s * 1000), number=number
        )
        self._bans[peer_id] = ban
        self._tidy()
        self._tell()
        return ban

    def _tidy(self) -> None:
        now_ms = self._now_ms()
        for ban in tuple(self._bans.values()):
            if ban.until_ms + FORGIVEN_S * 1000 <= now_ms:
                del self._bans[ban.peer_id]
        while len(self._bans) > MAX_BANS:
            del self._bans[next(iter(self._bans))]

    def _tell(self) -> None:
        for changed in self._watching:
            changed()

"""When a machine that somebody else uses, too, serves: the rules. Pure: no clock, no sensor.

In: what its owner wishes, the time, what sensors say. Out: a `Pause` with its reason and, where it
is known, its end; or None. Hours are those of the clock on the wall: the hour that a summer time
skips does not come, the one that it repeats comes twice, and ends are looked for minute by minute
in real time, so that both are right. What is not known of a machine pauses it only where its owner
asked to be left alone.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Self

DAY_MIN = 24 * 60
BY_OWNER = "by its owner"  # why a node pauses that its owner paused by hand
LOOK_AHEAD_S = 50 * 3600.0  # over any change of the clock
SETTLE_S = 60.0  # on mains again for that long: plugs wobble
_RANGE = re.compile(r"(\d{1,2})(?::(\d{2}))?-(\d{1,2})(?::(\d{2}))?")

LocalMinute = Callable[[float], int]  # seconds since the epoch: minutes since the local midnight


def local_minute(now_s: float) -> int:
    """By this machine's time zone."""
    local = time.localtime(now_s)
    return local.tm_hour * 60 + local.tm_min


@dataclass(frozen=True, slots=True)
class Hours:
    """Ranges [start, stop) in minutes since midnight; where stop is not above start, over it."""

    ranges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for start, stop in self.ranges:
            if not (0 <= start < DAY_MIN and 0 <= stop <= DAY_MIN and start != stop):
                raise ValueError("hours lie between 0:00 and 24:00, and have an end")
        if not self.ranges:
            raise ValueError("no hours at all")

    @classmethod
    def parse(cls, text: str) -> Self:
        """`22-7`, `12:30-13:45,22-7`, `0-24`.

        Raises:
            ValueError: it is none.
        """
        ranges = []
        for part in text.split(","):
            matched = _RANGE.fullmatch(part.strip())
            if matched is None:
                raise ValueError(f"{part.strip()[:40]!r} is no range of hours")
            hours = [int(number or 0) for number in matched.groups()]
            if hours[1] > 59 or hours[3] > 59:
                raise ValueError(f"{part.strip()} has more than 59 minutes")
            ranges.append((hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]))
        return cls(tuple(ranges))

    def __str__(self) -> str:
        return ",".join(f"{_clock(start)}-{_clock(stop)}" for start, stop in self.ranges)

    def includes(self, minute: int) -> bool:
        return any(
            start <= minute < stop if start < stop else minute >= start or minute < stop
            for start, stop in self.ranges
        )

    def begin_s(self, now_s: float, minute_of: LocalMinute) -> float | None:
        """When the next of them begin; None: not within two days."""
        at_s = now_s - now_s % 60
        while at_s < now_s + LOOK_AHEAD_S:
            at_s += 60
            if self.includes(minute_of(at_s)):
                return at_s
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What an owner asked for; the defaults ask for nothing."""

    hours: Hours | None = None
    pauses_on_battery: bool = False
    when_idle_s: float | None = None  # serve when nobody has used the machine for that long

    def __bool__(self) -> bool:
        return self.hours is not None or self.pauses_on_battery or self.when_idle_s is not None


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensed:
    """What this machine says of itself; None: it does not say."""

    on_battery: bool | None = None
    idle_s: float | None = None  # since somebody used it


@dataclass(frozen=True, slots=True)
class Pause:
    """back_s: when it ends, in seconds since the epoch; None: nobody knows. hands_over: open
    sessions are asked to go on elsewhere; else they end here."""

    why: str
    back_s: float | None = None
    hands_over: bool = True

    def and_also(self, other: "Pause") -> "Pause":
        """Both at once: it ends when the later one does."""
        ends = (self.back_s, other.back_s)
        back_s = None if None in ends else max(end for end in ends if end is not None)
        hands_over = self.hands_over or other.hands_over
        return Pause(f"{self.why} and {other.why}", back_s, hands_over)


class Manners:
    """One node's. `now_s` is the time of day, which may jump; nothing is counted by it."""

    def __init__(self, wishes: Wishes, *, minute_of: LocalMinute = local_minute) -> None:
        self.wishes, self._minute_of = wishes, minute_of
        self._mains_since_s: float | None = None  # by the steady clock; None: all the time
        self._was_on_battery = False

    def look(self, sensed: Sensed, *, now_s: float, steady_s: float) -> Pause | None:
        """Whether to serve now."""
        found = [
            pause
            for pause in (
                self._by_hours(now_s),
                self._by_battery(sensed, now_s, steady_s),
                self._by_use(sensed, now_s),
            )
            if pause is not None
        ]
        return reduce(Pause.and_also, found) if found else None

    def _by_hours(self, now_s: float) -> Pause | None:
        hours = self.wishes.hours
        if hours is None or hours.includes(self._minute_of(now_s)):
            return None
        return Pause(f"outside its hours, {hours}", hours.begin_s(now_s, self._minute_of))

    def _by_battery(self, sensed: Sensed, now_s: float, steady_s: float) -> Pause | None:
        if not self.wishes.pauses_on_battery:
            return None
        if sensed.on_battery:
            self._was_on_battery, self._mains_since_s = True, None
            return Pause("on battery")
        if not self._was_on_battery:
            return None
        if self._mains_since_s is None:
            self._mains_since_s = steady_s
        left_s = SETTLE_S - (steady_s - self._mains_since_s)
        if left_s > 0:
            return Pause("on mains for moments only", now_s + left_s)
        self._was_on_battery = False
        return None

    def _by_use(self, sensed: Sensed, now_s: float) -> Pause | None:
        wanted_s = self.wishes.when_idle_s
        if wanted_s is None:
            return None
        if sensed.idle_s is None:
            return Pause("nobody can tell whether it is in use")
        if sensed.idle_s >= wanted_s:
            return None
        return Pause("in use", now_s + wanted_s - sensed.idle_s)


def _clock(minute: int) -> str:
    hour, rest = divmod(minute, 60)
    return f"{hour}:{rest:02}" if rest else str(hour)

"""When a machine serves: by hours on the wall, by its battery, by its owner's hands."""

import os
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.manners import DAY_MIN, SETTLE_S, Hours, Manners, Sensed, Wishes
from node.sensors import (
    NEVER_S,
    idle_s,
    macos_idle_s,
    on_battery,
    sense,
    session_idle_s,
    x11_idle_s,
)

BERLIN = ZoneInfo("Europe/Berlin")
RANGES = st.tuples(st.integers(0, DAY_MIN - 1), st.integers(0, DAY_MIN)).filter(
    lambda pair: pair[0] != pair[1]
)


def in_berlin(now_s: float) -> int:
    local = datetime.fromtimestamp(now_s, BERLIN)
    return local.hour * 60 + local.minute


def at(text: str, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def by_hours(text: str) -> Manners:
    return Manners(Wishes(hours=Hours.parse(text)), minute_of=in_berlin)


def look(manners: Manners, sensed: Sensed = Sensed(), *, now_s: float = 0.0, steady_s: float = 0.0):  # noqa: B008 (a value)
    return manners.look(sensed, now_s=now_s, steady_s=steady_s)


@pytest.mark.parametrize(
    ("text", "told", "inside", "outside"),
    [
        ("22-7", "22-7", (22 * 60, 0, 7 * 60 - 1), (7 * 60, 12 * 60, 22 * 60 - 1)),
        ("0-24", "0-24", (0, DAY_MIN - 1), ()),
        ("12:30-13:45,22-7", "12:30-13:45,22-7", (750, 824, 5), (749, 825)),
        ("23:59-0", "23:59-0", (DAY_MIN - 1,), (0, DAY_MIN - 2)),
    ],
)
def test_hours_are_ranges_of_the_day_also_over_midnight(text, told, inside, outside):
    hours = Hours.parse(text)

    assert str(hours) == told
    assert all(map(hours.includes, inside))
    assert not any(map(hours.includes, outside))


@pytest.mark.parametrize(
    "text", ["", "22", "7-7", "25-3", "22-7,", "a-b", "1:60-2", "24-3", "-1-2"]
)
def test_what_is_no_hours_is_refused(text):
    with pytest.raises(ValueError, match=r"hours|range|minutes"):
        Hours.parse(text)


@given(ranges=st.lists(RANGES, min_size=1, max_size=4), minute=st.integers(0, DAY_MIN - 1))
def test_hours_survive_their_own_words_and_begin_where_they_say(ranges, minute):
    hours = Hours(tuple(ranges))

    again = Hours.parse(str(hours))
    assert again.includes(minute) == hours.includes(minute)
    begins = hours.begin_s(minute * 60.0, lambda now_s: int(now_s // 60) % DAY_MIN)
    assert begins is not None
    assert hours.includes(int(begins // 60) % DAY_MIN)
    waited = [hours.includes(at % DAY_MIN) for at in range(minute + 1, int(begins // 60))]
    assert not any(waited)


def test_a_pause_says_when_it_ends_across_midnight():
    found = look(by_hours("22-7"), now_s=at("2026-06-10 09:15"))

    assert found is not None
    assert found.why == "outside its hours, 22-7"
    assert found.back_s == at("2026-06-10 22:00")
    assert look(by_hours("22-7"), now_s=at("2026-06-10 23:30")) is None


def test_the_night_that_loses_an_hour_ends_an_hour_sooner_and_no_hour_is_missed():
    """29 March 2026 in Berlin: 2:00 is 3:00."""
    night, skipped = by_hours("22-7"), by_hours("2-3")

    assert look(night, now_s=at("2026-03-29 06:59")) is None
    assert look(night, now_s=at("2026-03-29 07:00")) is not None
    assert at("2026-03-29 07:00") - at("2026-03-28 22:00") == 8 * 3600
    found = look(skipped, now_s=at("2026-03-28 23:00"))
    assert found is not None
    assert found.back_s == at("2026-03-30 02:00")  # that day has no such hour


def test_the_night_that_repeats_an_hour_serves_in_both():
    """25 October 2026 in Berlin: 3:00 is 2:00 again."""
    manners = by_hours("2-3")
    first, second = at("2026-10-25 02:30"), at("2026-10-25 02:30", fold=1)

    assert second - first == 3600
    assert look(manners, now_s=first) is None
    assert look(manners, now_s=second) is None
    found = look(by_hours("3-4"), now_s=first)
    assert found is not None
    assert found.back_s == at("2026-10-25 03:00")
    assert found.back_s - first == 5400


def test_on_battery_it_pauses_and_comes_back_when_mains_last():
    manners = Manners(Wishes(pauses_on_battery=True))
    mains, battery = Sensed(on_battery=False), Sensed(on_battery=True)

    assert look(manners, mains) is None
    on_battery = look(manners, battery, steady_s=10)
    wobble = look(manners, mains, now_s=1000, steady_s=20)
    again = look(manners, battery, steady_s=30)
    moments = look(manners, mains, now_s=1000, steady_s=40)

    assert (on_battery.why, on_battery.back_s) == ("on battery", None)
    assert wobble.back_s == 1000 + SETTLE_S
    assert again.why == "on battery"
    assert moments is not None
    assert look(manners, mains, steady_s=40 + SETTLE_S) is None


def test_a_machine_without_a_battery_serves_and_one_asked_nothing_does_too():
    assert look(Manners(Wishes(pauses_on_battery=True)), Sensed(on_battery=None)) is None
    assert look(Manners(Wishes()), Sensed(on_battery=True, idle_s=0.0)) is None
    assert not Wishes()


def test_in_use_it_pauses_until_nobody_has_used_it_for_so_long():
    manners = Manners(Wishes(when_idle_s=600))

    used = look(manners, Sensed(idle_s=60), now_s=1000)
    unknown = look(manners, Sensed(idle_s=None))

    assert (used.why, used.back_s) == ("in use", 1540)
    assert look(manners, Sensed(idle_s=600)) is None
    assert unknown.back_s is None


def test_of_several_reasons_all_are_told_and_the_last_one_ends_the_pause():
    wishes = Wishes(hours=Hours.parse("22-7"), when_idle_s=600, pauses_on_battery=True)
    noon = at("2026-06-10 12:00")

    two = look(Manners(wishes, minute_of=in_berlin), Sensed(idle_s=0), now_s=noon)
    three = look(
        Manners(wishes, minute_of=in_berlin), Sensed(idle_s=0, on_battery=True), now_s=noon
    )

    assert two.why == "outside its hours, 22-7 and in use"
    assert two.back_s == at("2026-06-10 22:00")
    assert three.back_s is None


# Sensors: what systems print, and what this one says


def test_what_macos_prints_is_read():
    assert macos_idle_s('  | "HIDIdleTime" = 12500000000\n') == 12.5
    assert macos_idle_s("nothing") is None


def test_what_logind_knows_is_read_and_a_desktop_that_never_told_is_not_known():
    told = {"IdleHint": "yes", "IdleSinceHint": str(1000 * 10**6)}

    assert session_idle_s(told, 1090.0) == 90.0
    assert session_idle_s({**told, "IdleHint": "no"}, 1090.0) == 0.0
    assert session_idle_s({"IdleHint": "no", "IdleSinceHint": "0"}, 1090.0) is None
    assert session_idle_s({}, 1090.0) is None


def test_a_display_that_is_not_there_says_nothing():
    assert x11_idle_s("") is None
    assert x11_idle_s(":4711") is None


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_this_machine_answers_or_says_that_it_does_not_know():
    known = idle_s({name: value for name, value in os.environ.items() if name != "DISPLAY"})

    assert known is None or 0 <= known <= NEVER_S
    assert on_battery() in (True, False, None)
    assert sense(Wishes(), {}) == Sensed()

"""What one peer may take, and for how long it is not heard: rules, with clocks as arguments."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bans import (
    FIRST_S,
    FORGIVEN_S,
    LONGEST_S,
    MAX_BANS,
    MAX_UNTIL_MS,
    OFFENCES,
    Ban,
    Bans,
)
from protocol.errors import PeerBusy, PeerMisbehaved, PeerRefused
from protocol.guard import ALL, MAX_STREAMS, OF_METHOD, Guard, banned
from protocol.identity import PeerId
from protocol.rate_limits import MAX_SENDERS
from tests.announcing import NOW_MS, peer_of

BAD, GOOD, US = peer_of(1), peer_of(2), peer_of(3)


class Clock:
    ms = NOW_MS

    def __call__(self) -> int:
        return self.ms

    def seconds(self) -> float:
        return self.ms / 1000

    def pass_s(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bans(clock: Clock) -> Bans:
    return Bans(clock)


@pytest.fixture
def guard(clock: Clock) -> Guard:
    return Guard(now_s=clock.seconds, now_ms=clock)


def offend(bans: Bans, peer: PeerId = BAD, times: int = int(OFFENCES.burst) + 1) -> None:
    for _ in range(times):
        bans.offend(peer, "it sends junk")


def ask(guard: Guard, peer: PeerId = BAD, method: str = "control", n_streams: int = 0):
    return guard.refusal(peer, method, n_streams=n_streams, listener=US)


def test_some_offences_are_accidents_and_many_are_not(bans: Bans):
    offend(bans, times=int(OFFENCES.burst))
    assert bans.of(BAD) is None
    offend(bans, times=1)

    ban = bans.of(BAD)
    assert ban is not None
    assert (ban.why, ban.until_ms, ban.number) == ("it sends junk", NOW_MS + FIRST_S * 1000, 1)
    assert bans.of(GOOD) is None


def test_a_ban_ends_by_itself_and_the_next_one_lasts_longer(bans: Bans, clock: Clock):
    lasted = []
    for _ in range(6):
        offend(bans)
        ban = bans.of(BAD)
        assert ban is not None
        lasted.append((ban.until_ms - clock.ms) / 1000)
        clock.ms = ban.until_ms
        assert bans.of(BAD) is None

    assert lasted == [600, 2400, 9600, 38400, LONGEST_S, LONGEST_S]


def test_who_behaves_for_a_day_begins_anew(bans: Bans, clock: Clock):
    offend(bans)
    clock.pass_s(FIRST_S + FORGIVEN_S)
    offend(bans)

    assert [ban.number for ban in bans.now()] == [1]


def test_a_lifted_ban_holds_nothing_against_anybody(bans: Bans):
    told: list[int] = []
    bans.watch(lambda: told.append(len(bans.now())))
    offend(bans)

    assert bans.lift(BAD)
    assert not bans.lift(BAD)
    offend(bans, times=int(OFFENCES.burst))

    assert bans.of(BAD) is None
    assert told == [1, 0]


def test_bans_survive_a_restart_with_what_is_left_of_them(bans: Bans, clock: Clock):
    offend(bans)
    later = Bans(clock)
    later.restore(bans.now())

    assert later.of(BAD) == bans.of(BAD)
    clock.pass_s(FIRST_S)
    assert later.of(BAD) is None


def test_a_crowd_of_offenders_takes_bounded_memory_and_bans_no_bystander(bans: Bans):
    for n in range(MAX_SENDERS + 500):
        offend(bans, PeerId(f"sybil-{n}"), times=2)
    offend(bans, GOOD, times=1)  # one accident, when nobody has a bucket left
    offend(bans, GOOD, times=1)

    assert bans.of(GOOD) is None
    for n in range(MAX_BANS + 50):
        bans.restore([Ban(peer_id=PeerId(f"x{n}"), why="", until_ms=NOW_MS + 1000)])
    assert len(bans.now()) == MAX_BANS


@given(st.text(max_size=400))
def test_a_reason_is_fit_for_a_terminal(why: str):
    bans = Bans(Clock())
    for _ in range(int(OFFENCES.burst) + 1):
        bans.offend(BAD, why)

    (ban,) = bans.now()
    assert ban.why.isprintable()
    assert len(ban.why) <= 200


def test_nobody_honest_meets_a_budget(guard: Guard, clock: Clock):
    for _ in range(120):
        clock.pass_s(1)
        for _ in range(100):  # a gateway that begins a hundred sessions a second
            assert ask(guard, GOOD, "load") is None
            assert ask(guard, GOOD, "control", n_streams=300) is None
        assert ask(guard, GOOD, "status") is None


@pytest.mark.parametrize("method", ["status", "owing"])
def test_calls_beyond_the_budget_are_told_to_wait_and_others_notice_nothing(
    guard: Guard, clock: Clock, method: str
):
    refused = [ask(guard, method=method) for _ in range(int(OF_METHOD[method].calls.burst) + 5)]

    assert [type(each) for each in refused[-5:]] == [PeerBusy] * 5
    assert not any(refused[:-5])
    assert ask(guard, GOOD, method) is None
    assert ask(guard, BAD, "control") is None
    clock.pass_s(1)
    assert ask(guard, BAD, method) is None


def test_a_batch_of_commands_that_ask_what_is_owed_is_refused_and_not_banned(
    guard: Guard, clock: Clock
):
    refused = []
    for _ in range(200):
        refused += [ask(guard, method="owing") for _ in range(5)]
        clock.pass_s(1)

    assert {type(each) for each in refused} == {type(None), PeerBusy}
    assert ask(guard) is None
    while not isinstance(ask(guard, method="owing"), PeerRefused):  # a flood still is one
        assert guard.refused["calls"] < 20_000


def test_who_floods_on_is_banned_and_hears_until_when(guard: Guard):
    for _ in range(int(ALL.calls.burst) + 500):
        error = ask(guard)

    assert isinstance(error, PeerRefused)
    assert "until" in error.reason
    assert guard.refused["banned"] > 0
    assert ask(guard, GOOD) is None


def test_streams_of_one_peer_are_counted(guard: Guard):
    assert ask(guard, n_streams=MAX_STREAMS - 1) is None
    assert isinstance(ask(guard, n_streams=MAX_STREAMS), PeerBusy)


def test_what_others_did_is_held_against_nobody(guard: Guard):
    about_another = PeerMisbehaved(GOOD, "it sent rows that cannot be run")
    for _ in range(100):
        guard.failed(BAD, about_another)
        guard.failed(BAD, PeerBusy("", "no room"))
    assert ask(guard) is None

    for _ in range(100):
        guard.failed(BAD, PeerMisbehaved("", "malformed"))
    assert isinstance(ask(guard), PeerRefused)


def test_bytes_of_answers_are_charged(guard: Guard):
    while ask(guard, method="file") is None:
        guard.answered(BAD, "file", 64 << 20)

    assert guard.refused["calls"] == 1
    assert ask(guard, GOOD, "file") is None


def test_who_is_banned_hears_why_and_until_when_as_people_write_it():
    for until_ms, written in ((0, "1970-01-01 00:00:00"), (MAX_UNTIL_MS, "9999-12-31 23:59:59")):
        refusal = banned(Ban(peer_id=BAD, why="it sends junk", until_ms=until_ms), US)

        assert refusal.reason == f"it does not hear you until {written} UTC: it sends junk"
        assert refusal.hint.endswith(f"manyhands peers unban {BAD}")


def test_a_ban_that_is_none_cannot_be_made():
    good = Ban(peer_id=BAD, why="x", until_ms=1)
    for wrong in ({"number": 0}, {"until_ms": -1}, {"until_ms": 10**18}, {"why": "\x1b"}):
        with pytest.raises(ValueError, match="a ban has"):
            replace(good, **wrong)  # type: ignore[arg-type]

"""Peers are held to what they said that decided over their traffic, whatever else they say."""

from dataclasses import replace

import pytest

from protocol.chain_actions import Seat
from protocol.measured import Measured
from scheduler.peer_record import PeerRecords
from scheduler.route_cost import shared_us
from scheduler.route_watch import RouteWatch
from scheduler.wanted import Goal, Wanted
from tests.announcing import MANIFEST, announce, peer_of

NOW_S = 1_000_000.0
CURVE = ((1, 8_000), (4, 12_000), (16, 32_000))
HUGE = 2**62


class Known:
    """A directory that holds these, and knows no links."""

    def __init__(self, *peers):
        self.rtt_ms, self._peers = {}, peers

    def live(self):
        return self._peers


def watched(*peers, token_ms, goal=Goal.LATENCY, rides=6):
    """A record after answers that each of `peers` carried alone, in turn."""
    records, clock_s = PeerRecords(), [0.0]
    wanted = Wanted(manifest=MANIFEST, n_blocks=8, n_positions=100, goal=goal)
    for at in range(rides):
        watch = RouteWatch(
            records,
            Known(*peers),  # type: ignore[arg-type]
            lambda: wanted,
            clock=lambda: clock_s[0],
            wall=lambda at=at: NOW_S + at,
        )
        peer = peers[at % len(peers)]
        watch.routed([Seat(peer.peer_id, peer.span)])
        for _ in range(40):
            clock_s[0] += token_ms / 1000
            watch.token()
        watch.ended()
    return records


def honest(n, **changes):
    return announce(n, decode_us=8_000, measured=Measured(decode_steps_us=CURVE), **changes)


@pytest.mark.parametrize("goal", list(Goal))
def test_who_keeps_its_promise_is_believed_whatever_the_client_is_minded_to(goal):
    peers = [honest(n) for n in (1, 2, 3)]

    records = watched(*peers, token_ms=8.7, goal=goal)

    assert records.believed(peers, NOW_S + 6)[peer_of(1)] == pytest.approx(1.0, abs=0.1)
    assert records.risk_ms(peers, NOW_S + 6) == {}


@pytest.mark.parametrize("said", [0, 1, 100_000, HUGE])
def test_who_is_chosen_by_its_curve_is_held_to_its_curve(said):
    """It says that a step takes 0.8 ms, by which it is chosen, and something else beside."""
    fast = tuple((size, us // 10) for size, us in CURVE)
    liar = announce(1, decode_us=said, measured=Measured(decode_steps_us=fast))

    records = watched(liar, token_ms=8.7)

    assert shared_us(liar) == 800
    assert records.believed([liar], NOW_S + 6)[liar.peer_id] > 5
    assert records.risk_ms([liar], NOW_S + 6)[liar.peer_id] > 5


def test_who_says_nothing_is_held_to_what_was_assumed():
    silent = announce(1, decode_us=0)

    records = watched(silent, token_ms=160.0)  # 2 ms a block are assumed

    assert records.believed([silent], NOW_S + 6)[silent.peer_id] > 5


@pytest.mark.parametrize(
    "field", ["decode_us", "visit_us", "queue_us", "shared_us", "backlog_us", "fixed_us", "curve"]
)
def test_absurd_numbers_break_nobodys_answer(field):
    absurd = announce(1, decode_us=8_000)
    if field == "decode_us":
        absurd = replace(absurd, decode_us=HUGE)
    elif field == "curve":
        absurd = replace(absurd, measured=Measured(decode_steps_us=((1, HUGE), (HUGE, HUGE))))
    else:
        absurd = replace(absurd, measured=replace(absurd.measured, **{field: HUGE}))

    records = watched(absurd, token_ms=10.0)

    assert len(records.rides) > 0
    assert records.risk_ms([absurd], NOW_S + 6).get(absurd.peer_id, 0.0) < float("inf")

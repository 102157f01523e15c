"""Heirs are sought at once while there are some to ask, and then again after rests."""

from itertools import pairwise

from protocol.chain_actions import FindHeirs, Seat
from protocol.chain_hops import Hop
from protocol.errors import PeerBusy, PeerUnreachable
from protocol.messages import Leaving, Span
from protocol.succession import LONGEST_AGAIN_S, MOST_TRIES, Succession, forgiven


def leaver() -> Hop:
    leaving = Leaving(epoch=0, left_ms=20_000, row_bytes=8, up_bytes_per_s=0)
    return Hop(Seat("leaver", Span(0, 2)), leaving=leaving, leaves_at=20.0)


def test_when_nobody_is_found_they_are_sought_again_until_the_leaver_goes():
    succession, going, sought = Succession(), leaver(), []
    for epoch in range(2_000):
        now = epoch / 10
        if succession.seek([going], {}, epoch, 5, now):
            sought.append(now)
            succession.found(epoch, [], now, hand_over=True)

    assert sought[:4] == [0.0, 1.0, 3.0, 7.0]
    assert {b - a for a, b in pairwise(sought[4:])} == {LONGEST_AGAIN_S}


def test_heirs_that_refuse_one_after_the_other_are_a_few_and_then_there_is_a_rest():
    succession, going, n_asked = Succession(), leaver(), 0
    while succession.seek([going], {}, n_asked, 5, 0.0):
        n_asked += 1
        succession.found(n_asked - 1, [Seat(f"heir-{n_asked}", Span(0, 2))], 0.0, hand_over=True)
        succession.give_up()

    assert n_asked == MOST_TRIES
    [action] = succession.seek([going], {}, 9, 5, 1.0)
    assert isinstance(action, FindHeirs)


def test_who_had_no_room_is_asked_again_and_who_is_gone_is_not():
    busy, gone = PeerBusy("busy", "full"), PeerUnreachable("gone", "no connection")

    assert forgiven({"busy": busy, "gone": gone}) == {"gone": gone}

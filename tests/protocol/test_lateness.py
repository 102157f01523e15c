"""Whom a client stops waiting for, and when it has only itself to blame."""

from protocol.chain_actions import Seat
from protocol.chain_hops import Hop
from protocol.lateness import SILENCE_S, Hearing, excuse, silent
from protocol.messages import Span


def hop(peer: str, heard_at: float) -> Hop:
    return Hop(Seat(peer, Span(0, 2)), heard_at=heard_at)


def test_while_a_client_did_not_listen_nobody_was_silent():
    hearing, hops = Hearing(), [hop("well", 9.9), hop("quiet", 8.0)]
    assert hearing.deaf_s(10.0) == 0.0

    excuse(hops, hearing.deaf_s(16.0), 16.0)  # the machine slept

    assert silent(hops, 16.0) == []
    assert hearing.deaf_s(16.1) == 0.0
    assert [each.peer for each in silent(hops, 14.0 + SILENCE_S)] == ["quiet"]


def test_a_client_that_listens_hears_who_is_silent():
    hearing, hops = Hearing(), [hop("gone", 0.0)]
    now = 0.0
    while not silent(hops, now):
        now += 0.1
        excuse(hops, hearing.deaf_s(now), now)
        assert now < SILENCE_S + 0.2

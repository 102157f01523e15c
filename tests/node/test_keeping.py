"""Some of a node's free room is for answers that have begun."""

import secrets
from contextlib import nullcontext
from dataclasses import replace

import pytest

from node.keeping import KEPT, LINE_S, kept_room, longest_wait_s, may_claim, require_begun
from node.shares import Holding
from protocol.errors import PeerBusy
from protocol.messages import Commit, Reserve, SessionId, Span

BUDGET = 8_000
RESERVE = Reserve(
    session=SessionId(bytes(16)),
    epoch=0,
    manifest=bytes(32),
    span=Span(0, 3),
    n_blocks=6,
    capacity=64,
    max_tokens=32,
    budget_ms=60_000,
    client_nonce=secrets.token_bytes(16),
    salt_commit=bytes(32),
)


@pytest.mark.parametrize(
    ("free", "n_sessions", "line_s", "kept"),
    [
        (8_000, 0, 0.0, 0),  # nobody is here: the first session may have it all
        (5_000, 1, LINE_S, KEPT * BUDGET),
        (600, 9, 0.0, 600),
        (-100, 9, 0.0, 0),
        (5_000, 1, LINE_S + 1, 5_000),
    ],
)
def test_new_sessions_do_not_get_all_room(free, n_sessions, line_s, kept):
    assert kept_room(BUDGET, free, n_sessions, line_s) == kept


def test_nothing_is_kept_from_whoever_needs_so_much_that_nothing_would_ever_be():
    free, seven = 7_500, 7_000

    assert kept_room(BUDGET, free, 1, 0.0, seven) == KEPT * BUDGET
    assert kept_room(BUDGET, free, 1, 0.0, seven + 1) == 0
    assert kept_room(BUDGET, free, 1, LINE_S + 1, seven + 1) == free  # a line is a line


def test_who_has_begun_and_who_needs_one_node_alone_wait_behind_any_line_in_their_time():
    assert longest_wait_s(RESERVE, is_whole=False, is_new=True) == LINE_S
    assert longest_wait_s(replace(RESERVE, budget_ms=4_000), is_whole=False, is_new=True) == 4
    assert longest_wait_s(RESERVE, is_whole=False, is_new=False) == 60
    assert longest_wait_s(RESERVE, is_whole=True, is_new=True) == 60


def test_a_clients_word_buys_as_much_as_is_kept_and_no_more():
    held = Holding("a", 600, is_committed=True)

    assert may_claim("a", 1_000, BUDGET, [])
    assert not may_claim("a", 1_001, BUDGET, [])
    assert may_claim("a", 400, BUDGET, [held])
    assert not may_claim("a", 401, BUDGET, [held])
    assert may_claim("b", 1_000, BUDGET, [held])


def test_of_all_clients_so_much_is_held_by_words_alone():
    crowd = [Holding(f"c{n}", 100, is_committed=False) for n in range(10)]

    assert not may_claim("a", 1, BUDGET, crowd)
    assert may_claim("a", 100, BUDGET, crowd[1:])


COMMIT = Commit(
    epoch=0,
    length=0,
    next_length=0,
    n=8,
    n_prompt=8,
    previous="a",
    next="b",
    next_addresses=(),
    route=b"r",
    salt=bytes(32),
)


@pytest.mark.parametrize(
    ("commit", "client_ends", "n_taken", "shows"),
    [
        (COMMIT, False, 0, False),
        (replace(COMMIT, n=9), False, 0, True),
        (COMMIT, False, 3, True),  # handed over while its prompt was run
        (COMMIT, True, 0, True),  # all of its rows are to run again
        (replace(COMMIT, n=0, n_prompt=0), True, 0, False),
    ],
)
def test_that_an_answer_has_begun_is_shown_by_its_commit(commit, client_ends, n_taken, shows):
    with nullcontext() if shows else pytest.raises(PeerBusy, match="no token yet"):
        require_begun(commit, replace(RESERVE, client_ends=client_ends), n_taken)

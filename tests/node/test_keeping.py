"""Some of a node's free room is for answers that have begun."""

import secrets
from dataclasses import replace

import pytest

from node.keeping import KEPT, LINE_S, kept_room, longest_wait_s
from protocol.messages import Reserve, SessionId, Span

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


def test_who_has_begun_and_who_needs_one_node_alone_wait_behind_any_line_in_their_time():
    assert longest_wait_s(RESERVE, is_whole=False) == LINE_S
    assert longest_wait_s(replace(RESERVE, budget_ms=4_000), is_whole=False) == 4
    assert longest_wait_s(replace(RESERVE, has_begun=True), is_whole=False) == 60
    assert longest_wait_s(RESERVE, is_whole=True) == 60

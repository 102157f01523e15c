"""A client that holds the ends gets every row answered once, whatever breaks or rolls back."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.ends_session import EndsSession
from protocol.errors import ContextExceeded, UsageError
from protocol.hop_state import State
from protocol.messages import SessionId, Span
from tests.protocol.ends_world import EndsWorld, random_script, undisturbed_rows

THREE_HOPS = [Span(0, 2), Span(2, 5), Span(5, 6)]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    die=st.integers(0, 2**32).map(random.Random),
    spans=st.sampled_from([THREE_HOPS, [Span(0, 6)], [Span(0, 1), Span(1, 6)]]),
    duplication=st.sampled_from([0.0, 0.2]),
    kills=st.integers(0, 3),
    breaks=st.integers(0, 3),
    window=st.sampled_from([2, 5, 10_000]),
)
def test_no_accident_changes_a_row_that_comes_back(die, spans, duplication, kills, breaks, window):
    script = random_script(die, 10)
    world = EndsWorld(
        die,
        spans,
        script,
        breaks=breaks,
        spares=9,
        duplication=duplication,
        kills=kills,
        window=window,
    )

    world.run()

    assert world.ended is not None
    assert world.ended.error is None
    assert world.answers == undisturbed_rows(spans, script)
    check_books(world)


def check_books(world: EndsWorld) -> None:
    """What the client derives is never more than what a hop ran."""
    for hop in world.ends.hops:
        node = world.nodes[hop.peer]
        if not node.alive:
            continue
        assert node.session is not None
        assert node.tab is not None
        assert node.session.state is State.OVER
        rows = sum(stretch.stop - stretch.start for stretch in hop.stretches)
        assert rows <= node.tab.rows
        if not world.ends.failovers:
            assert rows == node.tab.rows, "undisturbed, both count the same"


def test_rows_that_do_not_go_on_or_do_not_fit_are_refused():
    session = EndsSession(SessionId(b"s" * 16), "client", 4, row_bytes=8, capacity=3)
    session.send(0, bytes(16), 0.0)

    with pytest.raises(UsageError, match="go on"):
        session.send(3, bytes(8), 0.0)
    with pytest.raises(ContextExceeded, match="reserved"):
        session.send(2, bytes(16), 0.0)

    assert session.inputs.length == 2

"""Random schedules of deaths, stalls, refusals, drains and garbled rows, over the rules alone.

Whatever happens to whichever hops, at whatever moment, a stream goes on: no token lost, none
repeated, the same text, and nobody is owed a row that was not run.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.messages import Span
from tests.protocol.hash_span import undisturbed
from tests.protocol.session_world import Node, World
from tests.protocol.test_session_rules import PROMPT, THREE_HOPS, check_agreement

CHAINS = [THREE_HOPS, [Span(0, 6)], [Span(0, 1), Span(1, 6)]]
schedules = {
    "die": st.integers(0, 2**32).map(random.Random),
    "spans": st.sampled_from(CHAINS),
    "loss": st.sampled_from([0.0, 0.0, 0.03]),
    "kills": st.integers(0, 3),
    "drains": st.integers(0, 3),
    "stalls": st.integers(0, 2),
    "freezes": st.integers(0, 2),
    "garblers": st.integers(0, 1),
    "busy": st.sampled_from([0.0, 0.0, 0.1]),
    "broken_handovers": st.sampled_from([0.0, 0.1]),
    "window": st.sampled_from([2, 10_000]),
    "drafts": st.sampled_from([0, 0, 4]),
}


def play(spans: list[Span], *, parts: bool, max_tokens: int = 12, **what: object) -> World:
    """One session under a schedule; with `parts`, some nodes hold only one block of the model."""
    world = World(prompt=PROMPT, spans=spans, max_tokens=max_tokens, spares=14, **what)
    if parts:
        for block in range(world.n_blocks):
            for copy in range(14):
                peer = f"{block}#part{copy}"
                world.nodes[peer] = Node(peer, Span(block, block + 1))

    world.run()

    assert world.ended is not None
    assert world.ended.error is None
    assert world.client.ids == undisturbed(PROMPT, spans, max_tokens)
    expected = list(range(len(PROMPT), len(PROMPT) + max_tokens))
    assert [event.position for event in world.delivered] == expected
    check_agreement(world)
    return world


@settings(max_examples=70, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.booleans(), **schedules)
def test_whatever_befalls_the_hops_the_stream_goes_on(spans, parts, **what):
    play(spans, parts=parts, **what)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.booleans(), max_tokens=st.integers(1, 40), **schedules)
def test_whatever_befalls_the_hops_the_stream_goes_on_many_times(spans, parts, max_tokens, **what):
    play(spans, parts=parts, max_tokens=max_tokens, **what)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    die=st.integers(0, 2**32).map(random.Random),
    spans=st.sampled_from(CHAINS),
    drains=st.integers(1, 3),
    parts=st.booleans(),
)
def test_hops_that_leave_properly_cost_no_failover(die, spans, drains, parts):
    world = play(spans, parts=parts, die=die, drains=drains)

    assert world.client.failovers == 0
    assert world.client.heals == 0


@pytest.mark.parametrize("seed", range(60))
def test_hops_that_freeze_together_are_given_up_together_and_nobody_else_is(seed):
    """Some or all hops of a chain are stopped at once: those who take their places wait for none
    of them longer than a reservation lives, and are not held to be what was lost.
    """
    world = World(
        random.Random(seed), THREE_HOPS, prompt=PROMPT, max_tokens=12, spares=1, freezes=1
    )
    world.run()

    assert world.ended is not None
    assert world.ended.error is None
    assert world.client.ids == undisturbed(PROMPT, THREE_HOPS, 12)
    assert set(world.client.avoid) <= {n.peer for n in world.nodes.values() if n.frozen}


def test_heirs_run_nothing_that_the_leaver_handed_over():
    """One hop of three leaves when ten tokens are out; its heir runs what came after its copy."""
    for seed in range(20):
        world = World(
            random.Random(seed), THREE_HOPS, prompt=PROMPT, max_tokens=30, spares=1, drains=1
        )
        world.run()
        for peer, handed in world.inherited.items():
            node = world.nodes[peer]
            if world.client.handovers and any(hop.peer == peer for hop in world.client.hops):
                assert node.session is not None
                assert node.tab is not None
                assert node.tab.rows <= node.session.length - handed + 1
                assert handed > 0

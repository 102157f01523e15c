"""The rules of a session under loss, duplication, delay, kills, cancels and late vouchers."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.chain_actions import Seat, SendCommit
from protocol.chain_session import ChainSession
from protocol.errors import PeerUnreachable, SwarmIncomplete
from protocol.hop_state import State
from protocol.messages import Leaving, Raised, Reserved, Span, TokenEvent
from tests.protocol.hash_span import undisturbed
from tests.protocol.session_world import LimitedTab, Node, World

THREE_HOPS = [Span(0, 2), Span(2, 5), Span(5, 6)]
PROMPT = [11, 22, 33, 44, 55]


def check_agreement(world: World) -> None:
    """Tokens, meters, KV lengths and journals of the last chain agree with one another."""
    for hop in world.client.hops:
        node = world.nodes[hop.peer]
        session, model, tab = node.session, node.model, node.tab
        if node not in world.awake() or session is None or model is None or tab is None:
            continue
        assert session.state is State.OVER
        if not session.reserve.is_last:
            assert session.journal.length == session.length
        assert model.length >= session.length
        rows = sum(stretch.stop - stretch.start for stretch in hop.stretches)
        if world.drafts:
            check_drafts_are_owed(world, rows, tab)
        elif world.ended and world.ended.finish_reason == "length":
            assert rows <= tab.rows, "the client never owes for a row that was not run"
            if not any(lost.seat.span.stop == world.n_blocks for lost in world.client.lost_hops):
                assert rows == tab.rows, "only tokens that died with the last hop go unpaid"
            if session.reserve.is_last:
                assert tab.heads == sum(stretch.heads for stretch in hop.stretches)


def check_drafts_are_owed(world: World, rows: int, tab: LimitedTab) -> None:
    """Nothing that was run goes unpaid, but what was in flight when the chain changed. What the
    client derives may be more: rows that were told and taken back before a hop ran them, which no
    honest hop states."""
    client = world.client
    n_epochs = client.failovers + client.heals + client.handovers
    if not any(lost.seat.span.stop == world.n_blocks for lost in client.lost_hops):
        assert rows >= tab.rows - n_epochs * (1 + world.drafts)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    die=st.integers(0, 2**32).map(random.Random),
    spans=st.sampled_from([THREE_HOPS, [Span(0, 6)], [Span(0, 1), Span(1, 6)]]),
    loss=st.sampled_from([0.0, 0.0, 0.03]),
    duplication=st.sampled_from([0.0, 0.2]),
    kills=st.integers(0, 3),
    window=st.sampled_from([2, 5, 10_000]),
)
def test_no_accident_changes_loses_or_repeats_a_token(die, spans, loss, duplication, kills, window):
    world = World(
        die,
        spans,
        prompt=PROMPT,
        max_tokens=12,
        spares=9,
        loss=loss,
        duplication=duplication,
        kills=kills,
        window=window,
    )

    world.run()

    assert world.ended is not None
    assert world.ended.error is None
    assert world.client.ids == undisturbed(PROMPT, spans, 12)
    assert [event.position for event in world.delivered] == list(range(5, 17))
    check_agreement(world)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    die=st.integers(0, 2**32).map(random.Random),
    spans=st.sampled_from([THREE_HOPS, [Span(0, 6)], [Span(0, 1), Span(1, 6)]]),
    loss=st.sampled_from([0.0, 0.0, 0.03]),
    duplication=st.sampled_from([0.0, 0.2]),
    kills=st.integers(0, 3),
    window=st.sampled_from([2, 5, 10_000]),
    drafts=st.integers(1, 6),
    acceptance=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    lateness=st.sampled_from([0.0, 0.6]),
)
def test_drafts_right_or_wrong_change_no_token_and_are_owed_as_they_were_run(die, spans, **what):
    world = World(die, spans, prompt=PROMPT, max_tokens=20, spares=9, **what)

    world.run()

    assert world.ended is not None
    assert world.ended.error is None
    assert world.client.ids == undisturbed(PROMPT, spans, 20)
    assert [event.position for event in world.delivered] == list(range(5, 25))
    check_agreement(world)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    die=st.integers(0, 2**32).map(random.Random),
    spans=st.sampled_from([THREE_HOPS, [Span(0, 6)], [Span(0, 1), Span(1, 6)]]),
    loss=st.sampled_from([0.0, 0.0, 0.03]),
    kills=st.integers(0, 3),
    window=st.sampled_from([2, 10_000]),
    prefixes=st.lists(st.integers(0, len(PROMPT)), min_size=1, max_size=3),
)
def test_whatever_prefix_each_hop_begins_with_the_answer_is_the_same(
    die, spans, loss, kills, window, prefixes
):
    world = World(
        die,
        spans,
        prompt=PROMPT,
        max_tokens=12,
        spares=9,
        loss=loss,
        kills=kills,
        window=window,
        prefixes=prefixes,
    )

    world.run()

    assert world.ended is not None
    assert world.ended.error is None
    assert world.client.ids == undisturbed(PROMPT, spans, 12)
    check_agreement(world)


def test_rows_that_a_hop_has_already_are_neither_run_nor_owed():
    world = World(random.Random(3), THREE_HOPS, prompt=PROMPT, max_tokens=12, prefixes=[3])

    world.run()

    assert world.client.ids == undisturbed(PROMPT, THREE_HOPS, 12)
    assert world.client.cached == 3
    for hop in world.client.hops:
        tab = world.nodes[hop.peer].tab
        assert tab is not None
        assert hop.cached == 3
        assert tab.rows == len(PROMPT) + 11 - 3
        assert [(s.start, s.stop) for s in hop.stretches] == [(3, len(PROMPT) + 11)]


def test_of_a_whole_prompt_that_is_known_the_last_row_is_run_again():
    world = World(random.Random(4), THREE_HOPS, prompt=PROMPT, max_tokens=12, prefixes=[5])

    world.run()

    assert world.client.ids == undisturbed(PROMPT, THREE_HOPS, 12)
    assert world.client.cached == len(PROMPT) - 1


@settings(max_examples=40, deadline=None)
@given(die=st.integers(0, 2**32).map(random.Random), cancel_at=st.integers(1, 10))
def test_a_cancel_frees_every_hop_and_what_was_delivered_stands(die, cancel_at):
    world = World(die, THREE_HOPS, prompt=PROMPT, max_tokens=12, cancel_at=cancel_at)

    world.run()

    assert world.ended is not None
    assert world.ended.finish_reason == "cancelled"
    assert world.client.ids == undisturbed(PROMPT, THREE_HOPS, 12)[: 5 + cancel_at]
    check_agreement(world)


def test_without_another_holder_the_caller_learns_which_blocks_are_missing():
    world = World(random.Random(1), THREE_HOPS, prompt=PROMPT, max_tokens=12, spares=0)
    world.nodes["2:5#0"].alive = False

    world.run()

    assert world.ended is not None
    assert isinstance(world.ended.error, SwarmIncomplete)
    assert world.ended.error.missing == ((2, 5),)


@pytest.mark.parametrize("victim", ["0:2#0", "2:5#0", "5:6#0"])
def test_survivors_run_at_most_the_rows_in_flight_again(victim):
    world = World(random.Random(7), THREE_HOPS, prompt=PROMPT, max_tokens=12, spares=0)
    spare = victim.replace("#0", "#1")
    world._do_client(world.client.begin())
    while len(world.delivered) < 6:
        world._step()
    world.nodes[spare] = Node(spare, world.nodes[victim].span)
    world.nodes[victim].alive = False
    world._do_client(world.client.lost(victim, PeerUnreachable(victim, "killed"), world.now))
    while world.ended is None:
        assert world._step()

    for node in world.nodes.values():
        if node.peer not in (victim, spare):
            assert node.tab is not None
            assert node.tab.rows <= len(PROMPT) + 11 + 1, "one row was in flight"
    assert world.client.failovers == 1


def test_an_heir_goes_on_from_all_it_took_over_with_drafts_or_without():
    for most_drafts in (0, 15):
        client = ChainSession([1] * 600, 4, most_drafts=most_drafts)
        client.begin()
        client.routed(0, [Seat("first", Span(0, 2)), Seat("last", Span(2, 4))], 0.0)
        for peer in ("first", "last"):
            client.reserved(peer, reserved(0, 0), 0.0)
        client.leaving("first", Leaving(epoch=0, left_ms=60_000, row_bytes=8), 0.0)
        epoch = client.succession.epoch
        client.heirs(epoch, [Seat("heir", Span(0, 2))], 0.0, hand_over=True)
        for position in range(600, 900):  # come while it copies
            event = TokenEvent(epoch=0, position=position, token_id=1, text="", rows=1)
            client.token("last", event, 0.0)
        actions = client.reserved("heir", reserved(epoch, 880), 0.0)
        actions += client.raised("last", Raised(epoch=epoch, length=899, journal_from=0), 0.0)

        commits = {each.peer: each.length for each in actions if isinstance(each, SendCommit)}
        assert commits == {"heir": 880, "last": 899}


def reserved(epoch: int, length: int) -> Reserved:
    return Reserved(
        epoch=epoch,
        terms=b"",
        offer=b"",
        row_bytes=8,
        profile="",
        prefix_length=length,
        journal_from=0,
    )


@pytest.mark.parametrize("n_steps_between", [0, 3, 6])
def test_a_loss_counts_once_whether_or_not_a_link_was_just_being_healed(n_steps_between):
    world = World(random.Random(7), THREE_HOPS, prompt=PROMPT, max_tokens=12, spares=1)
    client = world.client
    world._do_client(client.begin())
    while len(world.delivered) < 3:
        world._step()
    first, middle, last = (hop.peer for hop in client.hops)
    world._do_client(client.link_down(first, middle, client.epoch, world.now))
    assert (client.heals, client.failovers) == (1, 0)
    for _ in range(n_steps_between):
        world._step()
    world.nodes[last].alive = False
    lost = PeerUnreachable(last, "killed")
    world._do_client(client.lost(last, lost, world.now))
    world._do_client(client.lost(last, lost, world.now))  # said twice, counted once
    while world.ended is None:
        assert world._step()

    assert (client.heals, client.failovers) == (1, 1)
    assert client.ids == undisturbed(PROMPT, THREE_HOPS, 12)

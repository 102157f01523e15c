"""5a.11: what a last hop tells of the rows that it sent, and how much of that is believed."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.drafting import Drafting, Source
from node.work import RowCost
from protocol.asking import MAX_DRAFTS
from protocol.chain_actions import Seat, Stretch
from protocol.chain_session import ChainSession
from protocol.codec import ids_to_bytes
from protocol.draws import Drawn, Draws
from protocol.guess_allowance import AGAIN, FIRST, TOKENS_EACH, Allowance
from protocol.lookup import Lookup
from protocol.messages import Commit, Raised, Reserved, Span, TokenEvent
from protocol.told_rows import ToldRows
from tests.protocol.session_world import CountedEnding

N_TOKENS = 40


class Sparing:
    """What a real last hop does with `lookup`: of each guess it sends as much as it likes."""

    def __init__(self, die: random.Random) -> None:
        self._die, self._lookup = die, Lookup()

    def guess(self, ids, most):
        guess = self._lookup.guess(ids, min(most, MAX_DRAFTS))
        return guess[: self._die.randint(0, len(guess))]


def answer(die: random.Random, prompt: list[int], n_ids: int) -> list[TokenEvent]:
    """The events of an honest last hop; ids are drawn by the die, and are often as guessed."""
    draws = Draws(
        lambda ids, n: CountedEnding(N_TOKENS), lambda commit: Sparing(die), len(prompt) + N_TOKENS
    )
    draws.begin_epoch(committed(prompt))
    events = []
    while not draws.finished:
        right = draws.line.ids[0] if draws.line and die.random() < 0.7 else die.randrange(n_ids)
        events.append(draws.add(Drawn(right), 0))
        draws.refused_at = None
        draws.draft()
    return events


def committed(prompt: list[int]) -> Commit:
    return Commit(
        epoch=0,
        length=0,
        next_length=0,
        n=len(prompt),
        n_prompt=len(prompt),
        previous="front",
        next="front",
        next_addresses=(),
        route=b"",
        salt=b"s" * 32,
        history=ids_to_bytes(prompt),
    )


def told_of(events: list[TokenEvent], prompt: list[int], told: ToldRows) -> list[Stretch]:
    ids = list(prompt)
    for event in events:
        told.heard(event, ids)
        ids.append(event.token_id)
    return told.stretches(0, len(ids) - 1)


@given(
    seed=st.integers(0, 2**32),
    n_ids=st.sampled_from([2, 3, 5, 50]),
    prompt=st.lists(st.integers(0, 2), min_size=1, max_size=40),
)
def test_an_honest_hops_rows_are_all_believed(seed, n_ids, prompt):
    """Also where the client's drafter was asked in an epoch before."""
    events, used = answer(random.Random(seed), prompt, n_ids), Lookup()
    used.guess(prompt, MAX_DRAFTS)

    at_its_word = told_of(events, prompt, ToldRows(len(prompt), MAX_DRAFTS))

    for drafter in (Lookup(), used):
        mine = told_of(events, prompt, ToldRows(len(prompt), MAX_DRAFTS, drafter))
        assert mine == at_its_word


class Model:
    """Guesses that nobody could make from the ids alone."""

    def __init__(self, die: random.Random, acceptance: float) -> None:
        self._die, self._acceptance = die, acceptance

    def guess(self, ids, most):
        at = range(len(ids), len(ids) + most)
        return [p if self._die.random() < self._acceptance else p + 1 for p in at]


@given(
    seed=st.integers(0, 2**32),
    acceptance=st.sampled_from([0.0, 0.3, 0.7, 0.95]),
    is_first=st.booleans(),
)
def test_all_that_a_last_hop_sends_of_a_models_guesses_was_earned(seed, acceptance, is_first):
    """Position p holds id p. Both sides count alike, so nothing is run that is not paid for."""
    die, prompt, now_s = random.Random(seed), list(range(8)), 0.0
    model = Source(Model(die, acceptance), lambda: 1e-5)
    allowance = Allowance(is_first=is_first)
    drafting = Drafting(
        [model], lambda p: RowCost(1e-4, 1), 1.0, frozenset(), lambda: now_s, allowance=allowance
    )
    draws = Draws(lambda ids, n: CountedEnding(N_TOKENS), lambda commit: drafting, 8 + N_TOKENS)
    draws.begin_epoch(committed(prompt))
    events = []
    while not draws.finished:
        events.append(draws.add(Drawn(len(draws.ids)), 0))
        draws.refused_at = None
        if draws.line is None:
            now_s += 0.1
        draws.draft()

    at_its_word = told_of(events, prompt, ToldRows(len(prompt), MAX_DRAFTS))
    earned = ToldRows(len(prompt), MAX_DRAFTS, is_earned=True, is_first=is_first)
    mine = told_of(events, prompt, earned)

    assert mine == at_its_word
    rows = sum(stretch.stop - stretch.start for stretch in mine) - len(prompt)
    assert rows <= (FIRST if is_first else AGAIN) + (3 + 1 / TOKENS_EACH) * N_TOKENS


def test_guesses_of_a_model_that_is_never_right_are_soon_not_paid_for():
    prompt, most = list(range(20)), N_TOKENS - 1 + FIRST + N_TOKENS // TOKENS_EACH

    told = told_of(
        one_at_a_time(prompt, 16), prompt, ToldRows(len(prompt), MAX_DRAFTS, is_earned=True)
    )

    assert sum(stretch.stop - stretch.start for stretch in told) - len(prompt) <= most


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    epochs=st.sampled_from([2, 3, 5, 300]),
    right=st.sampled_from([0, 1, 4, 15]),
)
def test_whatever_a_last_hop_tells_and_however_often_it_changes_the_chain(seed, epochs, right):
    """Rows of the answer stay below the bound: it forges right guesses, and ends epochs early."""
    die, prompt = random.Random(seed), list(range(10))
    client = ChainSession(prompt, 1, most_drafts=MAX_DRAFTS, earns_guesses=lambda peer: True)
    client.begin()
    client.routed(0, [Seat("last", Span(0, 1))], 0.0)
    client.reserved("last", reserved(0), 0.0)
    while (at := len(client.ids)) < len(prompt) + 300:
        n_here = die.randint(1, epochs)
        for n in range(n_here):
            rows = 1 if n == 0 else 16 if n % (1 + right) == 1 or not right else 0
            event = TokenEvent(epoch=client.epoch, position=at + n, token_id=7, text="", rows=rows)
            client.token("last", event, 0.0)
        client.link_down("last", "last", client.epoch, 0.0)
        raised = Raised(epoch=client.epoch, length=len(client.ids) - 1, journal_from=0)
        client.raised("last", raised, 0.0)
    client.cancel()

    n_tokens = len(client.ids) - len(prompt)
    hops = [*client.hops, *client.lost_hops]
    told_rows = sum(s.stop - s.start for hop in hops for s in hop.stretches)
    assert client.epoch > 0
    assert told_rows - len(prompt) <= FIRST + (3 + 1 / TOKENS_EACH) * n_tokens


def reserved(epoch: int) -> Reserved:
    return Reserved(
        epoch=epoch,
        terms=b"",
        offer=b"",
        row_bytes=8,
        profile="",
        prefix_length=0,
        journal_from=0,
    )


def test_who_says_that_it_has_no_model_is_paid_for_no_models_guesses():
    client = ChainSession(list(range(20)), 1, most_drafts=MAX_DRAFTS, drafter=Lookup())
    client.begin()
    client.routed(0, [Seat("last", Span(0, 1))], 0.0)
    client.reserved("last", reserved(0), 0.0)
    for event in one_at_a_time(list(range(20)), 16):
        client.token("last", event, 0.0)
    [hop] = client.hops

    assert client.stretches(hop) == [Stretch(0, 20 + N_TOKENS - 1, 20)]


def one_at_a_time(prompt: list[int], rows: int) -> list[TokenEvent]:
    """Of a text that repeats nothing: each token comes alone, and `rows` rows are told of it."""
    ids = range(1000, 1000 + N_TOKENS)
    first = TokenEvent(epoch=0, position=len(prompt), token_id=ids[0], text="", rows=len(prompt))
    rest = [replace(first, position=len(prompt) + n, token_id=ids[n]) for n in range(1, N_TOKENS)]
    return [first, *(replace(event, rows=rows) for event in rest)]


def test_guesses_that_nobody_could_have_made_are_not_paid_for():
    """A last hop that sends none tells fifteen behind each token."""
    prompt = list(range(20))
    honest = told_of(one_at_a_time(prompt, 1), prompt, ToldRows(len(prompt), MAX_DRAFTS, Lookup()))

    lied = told_of(one_at_a_time(prompt, 16), prompt, ToldRows(len(prompt), MAX_DRAFTS, Lookup()))

    assert lied == honest == [Stretch(0, len(prompt) + N_TOKENS - 1, len(prompt))]


@pytest.mark.parametrize("most_drafts", [0, MAX_DRAFTS])
@pytest.mark.parametrize("rows", [0, 1, 16])
def test_each_token_that_came_alone_is_a_round_whatever_is_told(rows, most_drafts):
    prompt = list(range(20))
    told, ids = ToldRows(len(prompt), most_drafts, Lookup()), list(prompt)
    for event in one_at_a_time(prompt, rows):
        assert told.heard(event, ids)
        ids.append(event.token_id)


def test_tokens_of_one_window_are_one_round():
    prompt = [1, 2, 3, 4, 5] * 4
    told, ids = ToldRows(len(prompt), MAX_DRAFTS, Lookup()), list(prompt)
    rounds = []
    for at, rows in enumerate((len(prompt), 4, 0, 0, 0, 1)):
        event = TokenEvent(epoch=0, position=len(ids), token_id=prompt[at], text="", rows=rows)
        rounds.append(told.heard(event, ids))
        ids.append(prompt[at])

    assert rounds == [True, True, False, False, False, True]

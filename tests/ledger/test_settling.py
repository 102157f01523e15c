"""Payer and payee derive one settlement from two logs, or are told which tab stands in the way."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import BadObject, NotAgreed
from ledger.meter import Meter
from ledger.settling import (
    OwedTab,
    Pair,
    check_agreed,
    check_same,
    differences,
    settlements,
    with_notes,
)
from ledger.spending import MAX_CLAIMS
from protocol.canonical import MAX_UINT
from tests.ledger.spenders import ANN, ASSET, BEN

PAIR = Pair(ANN.public_key, BEN.public_key, ASSET)
ALLOTS = [bytes([n]) * 32 for n in range(3)]


def tab(number, amount, *, allot=0, epoch=7, credit=0):
    id_ = number.to_bytes(16, "big")
    return OwedTab(id_, ALLOTS[allot], epoch, amount, Meter(amount, number), credit)


owed = st.builds(
    tab,
    st.integers(0, 10**9),
    st.integers(0, 50),
    allot=st.integers(0, 2),
    epoch=st.integers(5, 8),
)
logs = st.lists(owed, max_size=20, unique_by=lambda each: each.session_id)


@settings(deadline=None, max_examples=60)
@given(logs, st.randoms())
def test_19_a_settlement_is_the_sum_of_its_receipts_whatever_order_they_are_in(tabs, random):
    made = settlements(PAIR, tabs, 7)

    assert made == settlements(PAIR, random.sample(tabs, len(tabs)), 7)
    cited = {oid for each in made for oid, _ in each.claims}
    of_epoch = [each for each in tabs if each.epoch == 7 and each.allot_oid in cited]
    assert sum(each.net for each in made) == sum(each.net for each in of_epoch)
    assert sum(each.n_sessions for each in made) == len(of_epoch)
    for oid, cumulative in (claim for each in made for claim in each.claims):
        assert cumulative == sum(t.net for t in tabs if t.allot_oid == oid and t.epoch <= 7)


@settings(deadline=None, max_examples=40)
@given(logs, st.dictionaries(st.integers(0, 10**9), st.integers(0, 60)))
def test_19_credit_notes_are_taken_off_and_never_more_than_there_is(tabs, numbers):
    notes = {number.to_bytes(16, "big"): amount for number, amount in numbers.items()}
    notes |= {each.session_id: 9 for each in tabs[::2]}

    for each in settlements(PAIR, with_notes(tabs, notes), 7):
        assert each.net == each.gross - each.credit >= 0


def test_a_claim_counts_up_over_epochs_so_that_a_lost_settlement_is_made_good():
    tabs = [tab(1, 10, epoch=5), tab(2, 5, epoch=6), tab(3, 7, epoch=7)]

    assert [made.claims[0][1] for e in (5, 6, 7) for made in settlements(PAIR, tabs, e)] == [
        10,
        15,
        22,
    ]
    assert settlements(PAIR, tabs, 8) == []
    assert settlements(PAIR, [tab(1, 0)], 7) == []


def test_more_allotments_than_a_settlement_holds_make_several():
    tabs = [
        OwedTab(n.to_bytes(16, "big"), n.to_bytes(32, "big"), 7, 2, Meter())
        for n in range(MAX_CLAIMS + 3)
    ]

    made = settlements(PAIR, tabs, 7)

    assert [len(each.claims) for each in made] == [MAX_CLAIMS, 3]
    assert [each.net for each in made] == [2 * MAX_CLAIMS, 6]


def test_42_sums_beyond_what_an_amount_holds_are_refused():
    with pytest.raises(BadObject):
        settlements(PAIR, [tab(1, 10), replace(tab(2, 1), amount=MAX_UINT)], 7)


def test_which_tab_differs_is_said_in_plain_words():
    ours, theirs = [tab(1, 40), tab(2, 5)], [tab(1, 43), tab(3, 6)]

    found = differences(ours, theirs)

    assert [str(each) for each in found] == [
        "tab 0000000000000000: we have 40 ncr, they have 43 ncr",
        "tab 0000000000000000: they have no receipt of it",
        "tab 0000000000000000: we have no receipt of it",
    ]
    assert [each.is_ours_higher for each in found] == [False, True, False]
    assert differences(ours, ours[::-1]) == []
    check_agreed([])
    with pytest.raises(NotAgreed, match=r"we have 40 ncr, they have 43 ncr; .* and 1 more"):
        check_agreed(found * 2)
    moved = differences(ours[:1], [replace(ours[0], epoch=8)])
    assert str(moved[0]).endswith("we have epoch 7, they have epoch 8")


def test_34_a_settlement_that_says_more_than_our_log_is_not_signed():
    (derived,) = settlements(PAIR, [tab(1, 40)], 7)
    (inflated,) = settlements(PAIR, [tab(1, 41)], 7)

    check_same(derived, derived)
    with pytest.raises(BadObject, match="another gross"):
        check_same(derived, inflated)
    (other,) = settlements(PAIR, [tab(2, 40)], 7)
    with pytest.raises(BadObject, match="other receipts"):
        check_same(derived, other)

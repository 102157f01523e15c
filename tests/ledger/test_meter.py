"""Meters add up however the work is cut, and prices follow them."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Meter, Rates, Usage, head_rows, lease_quanta, price
from ledger.errors import BadObject
from ledger.meter import Tally, dearest_row, most_rows
from protocol.canonical import MAX_UINT

counters = st.tuples(*[st.integers(0, 10**9)] * 7)
meters = counters.map(lambda values: Meter(*values))
rates = counters.map(lambda values: Rates(*values))


def test_a_meter_counts_what_it_says():
    usage = Usage.opened(n_blocks=3, max_positions=257, lease_s=61)

    usage = usage.after(0, 10, committed=8, row_bytes=1000, head_rows=3)

    assert usage.meter() == Meter(
        prefill_tl=24, decode_tl=6, ctx_ktl=0, kv_q=4, act_kib=9, head_tok=3
    )


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 80))
def test_context_is_the_sum_over_positions(start, length, n_blocks):
    usage = Usage(n_blocks).after(start, start + length, committed=0, row_bytes=0)

    assert usage.meter().ctx_ktl == n_blocks * sum(p // 1024 for p in range(start, start + length))


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(1, 4000), st.lists(st.integers(0, 4000)))
def test_cutting_a_run_into_steps_does_not_change_its_meter(committed, stop, cuts):
    whole = Usage(7).after(0, stop, committed, row_bytes=999)
    pieces = Usage(7)
    edges = [0, *sorted(cut for cut in cuts if cut < stop), stop]
    for begin, end in pairwise(edges):
        pieces = pieces.after(begin, end, committed, row_bytes=999)

    assert pieces == whole


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_the_head_runs_from_the_last_committed_position_on(start, length, committed):
    stop = start + length

    assert head_rows(start, stop, committed) == sum(p >= committed - 1 for p in range(start, stop))


stretches = st.tuples(st.integers(0, 4000), st.integers(0, 40), st.sampled_from([0, 9, 2000]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), stretches, st.booleans(), st.booleans())))
def test_a_tally_is_the_usage_of_the_same_steps_whenever_it_is_asked(steps):
    usage, stop = Usage.opened(3, 500, 60), 0
    tally = Tally(usage, row_bytes=999)

    for goes_on, (start, rows, committed), has_head, is_asked in steps:
        start = stop if goes_on else start
        stop, heads = start + rows, int(has_head and rows > 0)
        usage = usage.after(start, stop, committed, 999, head_rows=heads)
        tally.add(start, stop, committed, heads)
        assert not is_asked or tally.usage == usage

    assert tally.usage == usage
    assert tally.n_rows == sum(rows for _, (_, rows, _), _, _ in steps)


@settings(deadline=None)
@given(rates, meters, st.integers(0, 10**6), st.integers(0, 300), stretches, st.booleans())
def test_rows_that_are_said_to_stay_within_a_price_do(rates, before, more_ncr, n_rows, step, heads):
    start, _, committed = step
    stop, row_bytes, capacity = start + n_rows, 999, 4300
    usage = Usage(3, 0, before.prefill_tl, before.decode_tl, head_rows=before.head_tok)
    limit = price(rates, usage.meter()) + more_ncr
    sure = most_rows(rates, usage.meter(), limit, dearest_row(rates, 3, capacity, row_bytes))

    after = usage.after(start, stop, committed, row_bytes, head_rows=n_rows if heads else 0)

    assert n_rows > sure or price(rates, after.meter()) <= limit


def test_a_price_that_is_passed_leaves_no_row():
    assert most_rows(Rates(decode_tl=10**6), Meter(decode_tl=5), 4, 10**6) < 0
    assert most_rows(Rates(), Meter(decode_tl=5), -1, 0) < 0
    assert most_rows(Rates(decode_tl=10**6), Meter(decode_tl=5), 5, 10**6) == 0


def test_a_lease_counts_each_begun_quantum():
    assert lease_quanta(256, 60) == 1
    assert lease_quanta(257, 60.5) == 4
    assert lease_quanta(1, 0.1) == 1


def test_rows_that_run_backwards_are_refused():
    with pytest.raises(BadObject):
        Usage(1).after(5, 4, committed=0, row_bytes=0)


@settings(deadline=None)
@given(rates, meters, meters)
def test_11_a_price_never_falls_as_the_meter_grows(rate, meter, more):
    assert price(rate, meter) <= price(rate, meter + more)


@settings(deadline=None)
@given(rates, st.lists(meters, max_size=6))
def test_11_how_a_tab_is_cut_into_windows_does_not_change_what_it_costs(rate, windows):
    whole = sum(windows, Meter())

    by_unit = sum(r * c for r, c in zip(rate.to_fields(), whole.to_fields(), strict=True))

    assert price(rate, whole) == by_unit // 10**6
    assert sum(price(rate, window) for window in windows) <= price(rate, whole)


@settings(deadline=None)
@given(meters, meters)
def test_meters_are_compared_counter_by_counter(a, b):
    both = [x <= y for x, y in zip(a.to_fields(), b.to_fields(), strict=True)]

    assert (a <= b) is all(both)
    assert a.smaller(b) <= a
    assert a.smaller(b) <= b
    assert a <= a + b


@pytest.mark.parametrize("value", [-1, MAX_UINT + 1, 1.0, True, None])
def test_a_counter_is_an_integer_that_a_database_holds(value):
    with pytest.raises(BadObject):
        Meter(prefill_tl=value)


def test_overflow_is_an_error_not_a_wrap():
    huge = Meter(prefill_tl=MAX_UINT)

    with pytest.raises(BadObject):
        huge + Meter(prefill_tl=1)
    with pytest.raises(BadObject):
        price(Rates(prefill_tl=MAX_UINT), huge)
    with pytest.raises(BadObject):
        Usage(2).after(0, 2**63 - 1, committed=2**63, row_bytes=0).meter()

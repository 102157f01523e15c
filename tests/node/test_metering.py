"""A meter answers from bounds that it made ahead as its rules would, asked at every step."""

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.escrow import Hold
from ledger.meter import Meter, Rates, Usage, price
from ledger.roots import RowRoot
from protocol.chain_actions import Stretch
from tests import metered
from tests.metered import PAYER, SPAN, commit_of

ROW_BYTES, CAPACITY, N_PROMPT, LENT = 1000, 1500, 8, 10**6
COMMIT = commit_of(N_PROMPT)


class OnePart:
    """An escrow with one tab, whose part grows up to `most`."""

    def __init__(self, most: int) -> None:
        self.most = most

    def raise_to(self, hold: Hold, amount: int) -> bool:
        if amount > self.most:
            return False
        hold.amount = max(hold.amount, amount)
        return True


def opened(rates, window, prepaid=0, hold=None, escrow=None):
    return metered.opened(
        rates,
        window,
        n_prompt=N_PROMPT,
        capacity=CAPACITY,
        row_bytes=ROW_BYTES,
        lent=LENT,
        prepaid=prepaid,
        hold=hold,
        escrow=escrow,
    )


class ByTheRules:
    """What the rules say, derived anew at each question."""

    def __init__(self, meter, rates, window, prepaid):
        self.meter, self.rates, self.window, self.prepaid = meter, rates, window, prepaid
        self.usage = Usage.opened(len(SPAN), CAPACITY, 600.0)
        prompt = self.usage.after(0, N_PROMPT, N_PROMPT, ROW_BYTES).meter()
        self.lent = min(LENT, price(rates, prompt))

    def after(self, start, rows, until):
        return self.usage.after(start, start + rows, until, ROW_BYTES)

    def may_run(self, start, rows, until, hold, most):
        promised, cost = (
            self.meter.promised_ncr,
            price(self.rates, self.after(start, rows, until).meter()),
        )
        if not any(self.rates.to_fields()):
            return True
        if promised < self.prepaid or cost > max(promised, self.lent) + self.window:
            return False
        return hold is None or cost <= max(hold, most)

    def statement_due(self):
        stated = self.meter.tab.statement.meter if self.meter.tab.statement else Meter()
        now = self.usage.meter()
        ncr = price(self.rates, now) - price(self.rates, stated)
        rows = sum(now.to_fields()[:3]) - sum(stated.to_fields()[:3])
        return (ncr > 0 and ncr * 4 >= self.window) or rows >= 256 * len(SPAN)


RATES = st.sampled_from(
    [
        Rates(),
        Rates(decode_tl=10**6),
        Rates(prefill_tl=10**6, decode_tl=2 * 10**6, ctx_ktl=3 * 10**6, act_kib=400_000),
        Rates(prefill_tl=70_001, decode_tl=333_333, kv_q=5_000_000, head_tok=7),
    ]
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 1, 7, 60]),
        st.integers(0, 9),
        st.sampled_from(["run", "run", "run", "state", "pay"]),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(RATES, st.sampled_from([0, 1, 3, 40, 400]), st.sampled_from([0, 0, 20]), STEPS, st.data())
def test_bounds_made_ahead_decide_as_the_rules_would(rates, window, prepaid, steps, data):
    part = data.draw(st.sampled_from([None, 5, 200]))
    escrow = OnePart(most=300) if part else None
    hold = Hold(bytes(32), bytes(32), part, PAYER.public_key) if part else None
    meter, tab = opened(rates, window, prepaid, hold, escrow)
    rules, stop, paid = ByTheRules(meter, rates, window, prepaid), 0, []

    for rows, back, then in [(N_PROMPT, 0, "run"), *steps]:
        start = max(0, stop - (back if back > 7 else 0))
        if start + rows > CAPACITY:
            break
        held = hold.amount if hold else None
        expected = rules.may_run(start, rows, N_PROMPT, held, 300)
        assert meter.may_run(start, rows, N_PROMPT) == expected
        if expected:
            rules.usage = rules.after(start, rows, N_PROMPT)
            meter.count(start, rows, N_PROMPT, 0)
            stop = start + rows
            paid.append(Stretch(start, stop, N_PROMPT))
        assert meter.usage == rules.usage
        assert meter.statement_due() == rules.statement_due()
        if then == "state" or (then == "pay" and meter.has_unstated()):
            tab.hear(meter.statement())
        if then == "pay":
            meter.pay(tab.voucher(paid, now=True))


@pytest.mark.parametrize("n_bytes", [4, ROW_BYTES, 100_000])
def test_rows_that_wait_to_be_hashed_are_in_the_next_statement(n_bytes):
    """Also those that were taken back meanwhile and run again as others."""
    meter, _ = opened(Rates(decode_tl=10**6), 10**6)
    meter._row_bytes = meter._out_bytes = n_bytes
    rows = [secrets.token_bytes(n_bytes) for _ in range(12)]
    took, sent = RowRoot(COMMIT.salt, 0), RowRoot(COMMIT.salt, 0)

    for start in (*range(9), 5, *range(6, 9)):  # 5 to 8 once more
        row = secrets.token_bytes(n_bytes) if start == 5 else rows[start]
        meter.will_see_in(start, memoryview(row))
        meter.count(start, 1, N_PROMPT, 0)
        meter.will_see_out(start, row)
        meter.see_out()
        took.add(start, row, n_bytes)
        sent.add(start, row, n_bytes)
    meter.statement()

    assert meter.tab.statement.last_step == 9
    assert meter.tab.statement.in_root == took.at(9)
    assert meter.tab.statement.out_root == sent.at(9)


def test_18_rows_that_may_run_and_are_not_counted_yet_are_within_the_window_too():
    rates, row_ncr = Rates(prefill_tl=10**6, decode_tl=10**6), len(SPAN)
    meter, _ = opened(rates, window=10 * row_ncr)
    lent = LENT // row_ncr + 10  # rows, by which the prompt is lent and the window
    assert meter.may_run(0, 3, N_PROMPT)
    assert meter.may_run(3, 5, N_PROMPT)
    meter.count(0, 3, N_PROMPT, 0)
    assert not meter.may_run(8, lent, N_PROMPT)
    assert meter.may_run(8, 2, N_PROMPT)
    meter.count(3, 5, N_PROMPT, 0)
    meter.count(8, 2, N_PROMPT, 0)
    n = 10
    while meter.may_run(n, 1, N_PROMPT):  # asked ahead, as a step runs
        n += 1
        assert n <= CAPACITY

    assert n * row_ncr <= meter.tab.secured_ncr < (n + 1) * row_ncr

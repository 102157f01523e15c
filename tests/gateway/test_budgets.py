"""Budgets of keys hold under any order of answers, over several gateways, and when they die."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.meter import Rates
from ledger.reader import LedgerReader
from manyhands.gateway.allowances import Allowances, Taken
from manyhands.gateway.faults import ApiError, explained
from manyhands.gateway.grants import Caller, Grant, Per
from manyhands.gateway.keys import Keys
from manyhands.gateway.spending import Spending, today
from protocol.errors import NoQuorum, NotFunded
from tests.gateway.live import Live, live

N_TOKENS, BUDGET = 24, 1500
acts = st.lists(
    st.tuples(
        st.integers(0, 1),  # which gateway
        st.booleans(),  # one more answer begins, or the oldest one ends
        st.none() | st.integers(0, 60),  # what it is expected to cost
        st.floats(0, 1),  # the part of what it holds that it costs
    ),
    max_size=40,
)


@settings(max_examples=25, deadline=None)
@given(acts=acts, budget=st.integers(0, 200), per=st.sampled_from(Per))
def test_whatever_the_order_a_budget_is_never_overspent_by_two_gateways(
    tmp_path_factory, acts, budget, per
):
    path = tmp_path_factory.mktemp("budget") / "spent.db"
    asks = Caller("group", "key", "laptop", Grant(budget_ncr=budget, budget_per=per))

    async def play() -> int:
        running: list[tuple[Taken, int]] = []
        with Spending(path) as one, Spending(path) as other:
            gateways = [Allowances(each, day=lambda: "2026-11-22") for each in (one, other)]
            for which, begins, expected, part in acts:
                if not begins and running:
                    taken, most = running.pop(0)
                    taken.settle(1, round(part * most))
                    continue
                try:
                    taken = gateways[which].take(asks, 1)
                except ApiError:
                    continue
                try:
                    most = await gateways[which].secure(taken, expected)
                    assert most is not None
                    running.append((taken, most))
                except ApiError:
                    taken.settle(0, 0, 0)
            for taken, most in running:
                taken.settle(1, most)
        with Spending(path) as after:
            assert after.held("key") == 0
            return after.in_all("key").ncr

    assert asyncio.run(play()) <= budget


async def test_what_died_with_its_gateway_counts_as_spent(tmp_path):
    path, asks = tmp_path / "spent.db", Caller("group", "key", "laptop", Grant(budget_ncr=100))
    before = Spending(path)
    allowances = Allowances(before, day=lambda: "2026-11-22")
    taken = allowances.take(asks, 1)
    await allowances.secure(taken, 40)  # and nobody ever settles it

    with Spending(path) as after:
        again = Allowances(after, day=lambda: "2026-11-22")
        late = again.take(asks, 1)
        with pytest.raises(ApiError) as refused:
            await again.secure(late, 40)
        late.settle(0, 0, 0)
        small = again.take(asks, 1)
        assert await again.secure(small, 10) == 20
        tomorrow = Allowances(after, day=lambda: "2026-11-23")
        assert await tomorrow.secure(tomorrow.take(asks, 1), 40) == 80

    assert refused.value.status == 429


async def test_what_a_gateway_held_that_died_is_free_again_once_no_answer_can_run_so_long(tmp_path):
    grant = Grant(budget_ncr=100, budget_per=Per.ALL)
    path, asks = tmp_path / "spent.db", Caller("group", "key", "laptop", grant)
    dead = Allowances(Spending(path), day=lambda: "2026-11-22")
    await dead.secure(dead.take(asks, 1), 40)  # which holds 80

    with Spending(path) as after:
        next_day = Allowances(after, day=lambda: "2026-11-23")
        with pytest.raises(ApiError):
            await next_day.secure(next_day.take(asks, 1), 40)
        later = Allowances(after, day=lambda: "2026-11-24")
        assert await later.secure(later.take(asks, 1), 40) == 80
        assert after.held("key", "2026-11-22") == 80  # the dead one's is gone from the file


@pytest.mark.parametrize("budget", [0, 30])
async def test_what_costs_nothing_is_answered_when_a_budget_is_spent_and_bound_to_that(budget):
    allowances = Allowances(Spending())
    asks = Caller("group", "key", "laptop", Grant(budget_ncr=budget))
    if budget:
        paid = allowances.take(asks, 1)
        await allowances.secure(paid, 20)
        paid.settle(1, 30)

    free = allowances.take(asks, 1, "free")
    assert await allowances.secure(free, 0) == 0
    free.settle(5, 0)
    for expected in (1, None):  # it costs something, or nobody can tell
        dear = allowances.take(asks, 1, "dear")
        with pytest.raises(ApiError, match="budget"):
            await allowances.secure(dear, expected)
        dear.settle(0, 0, 0)


async def test_what_cannot_be_set_aside_on_disk_is_not_begun(tmp_path):
    from protocol.errors import ConfigError

    path, asks = tmp_path / "spent.db", Caller("group", "key", "laptop", Grant(budget_ncr=100))
    with Spending(path) as spending:
        allowances = Allowances(spending)
        blocker = sqlite3.connect(path)
        blocker.execute("DROP TABLE spent")
        blocker.execute("CREATE VIEW spent AS SELECT 1")
        blocker.commit()
        with pytest.raises(ConfigError, match="set aside"):
            await allowances.secure(allowances.take(asks, 1), 40)


class Priced(Live):
    """Nodes that ask an ncr for a token through a block, and keys whose spending is kept."""

    rates = Rates(prefill_tl=10**6, decode_tl=10**6)

    async def start(self) -> None:
        self.spent = self.directory / "spent.db"
        self.spending = self._stack.enter_context(Spending(self.spent))
        self.allowances = Allowances(self.spending)
        await super().start()


def test_fifty_at_once_never_overspend_a_key_and_what_is_signed_is_what_was_counted(tmp_path):
    with live(tmp_path, kind=Priced) as gateway:
        keys, text = Keys().made("laptop", Grant(budget_ncr=BUDGET))
        keys.write(gateway.keys)
        body = {"model": "tiny", "prompt": "Hands", "max_tokens": N_TOKENS, "ignore_eos": True}

        def ask(_: int) -> tuple[int, str]:
            status, _, told = gateway.post("/v1/completions", body, authorization=f"Bearer {text}")
            return status, told["error"]["code"] if status != 200 else ""

        with ThreadPoolExecutor(50) as callers:
            answered = list(callers.map(ask, range(50)))
        last = [ask(n) for n in range(6)]
        home = tmp_path / "client"
    with LedgerReader.read(home) as reader:
        signed = sum(entry.net for entry in reader.entries())
    with Spending(tmp_path / "spent.db") as spending:
        counted, held = spending.on(keys.all[0].hash, today()), spending.held(keys.all[0].hash)

    codes = {code for _, code in answered}
    assert codes <= {"", "rate_limit_exceeded", "insufficient_quota"}
    assert {status for status, _ in answered} <= {200, 429}
    assert 0 < counted.ncr <= BUDGET
    assert counted.ncr == signed
    assert held == 0
    assert last[-1] == (429, "insufficient_quota")


def test_who_lacks_the_swarms_credit_hears_whom_to_ask_and_a_quorum_that_is_away_is_no_mistake():
    lacking = explained(NotFunded("", "no credit", hint="ask your issuer for a grant: PEER"))
    away = explained(NoQuorum("two of three witnesses did not answer", ("w1", "w2")))

    assert (lacking.status, lacking.code) == (429, "insufficient_quota")
    assert "ask your issuer" in lacking.message
    assert lacking.headers()["x-should-retry"] == "false"
    assert (away.status, away.code) == (503, "overloaded")
    assert "did not answer" in away.message

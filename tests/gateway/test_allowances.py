"""What a key has left: rates, budgets, and what stays when a gateway starts again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.gateway.allowances import Allowances, in_words
from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import Caller, DataClass, Grant, Per
from manyhands.gateway.keys import KeyFile, Keys
from manyhands.gateway.spending import Spending, Spent, until_tomorrow_s
from protocol.errors import ConfigError, UsageError


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def caller(**limits: object) -> Caller:
    return Caller("group", "key", "laptop", Grant(**limits))  # type: ignore[arg-type]


def refused(call, *arguments) -> ApiError:
    with pytest.raises(ApiError) as error:
        call(*arguments)
    return error.value


def test_a_minute_has_so_many_requests_and_they_come_back_one_by_one():
    clock, asks = Clock(), caller(requests_per_minute=3)
    allowances = Allowances(clock_s=clock)

    for _ in range(3):
        allowances.request(asks)
    early = refused(allowances.request, asks)
    clock.now_s = 20.0
    allowances.request(asks)
    again = refused(allowances.request, asks)

    assert (early.status, early.code) == (429, "rate_limit_exceeded")
    assert early.headers() == {"retry-after": "20", "retry-after-ms": "20000"}
    assert again.headers()["retry-after"] == "20"
    assert allowances.headers(asks) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }


def test_an_answer_takes_its_longest_and_gives_back_what_it_did_not_use():
    clock, asks = Clock(), caller(tokens_per_minute=100)
    allowances = Allowances(clock_s=clock)

    first = allowances.take(asks, 80)
    late = refused(allowances.take, asks, 50)
    first.settle(10, cost_ncr=0)
    first.settle(10, cost_ncr=0)  # once only
    allowances.take(asks, 50)

    assert late.headers()["retry-after"] == "18"  # 30 of 100 in a minute
    assert allowances.headers(asks)["x-ratelimit-remaining-tokens"] == "40"


def test_what_is_larger_than_a_minute_waits_for_a_full_one_and_leaves_a_debt():
    clock, asks = Clock(), caller(tokens_per_minute=100)
    allowances = Allowances(clock_s=clock)

    allowances.take(asks, 250)
    debt = refused(allowances.take, asks, 10)

    assert debt.headers()["retry-after"] == "96"
    assert allowances.headers(asks)["x-ratelimit-remaining-tokens"] == "0"


@given(st.lists(st.tuples(st.floats(0, 90), st.integers(1, 150)), max_size=30))
def test_in_no_stretch_of_time_does_a_key_use_more_than_its_rate_and_one_full_bucket(asked):
    clock, asks = Clock(), caller(tokens_per_minute=100)
    allowances, used = Allowances(clock_s=clock), 0

    for wait_s, n_tokens in asked:
        clock.now_s += wait_s
        try:
            allowances.take(asks, min(n_tokens, 100))
            used += min(n_tokens, 100)
        except ApiError:
            pass
        assert used <= 100 + clock.now_s * 100 / 60 + 0.1


def test_limits_of_one_key_are_no_other_keys_affair_and_change_at_once():
    clock = Clock()
    allowances = Allowances(clock_s=clock)
    one = caller(requests_per_minute=1)
    two = Caller("group-2", "key-2", "desk", Grant(requests_per_minute=1))

    allowances.request(one)
    allowances.request(two)
    refused(allowances.request, one)
    allowances.request(caller())  # the operator lifted it
    clock.now_s = 60.0
    for _ in range(2):
        allowances.request(caller(requests_per_minute=120))


async def not_secured(allowances: Allowances, asks: Caller) -> ApiError:
    """Why something that costs a little does not begin."""
    with pytest.raises(ApiError) as error:
        await allowances.secure(allowances.take(asks, 10), 1)
    return error.value


async def test_a_budget_is_for_a_day_or_in_all_and_survives_a_restart(tmp_path):
    path, day = tmp_path / "gateway" / "spent.db", "2026-11-22"
    daily, once = caller(budget_ncr=100), caller(budget_ncr=100, budget_per=Per.ALL)

    with Spending(path) as spending:
        Allowances(spending, day=lambda: day).take(daily, 10).settle(10, cost_ncr=100)
    with Spending(path) as spending:
        allowances = Allowances(spending, day=lambda: day)
        spent = await not_secured(allowances, daily)
        tomorrow = Allowances(spending, day=lambda: "2026-11-23")
        tomorrow.take(daily, 10)
        for_ever = await not_secured(tomorrow, once)

    assert (spent.status, spent.code) == (429, "insufficient_quota")
    assert spent.headers()["x-should-retry"] == "false"
    assert 0 < int(spent.headers()["retry-after"]) <= 86_400
    assert for_ever.headers() == {"x-should-retry": "false"}
    assert path.stat().st_mode & 0o077 == 0


def test_answers_side_by_side_do_not_pass_a_budget_together():
    allowances, asks = Allowances(), caller(budget_ncr=100)

    allowances.take(asks, 10).settle(10, cost_ncr=40)  # 4 for a token, from now on
    second = allowances.take(asks, 10)
    held = refused(allowances.take, asks, 10)
    second.settle(2, cost_ncr=8)
    allowances.take(asks, 1000, "another model")  # of whose price nothing is known
    allowances.take(asks, 10)

    assert "could cost 40 more" in held.message


def test_two_gateways_of_one_home_hear_of_each_others_spending(tmp_path):
    path, day = tmp_path / "spent.db", "2026-11-22"
    with Spending(path) as other:
        with Spending(path) as one:
            one.add("key", Spent(70, 7, 1), day)
        other.add("key", Spent(5, 1, 1), day)
        other._writer.submit(lambda: None).result()  # type: ignore[union-attr]  # written by now

        assert other.on("key", day) == Spent(75, 8, 2)
        assert other.in_all("key").ncr == 75


def test_a_file_of_spending_that_is_none_is_said_in_words(tmp_path):
    (tmp_path / "spent.db").write_bytes(b"not a database" * 100)

    with pytest.raises(ConfigError, match=r"spent\.db"):
        Spending(tmp_path / "spent.db")


def test_a_limit_that_this_version_does_not_know_lets_nobody_in(tmp_path):
    path = tmp_path / "keys.json"
    keys, text = Keys().made("one", Grant(models=("tiny",), data_class=DataClass.RESTRICTED))
    keys.write(path)
    assert KeyFile(path).admit(f"Bearer {text}").grant == keys.all[0].grant

    path.write_text(path.read_text().replace('"models"', '"moods"'))

    with pytest.raises(ConfigError):
        KeyFile(path)


@pytest.mark.parametrize(
    "limits",
    [
        {"models": ["a\n"]},
        {"requests_per_minute": 0},
        {"budget_ncr": -1},
        {"tokens_per_minute": True},
        {"data_class": "secret"},
        {"budget_per": "week"},
        {"models": "tiny"},
        {"regions": [1]},
    ],
)
def test_limits_that_make_no_sense_are_none(limits):
    with pytest.raises((UsageError, ValueError, TypeError)):
        Grant.read(limits)


def test_times_are_spelled_as_openai_spells_them():
    assert [in_words(s) for s in (0.0, 0.12, 1.5, 59.9, 360)] == [
        *("0ms", "120ms", "1.5s", "1m0s", "6m0s")
    ]
    assert until_tomorrow_s(datetime(2026, 11, 22, 23, 59, tzinfo=UTC)) == 60

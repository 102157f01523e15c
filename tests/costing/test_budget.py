"""A home's own answers keep to its budget: what is set aside, what is counted, what is said."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from manyhands.costing.budget import (
    KEY,
    Budget,
    read_budget,
    spent_file,
    within_budget,
    write_budget,
)
from manyhands.gateway.spending import Hold, Spending, today
from manyhands.home import Home
from protocol.errors import BudgetExceeded, ConfigError
from scheduler.request import GenerationRequest

REQUEST = GenerationRequest(manifest=bytes(32), n_blocks=8, prompt_ids=(1,))


def client(expected: int | None) -> SimpleNamespace:
    async def expected_ncr(request: GenerationRequest) -> int | None:
        return expected

    return SimpleNamespace(expected_ncr=expected_ncr)


async def answer(home: Home, expected: int | None, cost: int) -> int | None:
    """The most that it may cost."""
    async with within_budget(home, client(expected), REQUEST) as bound:
        await asyncio.sleep(0.2)  # answers that are asked for at once run at the same time
        bound.generation = SimpleNamespace(cost_ncr=cost)
    return bound.request.limits.max_cost


async def test_a_day_has_so_much_and_answers_side_by_side_share_it(tmp_path: Path):
    home = Home.at(tmp_path)
    write_budget(home, Budget(per_day=100, per_answer=60))

    assert await answer(home, 10, cost=7) == 20
    asking = (answer(home, 30, cost=30) for _ in range(4))
    told = await asyncio.gather(*asking, return_exceptions=True)

    refused = [each for each in told if isinstance(each, BudgetExceeded)]
    held = [each for each in told if isinstance(each, int)]
    assert len(refused) >= 2
    assert all(30 <= ncr <= 60 for ncr in held)
    with Spending(spent_file(home)) as spending:
        assert spending.on(KEY, today()).ncr == 7 + 30 * len(held) <= 100
        assert spending.held(KEY) == 0


async def test_what_was_cut_off_stays_held_and_nobody_can_tell_a_price_holds_all(tmp_path: Path):
    home = Home.at(tmp_path)
    write_budget(home, Budget(per_day=100))
    with Spending(spent_file(home)) as dead:
        dead.hold(Hold("one", KEY, today(), 70), 100, is_daily=True).result()

    assert await answer(home, None, cost=3) == 30
    with pytest.raises(BudgetExceeded, match="70 held"):
        await answer(home, 28, cost=0)


@pytest.mark.parametrize("budget", [0, 50])
async def test_a_spent_budget_still_has_answers_that_cost_nothing(tmp_path: Path, budget: int):
    home = Home.at(tmp_path)
    write_budget(home, Budget(per_day=budget))
    if budget:
        await answer(home, 50, cost=50)

    assert await answer(home, 0, cost=0) == 0
    for expected in (1, None):
        with pytest.raises(BudgetExceeded):
            await answer(home, expected, cost=0)


async def test_without_a_budget_nothing_is_written(tmp_path: Path):
    home = Home.at(tmp_path)

    assert await answer(home, 10, cost=7) is None
    assert not spent_file(home).exists()
    home.client.mkdir(exist_ok=True)
    (home.client / "budget.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot read the budget"):
        read_budget(home)

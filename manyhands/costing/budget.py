"""What a home's own answers may cost: of one, and of all that begin on a day of UTC.

In: a home, a client, a request. Out: the same request, bound to what was set aside for it, and at
the end what it did cost, counted on disk. `generate` and `chat` go through here; a gateway's
callers have budgets of their keys (`manyhands/gateway/allowances.py`), kept in the same form.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhands.gateway.spending import Hold, Spending, Spent, today
from manyhands.home import Home
from manyhands.private_files import write_whole
from protocol.errors import BudgetExceeded, ConfigError

if TYPE_CHECKING:
    from scheduler.client import Client, Generation
    from scheduler.request import GenerationRequest

FILE_NAME, SPENT_NAME, MAX_BYTES = "budget.json", "spent.db", 4096
KEY = "client"  # in the table of what was spent: of all clients of the home
MOST_NCR = 2**53
HEADROOM, LEAST_SHARE = 2, 64  # as for a key's answers


@dataclass(frozen=True, slots=True)
class Budget:
    """In ncr; None: no limit."""

    per_day: int | None = None
    per_answer: int | None = None

    def __post_init__(self) -> None:
        for ncr in (self.per_day, self.per_answer):
            if ncr is not None and not (type(ncr) is int and 0 <= ncr <= MOST_NCR):
                raise ValueError(f"a budget lies in [0, {MOST_NCR}]")

    def to_json(self) -> dict[str, int | None]:
        return {"per_day_ncr": self.per_day, "per_answer_ncr": self.per_answer}


def budget_file(home: Home) -> Path:
    return home.client / FILE_NAME


def spent_file(home: Home) -> Path:
    return home.client / SPENT_NAME


def read_budget(home: Home) -> Budget:
    """
    Raises:
        ConfigError: the file is not as `write_budget` writes it.
    """
    path = budget_file(home)
    try:
        with path.open("rb") as file:
            view = json.loads(file.read(MAX_BYTES))
        return Budget(view["per_day_ncr"], view["per_answer_ncr"])
    except FileNotFoundError:
        return Budget()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        hint = "set it again: manyhands budget set --per-day NCR, or manyhands budget forget"
        raise ConfigError(f"cannot read the budget in {path}", hint=hint) from error


def write_budget(home: Home, budget: Budget) -> None:
    """
    Raises:
        ConfigError: it cannot be written.
    """
    path = budget_file(home)
    if budget != Budget():
        write_whole(path, json.dumps(budget.to_json()).encode() + b"\n")
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot remove {path}: {error.strerror}") from error


def spent_today(home: Home) -> tuple[Spent, int]:
    """What answers of this day have cost, and what those hold that run, or died."""
    path = spent_file(home)
    if not path.exists():
        return Spent(), 0
    with Spending(path) as spending:
        return spending.on(KEY, today()), spending.held(KEY, today())


@dataclass(slots=True)
class Bound:
    """A request within the budget. generation: of it, once it runs."""

    request: "GenerationRequest"
    generation: "Generation | None" = None


@asynccontextmanager
async def within_budget(
    home: Home | None, client: "Client", request: "GenerationRequest"
) -> AsyncIterator[Bound]:
    """Set aside what an answer may cost; when the context ends, count what it did.

    Raises:
        BudgetExceeded: the day's budget has no room for it.
        ConfigError: nobody could tell later, since the disk takes nothing.
    """
    budget = read_budget(home) if home else Budget()
    request = request.capped(budget.per_answer)
    if home is None or budget.per_day is None:
        yield Bound(request)
        return
    expected = await client.expected_ncr(request)
    with Spending(spent_file(home)) as spending:
        hold = await _set_aside(spending, budget.per_day, expected)
        held = Bound(request.capped(hold.ncr))
        try:
            yield held
        finally:
            cost_ncr = held.generation.cost_ncr if held.generation else 0
            spending.add(KEY, Spent(cost_ncr, 0, 1), hold.day, hold)


async def _set_aside(spending: Spending, budget: int, expected: int | None) -> Hold:
    day = today()
    spent, held = spending.on(KEY, day).ncr, spending.held(KEY, day)
    left = budget - spent - held
    if left <= 0 and expected == 0:
        return Hold("", KEY, day, 0)  # what costs nothing needs no room, and is bound to that
    least = 1 if expected is None else expected
    most = left if expected is None else max(HEADROOM * expected, left // LEAST_SHARE, 1)
    while (ncr := min(left, most)) >= least and left > 0:
        hold = Hold(secrets.token_hex(16), KEY, day, ncr)
        lack = await asyncio.wrap_future(spending.hold(hold, budget, is_daily=True))
        if lack <= 0:
            return hold
        left = ncr - lack  # others were quicker since
    told = f"this home's budget for a day (UTC) is {budget:,} ncr; {spent:,} are spent"
    told += f", {held:,} held by answers that run or were cut off" if held else ""
    told += f"; this answer could cost {expected:,}" if expected else ""
    raise BudgetExceeded(told, hint="manyhands budget set --per-day NCR, or wait till tomorrow")


def view_of(home: Home) -> dict[str, Any]:
    """What `budget show --json` prints."""
    spent, held = spent_today(home)
    return {
        "schema": "manyhands/budget/v1",
        "file": str(budget_file(home)),
        **read_budget(home).to_json(),
        "spent_today_ncr": spent.ncr,
        "held_ncr": held,
    }

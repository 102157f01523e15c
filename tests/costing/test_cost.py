"""The cost of a thousand requests, worked out by hand."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from manyhands.costing.command import cost
from manyhands.costing.prices import read_prices
from manyhands.costing.sheet import ApiPrice, Machines, Requests, Sheet
from protocol.errors import UsageError

TABLE = """
dated = "2026-11-01"
currency = "EUR"
[[model]]
name = "cheap"
input_per_mtok = 0.15
output_per_mtok = 0.60
[[model]]
name = "dear"
input_per_mtok = 3
output_per_mtok = 15.00
"""
# A request: 500/1000 + 200/100 = 2.5 s. Machines: 2.00 an hour and 0.5 kW at 0.30.
MACHINES = Machines(
    hour=Decimal("2"),
    watts=Decimal(500),
    kwh=Decimal("0.30"),
    decode_tokens_per_s=Decimal(100),
    prefill_tokens_per_s=Decimal(1000),
)
REQUESTS = Requests(prompt_tokens=Decimal(500), completion_tokens=Decimal(200))
FLAGS = (
    *("--per-hour", "2", "--watts", "500", "--kwh", "0.30", "--tokens-per-s", "100"),
    *("--prompt-tokens-per-s", "1000"),
)


def test_the_sheet_is_what_paper_and_pencil_say() -> None:
    sheet = Sheet(MACHINES, REQUESTS, Decimal("0.5"))
    assert sheet.seconds_per_request == Decimal("2.5")
    # 2500 s = 0.69444 h of work; 2.00 / 0.5 + 0.15 an hour.
    assert round(sheet.per_thousand(), 4) == Decimal("2.8819")
    assert ApiPrice("dear", Decimal(3), Decimal(15)).per_thousand(REQUESTS) == Decimal("4.5")


def test_break_even_is_where_both_cost_the_same() -> None:
    sheet = Sheet(MACHINES, REQUESTS, Decimal("0.5"))
    price = ApiPrice("dear", Decimal(3), Decimal(15))
    even = sheet.break_even(price)
    assert even is not None
    own = 730 * MACHINES.hour + even * sheet.seconds_per_request / 3600 * Decimal("0.15")
    assert abs(own - even * Decimal("0.0045")) < Decimal("0.000001")
    assert sheet.break_even(ApiPrice("free", Decimal(0), Decimal(0))) is None
    cheap = ApiPrice("cheap", Decimal("0.15"), Decimal("0.6"))
    assert sheet.break_even(cheap) is None  # more than these machines can answer


@given(st.decimals("0.01", "1", places=2), st.decimals("0.01", "1", places=2))
def test_idle_machines_cost_more_per_answer(one: Decimal, other: Decimal) -> None:
    sheet = Sheet(MACHINES, REQUESTS, Decimal(1))
    busy, idle = max(one, other), min(one, other)
    assert sheet.per_thousand(busy) <= sheet.per_thousand(idle)


def test_the_command_tells_people_scripts_and_sheets(tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text(TABLE)
    told = CliRunner().invoke(cost, [*FLAGS, "--prices", str(table)])
    assert told.exit_code == 0, told.output
    assert "2.8819 EUR here, at 50% utilisation" in told.output
    assert "332,133 requests a month" in told.output
    view = json.loads(CliRunner().invoke(cost, [*FLAGS, "--prices", str(table), "--json"]).output)
    assert view["own"]["per_thousand"] == "2.881944"
    assert [api["per_thousand"] for api in view["apis"]] == ["0.195", "4.5"]
    lines = CliRunner().invoke(cost, [*FLAGS, "--prices", str(table), "--csv"]).output.splitlines()
    assert lines[0].startswith("who,utilisation")
    assert lines[-1].startswith("dear,,4.5,")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = ", "TOML"),
        ("[[model]]\nname='a'", "dated"),
        ("dated='2026-01-01'", r"\[\[model\]\]"),
        ("dated='2026-01-01'\n[[model]]\ninput_per_mtok=1", "name"),
        ("dated='2026-01-01'\n[[model]]\nname='a'\ninput_per_mtok=-1\noutput_per_mtok=1", "amount"),
    ],
)
def test_a_table_that_is_none_says_why(tmp_path: Path, text: str, why: str) -> None:
    table = tmp_path / "prices.toml"
    table.write_text(text)
    with pytest.raises(UsageError, match=why):
        read_prices(table)


@pytest.mark.parametrize(
    "flags", [["--utilisation", "0"], ["--tokens-per-s", "0"], ["--watts", "-1"]]
)
def test_numbers_that_make_no_sense_are_refused(flags: list[str]) -> None:
    refused = CliRunner().invoke(cost, [*FLAGS, *flags])
    assert isinstance(refused.exception, UsageError)


@pytest.mark.parametrize("amount", ["1e-320", "1e-13", "1e12", "nan", "-Infinity", "1e999999"])
def test_amounts_that_nothing_here_has_are_refused_where_they_are_read(amount: str) -> None:
    refused = CliRunner().invoke(cost, [*FLAGS, "--tokens-per-s", amount])
    assert (refused.exit_code, "Traceback" in refused.output) == (2, False)


def test_the_least_amount_can_be_reckoned_with() -> None:
    told = CliRunner().invoke(cost, [*FLAGS, "--tokens-per-s", "1e-12", "--json"])
    assert told.exit_code == 0, told.output

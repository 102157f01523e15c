"""`manyhands cost`: what a thousand requests cost here, and from how many on that pays.

In: what the machines cost and do, how requests look, a table of prices. Out: tables for people,
JSON or CSV for sheets.
"""

import csv
import json
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from manyhands.options import json_option
from protocol.errors import UsageError

LEAST, MOST = Decimal(10) ** -12, Decimal(10) ** 12  # of what is not 0


class Amount(click.ParamType[Decimal]):
    """A decimal, as it was written: 0, or of a size that machines and prices have."""

    name = "amount"

    def convert(self, value: Any, param: Any, ctx: Any) -> Decimal:
        try:
            amount = Decimal(value)
        except InvalidOperation:
            self.fail(f"not a number: {str(value)[:40]!r}", param, ctx)
        if not amount.is_finite() or (amount and not LEAST <= abs(amount) < MOST):
            self.fail(f"not an amount: {str(value)[:40]!r}", param, ctx)
        return amount


AMOUNT = Amount()


@click.command(short_help="What a thousand requests cost, here and elsewhere.")
@click.option("--per-hour", type=AMOUNT, default="0", metavar="X", help="Hardware and hosting.")
@click.option("--watts", type=AMOUNT, default="0", metavar="W", help="Drawn while it works.")
@click.option("--kwh", type=AMOUNT, default="0", metavar="X", help="Price of electricity.")
@click.option(
    "--tokens-per-s",
    type=AMOUNT,
    required=True,
    metavar="N",
    help="Of all answers together, as `manyhands status` or a benchmark tells.",
)
@click.option(
    "--prompt-tokens-per-s", type=AMOUNT, metavar="N", help="Default: ten times --tokens-per-s."
)
@click.option("--prompt-tokens", type=AMOUNT, default="500", metavar="N", help="Default: 500.")
@click.option("--completion-tokens", type=AMOUNT, default="200", metavar="N", help="Default: 200.")
@click.option("--utilisation", type=AMOUNT, default="0.5", metavar="SHARE", help="Default: 0.5.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A dated table of what APIs charge, in TOML: see docs/cost.md.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Lines for a spreadsheet.")
@json_option
def cost(
    per_hour: Decimal,
    watts: Decimal,
    kwh: Decimal,
    tokens_per_s: Decimal,
    prompt_tokens_per_s: Decimal | None,
    prompt_tokens: Decimal,
    completion_tokens: Decimal,
    utilisation: Decimal,
    prices: Path | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """What a thousand requests cost on these machines; from how many a month on they are cheaper
    than an API; what electricity alone takes."""
    from manyhands.costing.prices import read_prices
    from manyhands.costing.sheet import Machines, Requests, Sheet

    if as_csv and as_json:
        raise UsageError("--csv or --json, not both")
    table = read_prices(prices) if prices else None
    sheet = Sheet(
        Machines(
            hour=per_hour,
            watts=watts,
            kwh=kwh,
            decode_tokens_per_s=tokens_per_s,
            prefill_tokens_per_s=(
                10 * tokens_per_s if prompt_tokens_per_s is None else prompt_tokens_per_s
            ),
        ),
        Requests(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens),
        utilisation,
        table.prices if table else (),
    )
    view = sheet.view() | {
        "currency": table.currency if table else "USD",
        "prices_dated": table.dated if table else None,
    }
    if as_json:
        click.echo(json.dumps(view))
    elif as_csv:
        _write_csv(view)
    else:
        _show(view)


def _write_csv(view: dict[str, Any]) -> None:
    lines = csv.writer(sys.stdout, lineterminator="\n")
    own = view["own"]
    lines.writerow(["who", "utilisation", "per_thousand", "break_even_requests_per_month"])
    lines.writerow(["own", own["utilisation"], own["per_thousand"], ""])
    for row in view["by_utilisation"]:
        lines.writerow(["own", row["utilisation"], row["per_thousand"], ""])
    for api in view["apis"]:
        even = api["break_even_requests_per_month"]
        name = api["name"]
        safe = f"'{name}" if name[:1] in "=+-@\t" else name  # a spreadsheet would compute it
        lines.writerow([safe, "", api["per_thousand"], "" if even is None else even])


def _show(view: dict[str, Any]) -> None:
    own, money = view["own"], view["currency"]
    click.echo(
        f"A thousand requests cost {_short(own['per_thousand'])} {money} here, at "
        f"{own['utilisation']:.0%} utilisation; electricity is "
        f"{_short(own['electricity_per_thousand'])} {money} of that."
    )
    click.echo(
        f"One takes {own['seconds_per_request']:g} s of the machines; they could answer "
        f"{own['requests_per_month']:,} a month."
    )
    click.echo(f"\n{'utilisation':>12}  {'per thousand':>14}")
    for row in view["by_utilisation"]:
        click.echo(f"{row['utilisation']:>12.0%}  {_short(row['per_thousand']):>14}")
    if view["apis"]:
        click.echo(f"\nPrices of {view['prices_dated']}:")
        width = max(len(api["name"]) for api in view["apis"])
        click.echo(f"{'':<{width}}  {'per thousand':>14}  cheaper here from")
        for api in view["apis"]:
            even = api["break_even_requests_per_month"]
            said = "never with these machines" if even is None else f"{even:,} requests a month"
            click.echo(f"{api['name']:<{width}}  {_short(api['per_thousand']):>14}  {said}")


def _short(amount: str) -> str:
    return f"{Decimal(amount):,.4f}"

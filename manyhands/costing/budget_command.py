"""`manyhands budget set | show | forget`: what this home's own answers may cost.

In: nanocredits, for a day of UTC and for one answer. Out: a file beside the clients' key, which
`generate` and `chat` keep to; and what the day has cost so far.
"""

import json
from pathlib import Path

import click

from manyhands.costing.budget import Budget, read_budget, view_of, write_budget
from manyhands.home import Home
from manyhands.options import home_option, json_option
from protocol.errors import UsageError


@click.group(short_help="What this home's answers may cost, by day and each.")
def budget() -> None:
    """What this home's own answers may cost. Callers of a gateway have budgets of their keys."""


@budget.command("set")
@click.option("--per-day", type=click.IntRange(min=0), metavar="NCR", help="All of a day of UTC.")
@click.option("--per-answer", type=click.IntRange(min=0), metavar="NCR", help="Each of them.")
@home_option
@json_option
def set_budget(
    per_day: int | None, per_answer: int | None, home: Path | None, as_json: bool
) -> None:
    """Let answers cost no more than that, from the next one on. What is not named stays."""
    if per_day is None and per_answer is None:
        raise UsageError("a budget of what?", hint="--per-day NCR, --per-answer NCR, or both")
    place = Home.at(home)
    known = read_budget(place)
    try:
        wanted = Budget(
            known.per_day if per_day is None else per_day,
            known.per_answer if per_answer is None else per_answer,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    write_budget(place, wanted)
    _say(place, as_json)


@budget.command()
@home_option
@json_option
def show(home: Path | None, as_json: bool) -> None:
    """What it is, and what this day has cost."""
    _say(Home.at(home), as_json)


@budget.command()
@home_option
@json_option
def forget(home: Path | None, as_json: bool) -> None:
    """Answers may cost anything again."""
    place = Home.at(home)
    write_budget(place, Budget())
    _say(place, as_json)


def _say(home: Home, as_json: bool) -> None:
    view = view_of(home)
    if as_json:
        click.echo(json.dumps(view))
        return
    for name, key in (("a day (UTC)", "per_day_ncr"), ("an answer", "per_answer_ncr")):
        limit = view[key]
        click.echo(f"{name:<12} {'no limit' if limit is None else f'{limit:,} ncr'}")
    held = f", {view['held_ncr']:,} held" if view["held_ncr"] else ""
    counted = "" if view["per_day_ncr"] is not None else " while there was a budget for the day"
    click.echo(f"today        {view['spent_today_ncr']:,} ncr spent{held}{counted}")

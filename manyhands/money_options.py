"""The flags of `serve` that say what it asks for, and whom it lends how much."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def money_options(command: Command) -> Command:
    for option in (
        click.option(
            "--newcomer-allowance",
            type=click.IntRange(min=0),
            default=100_000,
            metavar="TL",
            help="Where a price is asked: what somebody who never served or settled gets a "
            "day, while nobody else wants the room. Default: 100,000 token-layers.",
        ),
        click.option(
            "--disconnect-threshold",
            type=click.IntRange(min=0),
            default=2_000_000,
            metavar="TL",
            help="Where a price is asked: a debt beyond this ends sessions that run. "
            "Default: two million.",
        ),
        click.option(
            "--payment-threshold",
            type=click.IntRange(min=0),
            default=1_000_000,
            metavar="TL",
            help="Where a price is asked: who owes more than so many token-layers settles before "
            "a new session. Default: a million.",
        ),
        click.option(
            "--prepaid",
            type=click.IntRange(min=0),
            default=0,
            metavar="NCR",
            help="Where a price is asked: what a client promises for each session before anything "
            "is run, and pays at least. Default: nothing.",
        ),
        click.option(
            "--price-per-mtl",
            type=click.IntRange(min=0),
            metavar="NCR",
            help="Nanocredits per million tokens through one block. Default: what `manyhands price "
            "set` says, else free.",
        ),
    ):
        command = option(command)
    return command

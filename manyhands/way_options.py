"""The flags of `serve` that say by which ways others reach a node, and whom it carries."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from manyhands.options import EndpointType, RelayType, SizeType

RELAY_PORT = 31402

Command = TypeVar("Command", bound=Callable[..., Any])


def ways_options(command: Command) -> Command:
    for option in (
        click.option(
            "--via",
            type=RelayType(),
            multiple=True,
            help="Be reachable through this relay, or auto: through some that the swarm has.",
        ),
        click.option(
            "--relay-limit",
            type=SizeType(),
            default="12MiB",
            help="With --relay: bytes a second, in the long run, of all together. Default: 12MiB.",
        ),
        click.option(
            "--relay",
            type=EndpointType(),
            is_flag=False,
            flag_value=f"0.0.0.0:{RELAY_PORT}",
            help="Carry bytes of nodes that nobody can dial. Listens on "
            f"0.0.0.0:{RELAY_PORT} unless told.",
        ),
        click.option("--map-port", is_flag=True, help="Ask the router to forward a port here."),
        click.option(
            "--announce",
            type=EndpointType(),
            help="Where others reach it, if not where it listens: what a router forwards here.",
        ),
    ):
        command = option(command)
    return command

"""What `serve` may take of a machine that its owner uses, too: the flags, and what they come to.

In: `--hours`, `--on-battery`, `--when-idle`, and what this machine can say of itself. Out: the
wishes that `node.pausing` keeps, or an error where one of them could never be kept.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from manyhands.progress import say
from node.manners import Hours, Sensed, Wishes
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from manyhands.preparing import Wanted

Command = TypeVar("Command", bound=Callable[..., Any])


class HoursType(click.ParamType[Any]):
    """`22-7`, or several ranges with commas."""

    name = "HOURS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Hours:
        if isinstance(value, Hours):
            return value
        try:
            return Hours.parse(value)
        except ValueError as error:
            self.fail(f"{error}: write 22-7, or 12:30-13:45,22-7", param, ctx)


def manners_options(command: Command) -> Command:
    for option in (
        click.option(
            "--when-idle",
            "when_idle_min",
            type=click.FloatRange(min=0, min_open=True),
            metavar="MINUTES",
            help="Serve when nobody has used this machine for so long. Where the system does not "
            "tell that, the node does not start; where it ceases to tell, it pauses.",
        ),
        click.option(
            "--on-battery",
            type=click.Choice(["serve", "pause"]),
            default="serve",
            help="On battery: serve, the default, or pause. A machine that tells of no battery "
            "has none.",
        ),
        click.option(
            "--hours",
            type=HoursType(),
            help="Serve at these hours of the day, by this machine's clock: 22-7, or several: "
            "12:30-13:45,22-7. Default: always.",
        ),
    ):
        command = option(command)
    return command


def wishes_of(wanted: "Wanted") -> Wishes:
    """
    Raises:
        ConfigError: nobody could tell when to keep one of them.
    """
    idle_min = wanted.when_idle_min
    wishes = Wishes(
        hours=wanted.hours,
        pauses_on_battery=wanted.on_battery == "pause",
        when_idle_s=None if idle_min is None else idle_min * 60,
    )
    if wishes:
        sensed = sensing()(wishes)
        if idle_min is not None and sensed.idle_s is None:
            raise ConfigError(
                "this system does not tell when somebody last used it, so --when-idle is nothing "
                "to go by",
                hint="leave out --when-idle, or say when you need the machine: --hours 22-7",
            )
        if wishes.pauses_on_battery and sensed.on_battery is None:
            say("note: this machine tells of no battery, so --on-battery pause changes nothing")
        if wishes.hours is not None:
            say(f"hours: {wishes.hours}, by the clock of this machine ({time.strftime('%H:%M')})")
    return wishes


def sensing() -> Callable[[Wishes], Sensed]:
    """What asks this machine; its desktop is found by this process's environment."""
    from node.sensors import sense

    return partial(sense, environment=dict(os.environ))

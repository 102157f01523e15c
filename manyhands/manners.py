"""What `serve` may take of a machine that its owner uses, too: the flags, and what they come to.

In: `--hours`, `--on-battery`, `--when-idle`, and what this machine can say of itself. Out: the
wishes that `node.pausing` keeps, or an error where one of them could never be kept.
"""

import os
import re
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from manyhands.machine import MAX_NICE
from manyhands.progress import say
from node.manners import Hours, Sensed, Wishes
from node.pacing import LEAST_BYTES_PER_S
from node.share import Share
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from manyhands.preparing import Wanted

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?|bit)(?:/s|ps)?")

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


class ShareType(click.ParamType[Any]):
    """`80%`, or bytes: `12GiB`."""

    name = "SIZE|PERCENT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Share:
        if isinstance(value, Share):
            return value
        try:
            return Share.parse(value)
        except ValueError as error:
            self.fail(f"{error}: write 80% or 12GiB", param, ctx)


class RateType(click.ParamType[Any]):
    """Bytes per second: `2MB`, `500KiB/s` in powers of 1024, or `20Mbit` in powers of 1000."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        matched = _RATE.fullmatch(value.strip().lower())
        if not matched:
            self.fail(f"{value!r} is no rate: write 2MB/s or 20Mbit", param, ctx)
        power = " kmgt".index(matched[2] or " ")
        is_bits = "bit" in matched[3]
        number = float(matched[1]) * (1000**power / 8 if is_bits else 1024**power)
        if number < LEAST_BYTES_PER_S:
            self.fail(f"{value} is less than any session needs: 64KiB/s at least", param, ctx)
        return int(number)


def memory_options(command: Command) -> Command:
    for option in (
        click.option(
            "--max-memory",
            type=ShareType(),
            help="On the CPU: at most so much of this machine's memory, or so many percent of it.",
        ),
        click.option(
            "--max-vram",
            type=ShareType(),
            help="On GPUs: at most so much of the memory of each, or so many percent of it.",
        ),
    ):
        command = option(command)
    return command


def share_of(device: str, *, max_vram: Share | None, max_memory: Share | None) -> Share | None:
    """Which of the two is about the memory that `device` computes in."""
    return max_vram if device.startswith("cuda") else max_memory


def manners_options(command: Command) -> Command:
    command = memory_options(command)
    for option in (
        click.option(
            "--max-bandwidth",
            type=RateType(),
            default=0,
            help="Rows, caches and weights for peers, each way: 20Mbit, 2MB/s. Default: no limit.",
        ),
        click.option(
            "--nice",
            type=click.IntRange(0, MAX_NICE),
            default=0,
            metavar="N",
            help="Give way on the processor to what else runs here, as nice does: 1 to 19. "
            "Default: 0, not.",
        ),
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

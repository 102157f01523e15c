"""Amounts as people write them: credits, `2.5`; or nanocredits, `2500ncr`."""

import re
from typing import Any

import click

from protocol.canonical import MAX_UINT

NCR = 10**9  # to a credit
_CREDITS = re.compile(r"(\d{1,10})(?:\.(\d{1,9}))?")
_NCR = re.compile(r"(\d{1,19})ncr")


class AmountType(click.ParamType[Any]):
    name = "CREDITS|Nncr"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        amount = parse_amount(str(value))
        if amount is None:
            self.fail(
                f"{value!r} is no amount: credits as 2.5, with up to 9 decimals, or 2500ncr",
                param,
                ctx,
            )
        if not 0 < amount <= MAX_UINT:
            self.fail(f"an amount is above 0 and below 2^63 ncr, not {value}", param, ctx)
        return amount


def parse_amount(text: str) -> int | None:
    """In ncr; None: it is none."""
    if match := _NCR.fullmatch(text):
        return int(match[1])
    if match := _CREDITS.fullmatch(text):
        return int(match[1]) * NCR + int((match[2] or "").ljust(9, "0"))
    return None


def show_amount(ncr: int) -> str:
    """In credits, with no more decimals than it has."""
    whole, rest = divmod(abs(ncr), NCR)
    decimals = f"{rest:09d}".rstrip("0")
    return f"{'−' if ncr < 0 else ''}{whole:,}{'.' if decimals else ''}{decimals}"

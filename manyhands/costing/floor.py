"""The electricity floor: what a million positions through one block cost to compute, at least.

In: how fast a span is, what it draws, what electricity costs. Out: nanocredits, rounded up. A
credit is taken to be worth one unit of the money that electricity is priced in; a swarm that values
it otherwise scales all of it alike. A price below the floor is a donation, which nothing forbids.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from manyhands.costing.own_price import MOST_NCR
from manyhands.costing.sheet import MILLION, THOUSAND
from protocol.errors import UsageError

NCR_PER_CREDIT = Decimal(10**9)
HOUR_S = Decimal(3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """watts: drawn because of the work. kwh: the price of a kilowatt-hour. pue: what the building
    draws for each watt of the machine."""

    watts: Decimal
    kwh: Decimal
    pue: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        if self.watts < 0 or self.kwh < 0:
            raise UsageError("neither power nor its price is below 0")
        if self.pue < 1:
            raise UsageError("--pue is 1 or more: a building draws what its machines do")

    @property
    def per_hour(self) -> Decimal:
        return self.watts / THOUSAND * self.kwh * self.pue


def floor_ncr(power: Power, token_layers_per_s: Decimal) -> int:
    """Of a million token-layers."""
    if token_layers_per_s <= 0:
        raise UsageError("a span that computes nothing has no floor")
    hours = MILLION / token_layers_per_s / HOUR_S
    return _price(lambda: hours * power.per_hour * NCR_PER_CREDIT)


def with_margin(ncr: int, margin: Decimal) -> int:
    """margin: a share of the floor, 0.2 for a fifth more."""
    if margin < 0:
        raise UsageError("--margin is 0 or more")
    return _price(lambda: ncr * (1 + margin))


def _price(ncr: Callable[[], Decimal]) -> int:
    """
    Raises:
        UsageError: it is more than any node may ask.
    """
    try:
        value = ncr()
        if value <= MOST_NCR:
            return int(value.to_integral_value(ROUND_CEILING))
    except ArithmeticError:
        pass
    raise UsageError(
        f"that comes to more than {MOST_NCR} ncr, the most a node may ask",
        hint="compare --kwh, --watts, --pue and --margin with what you measured",
    )

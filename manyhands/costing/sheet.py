"""The sheet: cost per thousand requests, break-even, and how both move with utilisation. Pure.

In: what a machine costs per hour, how fast it is, how requests look, and dated prices of others.
Out: amounts as decimals in one currency. A request takes the machine for its prompt's and its
answer's time; hours in which nobody asks cost as much, so utilisation divides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

from protocol.errors import UsageError

HOURS_PER_MONTH = Decimal(730)
UTILISATIONS = tuple(map(Decimal, ("0.1", "0.25", "0.5", "0.75", "1")))
THOUSAND, MILLION = Decimal(1000), Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """hour: hardware, hosting and people, per hour. watts: drawn while it works."""

    hour: Decimal = Decimal(0)
    watts: Decimal = Decimal(0)
    kwh: Decimal = Decimal(0)
    decode_tokens_per_s: Decimal
    prefill_tokens_per_s: Decimal

    def __post_init__(self) -> None:
        _require(min(self.hour, self.watts, self.kwh) >= 0, "no cost is below 0")
        _require(self.decode_tokens_per_s > 0, "--tokens-per-s is above 0")
        _require(self.prefill_tokens_per_s > 0, "--prompt-tokens-per-s is above 0")

    @property
    def electricity_hour(self) -> Decimal:
        return self.watts / THOUSAND * self.kwh

    @property
    def all_hour(self) -> Decimal:
        return self.hour + self.electricity_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """A request as it is on average."""

    prompt_tokens: Decimal
    completion_tokens: Decimal

    def __post_init__(self) -> None:
        _require(self.prompt_tokens >= 0, "--prompt-tokens is 0 or more")
        _require(self.completion_tokens >= 0, "--completion-tokens is 0 or more")
        _require(self.prompt_tokens + self.completion_tokens > 0, "a request has a token")


@dataclass(frozen=True, slots=True)
class ApiPrice:
    """What an API charges for a million tokens in and out."""

    name: str
    input_per_mtok: Decimal
    output_per_mtok: Decimal

    def per_thousand(self, requests: Requests) -> Decimal:
        tokens = (
            requests.prompt_tokens * self.input_per_mtok
            + requests.completion_tokens * self.output_per_mtok
        )
        return tokens * THOUSAND / MILLION


@dataclass(frozen=True, slots=True)
class Sheet:
    """utilisation: the share of time in which the machines work for somebody."""

    machines: Machines
    requests: Requests
    utilisation: Decimal
    prices: Sequence[ApiPrice] = ()

    def __post_init__(self) -> None:
        _require(0 < self.utilisation <= 1, "--utilisation lies in (0, 1]")

    @property
    def seconds_per_request(self) -> Decimal:
        requests, machines = self.requests, self.machines
        return (
            requests.prompt_tokens / machines.prefill_tokens_per_s
            + requests.completion_tokens / machines.decode_tokens_per_s
        )

    @property
    def requests_per_month(self) -> Decimal:
        """At most, with the machines always at work."""
        return HOURS_PER_MONTH * 3600 / self.seconds_per_request

    def per_thousand(self, utilisation: Decimal | None = None) -> Decimal:
        """Own cost of a thousand requests. Electricity is drawn for work alone."""
        hours = self.seconds_per_request * THOUSAND / 3600
        share = self.utilisation if utilisation is None else utilisation
        return hours * (self.machines.hour / share + self.machines.electricity_hour)

    def break_even(self, price: ApiPrice) -> Decimal | None:
        """Requests a month from which one's own machines are cheaper; None: never.

        A month of machines is paid whether they work or not; each request costs electricity.
        """
        theirs = price.per_thousand(self.requests) / THOUSAND
        electricity = self.seconds_per_request / 3600 * self.machines.electricity_hour
        if theirs <= electricity:
            return None
        needed = HOURS_PER_MONTH * self.machines.hour / (theirs - electricity)
        return needed if needed <= self.requests_per_month else None

    def view(self) -> dict[str, Any]:
        return {
            "schema": "manyhands/cost/v1",
            "own": {
                "per_thousand": _money(self.per_thousand()),
                "electricity_per_thousand": _money(
                    self.seconds_per_request * THOUSAND / 3600 * self.machines.electricity_hour
                ),
                "hour": _money(self.machines.all_hour),
                "seconds_per_request": float(round(self.seconds_per_request, 4)),
                "requests_per_month": int(self.requests_per_month),
                "utilisation": float(self.utilisation),
            },
            "by_utilisation": [
                {"utilisation": float(share), "per_thousand": _money(self.per_thousand(share))}
                for share in UTILISATIONS
            ],
            "apis": [self._api(price) for price in self.prices],
        }

    def _api(self, price: ApiPrice) -> dict[str, Any]:
        theirs, even = price.per_thousand(self.requests), self.break_even(price)
        return {
            "name": price.name,
            "per_thousand": _money(theirs),
            "own_is": _money(self.per_thousand() / theirs) if theirs else None,
            "break_even_requests_per_month": None
            if even is None
            else int(even.to_integral_value(ROUND_CEILING)),
        }


def _money(amount: Decimal) -> str:
    """Exact to a millionth, and no float."""
    return str(round(amount, 6).normalize() + 0)


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise UsageError(rule)

"""What a credit is worth in money: as a swarm's policy says, or as two people agreed elsewhere.

In: a policy, or a currency and an exact decimal. Out: amounts of nanocredits as exact decimals of
that currency, never floats. ISO 4217 has XXX for no currency.
"""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Self

from ledger.lines import CREDIT_DECIMALS
from ledger.policy import SETTLED, Policy
from ledger.swarms import policy_at
from protocol.errors import UsageError

NO_CURRENCY = "XXX"
MAX_DECIMALS = 64  # of what a credit is worth; so amounts are printed in no time
UNIT_PLACES = 18  # of a price for one token-layer, which is far below an ncr


@dataclass(frozen=True, slots=True)
class Worth:
    """Of one credit."""

    currency: str = NO_CURRENCY
    per_credit: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        is_code = len(self.currency) == 3 and self.currency.isascii() and self.currency.isalpha()
        if not is_code or not self.currency.isupper():
            raise UsageError(f"a currency is three letters, as USD, not {self.currency[:20]!r}")
        if not self.per_credit.is_finite() or not 0 <= self.per_credit < 10**9:
            raise UsageError("a credit is worth 0 or more of a currency")
        exponent = self.per_credit.as_tuple().exponent
        if not isinstance(exponent, int) or abs(exponent) > MAX_DECIMALS:
            raise UsageError(f"what a credit is worth has at most {MAX_DECIMALS} decimals")

    @classmethod
    def by(cls, policy: Policy) -> Self | None:
        """None: the policy names no currency."""
        if policy.mode != SETTLED:
            return None
        return cls(policy.currency, Decimal(policy.credit_micros).scaleb(-6))

    def of(self, ncr: int) -> str:
        digits = self.per_credit.as_tuple()
        exponent = digits.exponent
        assert isinstance(exponent, int), "finite, as checked"
        value = int("".join(map(str, digits.digits))) * ncr  # exact, whatever the context's digits
        return decimal_text(value, CREDIT_DECIMALS - exponent)

    def each(self, ncr: int, n: int) -> str:
        """For one of `n`, to 18 places; nothing, where there is none to price."""
        if not n:
            return ""
        digits = self.per_credit.as_tuple()
        exponent = digits.exponent
        assert isinstance(exponent, int), "finite, as checked"
        value = int("".join(map(str, digits.digits))) * ncr
        places = CREDIT_DECIMALS - exponent
        if places < UNIT_PLACES:
            value, places = value * 10 ** (UNIT_PLACES - places), UNIT_PLACES
        return decimal_text((2 * value + n) // (2 * n), places)


def worth_at(home: Path) -> Worth | None:
    """In the swarm of this home.

    Raises:
        ConfigError: its membership cannot be read.
    """
    return Worth.by(policy_at(home))


def decimal_text(value: int, places: int) -> str:
    """`value` / 10^`places`, written out."""
    sign, value = "-" * (value < 0), abs(value)
    if places <= 0:
        return f"{sign}{value * 10**-places}"
    text = f"{value // 10**places}.{value % 10**places:0{places}}"
    return sign + text.rstrip("0").rstrip(".")

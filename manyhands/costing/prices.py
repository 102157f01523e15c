"""A dated table of what APIs charge, from a file that its owner keeps up to date.

    dated = "2026-11-01"
    currency = "USD"

    [[model]]
    name = "some-model"
    input_per_mtok = 0.15
    output_per_mtok = 0.60

Amounts are read as decimals, not as floats.
"""

import tomllib
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from manyhands.costing.sheet import ApiPrice
from protocol.errors import UsageError

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PriceTable:
    dated: str
    currency: str
    prices: tuple[ApiPrice, ...]


def read_prices(path: Path) -> PriceTable:
    """
    Raises:
        UsageError: what is wrong with the file, and where.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than a table of prices is")
        table = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as TOML: {error}") from error
    dated = table.get("dated")
    if not isinstance(dated, str | date):
        raise UsageError(f'{path} does not say of when its prices are: dated = "2026-11-01"')
    models = table.get("model")
    if not isinstance(models, list) or not models:
        raise UsageError(f"{path} has no [[model]]")
    currency = table.get("currency", "USD")
    prices = tuple(_price(path, at, each) for at, each in enumerate(models))
    return PriceTable(str(dated), str(currency), prices)


def _price(path: Path, at: int, model: Any) -> ApiPrice:
    where = f"{path}, model {at + 1}"
    if not isinstance(model, dict) or not isinstance(name := model.get("name"), str):
        raise UsageError(f"{where} has no name")
    amounts = []
    for field in ("input_per_mtok", "output_per_mtok"):
        value = model.get(field)
        if isinstance(value, bool) or not (isinstance(value, int | Decimal) and _is_price(value)):
            raise UsageError(f"{where} ({name}): {field} is an amount of 0 or more")
        amounts.append(Decimal(value))
    return ApiPrice(name, *amounts)


def _is_price(value: int | Decimal) -> bool:
    return Decimal(value).is_finite() and 0 <= value < 10**9

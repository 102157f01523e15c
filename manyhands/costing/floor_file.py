"""The electricity floor that `price suggest` found last, kept beside the price of the home's node.

In: a home. Out: what a million token-layers cost in electricity, of which model, on which day. It
is shown beside the price and changes nothing.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from manyhands.costing.own_price import Price
from manyhands.home import Home
from manyhands.private_files import write_whole

FILE_NAME, MAX_BYTES = "floor.json", 4096


@dataclass(frozen=True, slots=True)
class Floor:
    model: str
    day: str  # of UTC
    price: Price


def floor_file(home: Home) -> Path:
    return home.node / FILE_NAME


def read_floor(home: Home) -> Floor | None:
    """None: nobody has found one here, or what they wrote cannot be read."""
    try:
        with floor_file(home).open("rb") as file:
            view = json.loads(file.read(MAX_BYTES))
        price = Price(view["prefill_ncr_per_mtl"], view["decode_ncr_per_mtl"])
        return Floor(str(view["model"]), str(view["day"]), price)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_floor(home: Home, floor: Floor) -> None:
    """
    Raises:
        ConfigError: it cannot be written.
    """
    view = {"model": floor.model, "day": floor.day, **floor.price.to_json()}
    write_whole(floor_file(home), json.dumps(view).encode() + b"\n")

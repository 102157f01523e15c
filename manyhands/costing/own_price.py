"""The price that a home's node asks, kept beside its key: `serve` takes it when it is told none.

In: a home. Out: nanocredits for a million positions through one block, of prompts and of answers.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from manyhands.home import Home
from manyhands.private_files import write_whole
from protocol.errors import ConfigError

FILE_NAME, MAX_BYTES = "price.json", 4096
MOST_NCR = 10**15  # a million credits: a slip of the hand, and far from what overflows


@dataclass(frozen=True, slots=True)
class Price:
    """ncr per million token-layers."""

    prefill: int = 0
    decode: int = 0

    def __post_init__(self) -> None:
        for ncr in (self.prefill, self.decode):
            if type(ncr) is not int or not 0 <= ncr <= MOST_NCR:
                raise ValueError(f"a price lies in [0, {MOST_NCR}]")

    def to_json(self) -> dict[str, int]:
        return {"prefill_ncr_per_mtl": self.prefill, "decode_ncr_per_mtl": self.decode}


FREE = Price()


def price_file(home: Home) -> Path:
    return home.node / FILE_NAME


def read_price(home: Home) -> Price | None:
    """None: none was set.

    Raises:
        ConfigError: the file is not as `write_price` writes it.
    """
    path = price_file(home)
    try:
        with path.open("rb") as file:
            view = json.loads(file.read(MAX_BYTES))
        return Price(view["prefill_ncr_per_mtl"], view["decode_ncr_per_mtl"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"cannot read the price in {path}", hint="set it again: manyhands price set"
        ) from error


def write_price(home: Home, price: Price | None) -> None:
    """None: forget it.

    Raises:
        ConfigError: it cannot be written.
    """
    path = price_file(home)
    if price is not None:
        write_whole(path, json.dumps(price.to_json()).encode() + b"\n")
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot remove {path}: {error.strerror}") from error

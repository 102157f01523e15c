"""Numbers of a config.json that no model has: refused before any library builds what they ask for.

In: a configuration as parsed, from anybody. Out: nothing, or a `BadModel` that names the number.
Libraries make lists and modules by these numbers, so that a file of a few lines could take all
memory. The limits are some twenty times what the largest published models have.
"""

import re
from collections.abc import Mapping
from typing import Any

from protocol.errors import BadModel

MAX_BLOCKS = 4096
MAX_COUNT = 16384  # of experts, heads and groups in a block
MAX_SIZE = 1 << 24  # of a row, a vocabulary, a head

_LIMITS = (
    (re.compile(r"(?:^|_)(?:layers?|blocks|depth)$"), MAX_BLOCKS),
    (re.compile(r"(?:^|_)(?:experts|heads?|groups?)$"), MAX_COUNT),
    (
        re.compile(r"(?:hidden|intermediate|vocab|ffn|embedding|embd|inner)(?:_size|_dim)?$"),
        MAX_SIZE,
    ),
    (re.compile(r"^d_(?:model|ff|kv)$|(?:head_dim|_rank)$"), MAX_SIZE),
)
REFETCH = "fetch the checkpoint again, from a publisher you trust"


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Return if all counts and sizes, at whatever depth, are such as models have.

    Raises:
        BadModel: one is absurd.
    """
    todo: list[Mapping[str, Any]] = [config]
    while todo:
        for name, value in todo.pop().items():
            if isinstance(value, Mapping):
                todo.append(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                _check(name, value, where)


def _check(name: str, value: float, where: str) -> None:
    limit = next((limit for named, limit in _LIMITS if named.search(name)), None)
    if limit is not None and not value <= limit:  # nor NaN
        raise BadModel(
            f"config.json in {where} says {name} is {value}, and no model has more than {limit}",
            hint=REFETCH,
        )

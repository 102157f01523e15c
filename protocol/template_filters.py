"""The filters that a chat template may use, each of which says what it will make or walk through.

In: jinja2's own filters. Out: those of them that are known here, under the budget of
`template_budget.py`. One that is not named does not exist.
"""

import re
from collections.abc import Callable, Mapping, ValuesView
from functools import wraps
from typing import Any

import jinja2
from jinja2 import pass_environment
from jinja2.filters import make_attrgetter

from protocol.template_budget import ITEM_CHARS, Refused, length, made, walked, weight

Filter = Callable[..., Any]

WALKING = frozenset(
    {"abs", "attr", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last",
     "length", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort",
     "unique"}
)  # fmt: skip
READING = frozenset(
    {"capitalize", "e", "escape", "forceescape", "list", "lower", "reverse", "safe", "string",
     "striptags", "title", "trim", "truncate", "upper", "urlencode", "wordcount"}
)  # fmt: skip
MAX_PRECISION = 30
_WIDE = re.compile(r"%[^a-zA-Z%]*(?:\d{5}|\*)")  # a format that pads by much


def bounded(known: Mapping[str, Filter]) -> dict[str, Filter]:
    """All that templates may use."""
    filters = {name: _walking(known[name]) for name in WALKING}
    filters |= {name: _reading(known[name]) for name in READING}
    filters |= {"replace": replaced, "join": joined, "indent": _indent(known["indent"])}
    return filters | {"format": _format, "round": _round(known["round"]), "sum": _sum}


def _walking(filter: Filter) -> Filter:
    @wraps(filter)
    def checked(*args: Any, **kwargs: Any) -> Any:
        walked(1 + sum(map(length, args[:2])))  # the first may be jinja2's own
        return filter(*args, **kwargs)

    return checked


def _reading(filter: Filter) -> Filter:
    @wraps(filter)
    def checked(*args: Any, **kwargs: Any) -> Any:
        made(weight(*args, *kwargs.values()))
        answer = filter(*args, **kwargs)
        if isinstance(answer, list):
            made(ITEM_CHARS * len(answer))
        return answer

    return checked


def replaced(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    made(weight(value, old, new))
    text, before, after = str(value), str(old), str(new)
    most = -1 if count is None else count
    times = text.count(before) if most < 0 else min(most, text.count(before))
    made(len(text) + times * len(after))
    return text.replace(before, after, most)


@pass_environment
def joined(
    environment: jinja2.Environment, value: Any, d: Any = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    items = list(value)
    made(weight(items, d) + len(items) * weight(d))
    return str(d).join(map(str, items))


@pass_environment
def _sum(
    environment: jinja2.Environment, value: Any, attribute: str | int | None = None, start: Any = 0
) -> Any:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    items = list(value)
    walked(len(items))
    if not all(isinstance(each, int | float) for each in (start, *items)):
        raise Refused("a sum is of numbers")
    return sum(items, start)


def _indent(filter: Filter) -> Filter:
    @wraps(filter)
    def checked(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
        made(weight(s, width))
        step = len(width) if isinstance(width, str) else int(width)
        made(len(str(s)) + max(0, step) * (len(str(s).splitlines()) + 1))
        return filter(s, width, first, blank)

    return checked


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    made(weight(value))
    text = str(value)
    check_percent(text, kwargs or args)
    return text % (kwargs or args)


def check_percent(text: str, values: Any) -> None:
    if _WIDE.search(text):
        raise Refused("% would make too much")
    listed = values.values() if isinstance(values, dict) else values
    each = listed if isinstance(listed, tuple | ValuesView) else (listed,)
    made(len(text) + text.count("%") * max(map(weight, each), default=0))


def _round(filter: Filter) -> Filter:
    @wraps(filter)
    def checked(value: Any, precision: int = 0, method: str = "common") -> Any:
        if abs(int(precision)) > MAX_PRECISION:
            raise Refused("round would make too much")
        return filter(value, precision, method)

    return checked

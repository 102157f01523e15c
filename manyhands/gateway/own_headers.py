"""The headers `X-Manyhands-*`: what a request may say by them, and what an answer tells by them.

In: headers of a request, for tools that cannot change a body. Out: the same as its `manyhands`
object would say; where both say a thing they must say the same. And of an answer: who gave it, by
which decision, at what cost, and which fields nobody read.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

from pydantic import ValidationError

from manyhands.gateway.asked import Extension
from manyhands.gateway.deciding import Decision
from manyhands.gateway.faults import ApiError
from scheduler.request import RouteStep


class Extended(Protocol):
    """A body with a `manyhands` object."""

    @property
    def manyhands(self) -> Extension | None: ...
    def model_copy(self, *, update: Mapping[str, Any]) -> Self: ...


Body = TypeVar("Body", bound=Extended)

WORDS = {
    "x-manyhands-region": "regions",
    "x-manyhands-group": "groups",
    "x-manyhands-data-class": "data_class",
    "x-manyhands-max-price": "max_price",
    "x-manyhands-max-cost": "max_cost",
    "x-manyhands-max-prepaid": "max_prepaid",
    "x-manyhands-tier": "tier",
    "x-manyhands-verify": "verify",
}
LISTS, NUMBERS = {"regions", "groups"}, {"max_price", "max_cost", "max_prepaid"}
IGNORED, MODEL, ROUTE, DECISION, COST, VERIFY = (
    *("x-manyhands-ignored-params", "x-manyhands-model", "x-manyhands-route"),
    *("x-manyhands-decision", "x-manyhands-cost", "x-manyhands-verify"),
)
TOLD = (IGNORED, MODEL, ROUTE, DECISION, COST, VERIFY)
MAX_CHARS = 2000


def with_headers(
    asked: Body, headers: Mapping[str, str], kind: type[Extension] = Extension
) -> Body:
    """The body with what its headers say. kind: of its `manyhands` object.

    Raises:
        ApiError: they contradict the body, or make no sense.
    """
    said = {name: headers[header] for header, name in WORDS.items() if header in headers}
    if not said:
        return asked
    given = asked.manyhands or kind()
    values: dict[str, Any] = {}
    for name, text in said.items():
        value: Any = text.strip()
        if name in LISTS:
            value = [word.strip() for word in text.split(",")]
        elif name in NUMBERS:
            with contextlib.suppress(ValueError):
                value = int(text)
        if name in given.model_fields_set and getattr(given, name) != value:
            message = f"the header for {name} and the body say different things"
            raise ApiError("invalid_value", message, param=f"manyhands.{name}")
        values[name] = value
    try:
        told = given.model_dump(exclude_unset=True) | values
        return asked.model_copy(update={"manyhands": kind.model_validate(told)})
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(("manyhands", *map(str, first["loc"])))
        code = "unsupported_value" if first["type"] == "literal_error" else "invalid_value"
        raise ApiError(code, f"a header for {param}: {first['msg']}", param=param) from error


def told_of(
    ignored: Sequence[str],
    decision: Decision | None = None,
    *,
    model: str = "",
    route: Sequence[RouteStep] = (),
    verify: str = "",
) -> dict[str, str]:
    """What an answer's headers say; of the route, the first one, as it stood when it began.
    verify: how much of it is run again."""
    told = {IGNORED: ", ".join(ignored), MODEL: model, VERIFY: verify}
    steps = (f"{step.peer} {step.span.start}:{step.span.stop}" for step in route)
    told[ROUTE] = ", ".join(steps)
    if decision is not None:
        told[DECISION] = decision.in_words()
    return {name: _plain(text) for name, text in told.items() if text}


def _plain(text: str) -> str:
    """As a header can hold it."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:MAX_CHARS]

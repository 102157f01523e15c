"""What was told, as one of our values; what makes no sense is an error like any other."""

from collections.abc import Callable
from typing import TypeVar

from manyhands.errors import error_of

Told = TypeVar("Told")
Value = TypeVar("Value")


def understood(read: Callable[[Told], Value], told: Told) -> Value:
    """
    Raises:
        RequestError: whoever answers there is no gateway of ours.
    """
    try:
        return read(told)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        message = "what answers there says something else than a gateway of Manyhands would"
        hint = "is base_url a gateway's? what else has OpenAI's API is asked with OpenAI's client"
        raise error_of("swarm_unreachable", message, hint=hint) from error

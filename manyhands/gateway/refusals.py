"""Fields that change what an answer means and that this gateway does not honour: refused by name.

In: the fields of a body that nobody declared. Out: nothing, or the refusal. Each has values that
mean the same as leaving it out; clients send those by themselves, and they pass.
"""

from collections.abc import Callable, Mapping
from typing import Any

from manyhands.gateway.asked import Drawn
from manyhands.gateway.faults import ApiError

Harmless = Callable[[Any], bool]


def _empty(value: Any) -> bool:
    """None, False, 0, and what holds nothing."""
    return not value


def _is(*values: object) -> Harmless:
    return lambda value: any(value is each or value == each for each in values)


UNSUPPORTED: Mapping[str, Harmless] = {
    "bad_words": _empty,
    "best_of": _is(None, 1),
    "use_beam_search": _empty,
    "suffix": _empty,
    "guided_json": _is(None),
    "guided_regex": _is(None),
    "guided_choice": _is(None),
    "guided_grammar": _is(None),
    "grammar": _empty,
    "json_schema": _is(None),
    "tools": _empty,
    "functions": _empty,
    "tool_choice": _is(None, "none", "auto"),
    "function_call": _is(None, "none", "auto"),
    "web_search_options": _is(None),
    "modalities": _is(None, ["text"]),
    "audio": _is(None),
    "documents": _empty,
    "chat_template": _is(None),
    "chat_template_kwargs": _empty,
    "continue_final_message": _empty,
}


def require_supported(asked: Drawn) -> None:
    """
    Raises:
        ApiError: a field asks for what cannot be had here.
    """
    given = asked.model_extra or {}
    if asked.streams and asked.prompt_logprobs is not None:
        message = "prompt_logprobs come with a whole answer; leave out stream"
        raise ApiError("unsupported_value", message, param="prompt_logprobs")
    without_tools = given.get("tool_choice") == "none"
    for name, is_harmless in UNSUPPORTED.items():
        if name not in given or is_harmless(given[name]):
            continue
        if name in ("tools", "functions") and without_tools:
            continue
        raise ApiError(
            "unsupported_parameter", f"this gateway does not support `{name}`", param=name
        )

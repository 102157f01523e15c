"""Fields that change what an answer means and that this gateway does not honour: refused by name.

In: the fields of a body that nobody declared, of a chat, a plain completion or a response. Out:
nothing, or the refusal. Each has values that mean the same as leaving it out; clients send those by
themselves, and they pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from manyhands.gateway.asked import ChatAsked, Drawn
from manyhands.gateway.asked_responses import ResponsesAsked
from manyhands.gateway.faults import ApiError

Harmless = Callable[[Any], bool]


def _empty(value: Any) -> bool:
    """None, False, 0, and what holds nothing."""
    return not value


def _is(*values: object) -> Harmless:
    return lambda value: any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in values
    )


@dataclass(frozen=True, slots=True)
class Unsupported:
    """why: what to do instead, where there is something."""

    is_harmless: Harmless
    why: str = ""


KEPT = "nothing is kept of earlier responses; send the whole input again"

# Of every endpoint that answers in words; what one of them declares, it honours.
UNSUPPORTED: Mapping[str, Unsupported] = {
    "bad_words": Unsupported(_empty),
    "best_of": Unsupported(_is(None, 1)),
    "use_beam_search": Unsupported(_empty),
    "suffix": Unsupported(_empty),
    "guided_json": Unsupported(_is(None)),
    "guided_regex": Unsupported(_is(None)),
    "guided_choice": Unsupported(_is(None)),
    "guided_grammar": Unsupported(_is(None)),
    "grammar": Unsupported(_empty),
    "json_schema": Unsupported(_is(None)),
    "tools": Unsupported(_empty),
    "functions": Unsupported(_empty),
    "tool_choice": Unsupported(_is(None, "none", "auto")),
    "function_call": Unsupported(_is(None, "none", "auto")),
    "web_search_options": Unsupported(_is(None)),
    "modalities": Unsupported(_is(None, ["text"])),
    "audio": Unsupported(_is(None)),
    "documents": Unsupported(_empty),
    "chat_template": Unsupported(_is(None)),
    "chat_template_kwargs": Unsupported(_empty),
    "continue_final_message": Unsupported(_empty),
    "previous_response_id": Unsupported(_is(None), KEPT),
    "conversation": Unsupported(_is(None), KEPT),
    "background": Unsupported(_is(None, False), "an answer is made while its caller waits"),
    "context_management": Unsupported(_is(None, [])),
}
# Of responses: names that mean something elsewhere, and would go unread here.
MISNAMED: Mapping[str, Unsupported] = {
    "prompt": Unsupported(_is(None), "no prompts are kept here"),
    "n": Unsupported(_is(None, 1)),
    "max_tokens": Unsupported(_is(None), "its name here is `max_output_tokens`"),
    "max_completion_tokens": Unsupported(_is(None), "its name here is `max_output_tokens`"),
    "messages": Unsupported(_is(None), "its name here is `input`"),
    "response_format": Unsupported(_is(None), "its name here is `text.format`"),
    "logit_bias": Unsupported(_is(None, {})),
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
    if isinstance(asked, ChatAsked) and asked.top_logprobs and not asked.logprobs:
        message = "top_logprobs are told with logprobs alone; say `logprobs: true`, too"
        raise ApiError("invalid_value", message, param="top_logprobs")
    if given.get("tool_choice") == "none":
        given = {name: given[name] for name in given.keys() - {"tools", "functions"}}
    _refuse(given, UNSUPPORTED)


def require_stateless(asked: ResponsesAsked) -> None:
    """
    Raises:
        ApiError: a field asks for what this gateway does not do, or does not keep.
    """
    if asked.store:
        message = "this gateway keeps no responses; leave `store` out, or say false"
        raise ApiError("unsupported_parameter", message, param="store")
    _refuse(asked.model_extra or {}, {**MISNAMED, **UNSUPPORTED})


def _refuse(given: Mapping[str, Any], table: Mapping[str, Unsupported]) -> None:
    for name, field in table.items():
        if name in given and not field.is_harmless(given[name]):
            why = f": {field.why}" if field.why else ""
            message = f"this gateway does not support `{name}`{why}"
            raise ApiError("unsupported_parameter", message, param=name)

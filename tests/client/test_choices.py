"""What a caller may choose by name is what the HTTP API knows."""

from typing import Any

import pytest

from manyhands.client.choices import ChatChoices, Drawing, Extension, completion_body
from manyhands.gateway.asked import ChatAsked, CompletionAsked
from manyhands.gateway.asked import Extension as ExtensionAsked

EXAMPLES: dict[str, Any] = {
    "do_sample": False, "stop": "x", "stop_strings": ["y"], "eos_token_id": 3, "logprobs": True,
    "json_schema": {"type": "object"}, "max_new_tokens": 3, "min_new_tokens": 1, "temperature": 0.5,
    "top_k": 3, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 1,
    "regex": "a", "manyhands": {"regions": ("eu",)},
}  # fmt: skip


def test_extension_and_chat_choices_are_those_of_the_api():
    assert set(Extension.__annotations__) == set(ExtensionAsked.model_fields)
    assert set(ChatChoices.__annotations__) <= set(ChatAsked.model_fields)


@pytest.mark.parametrize("name", Drawing.__annotations__)
def test_each_choice_of_a_draw_is_a_body_in_which_nothing_is_ignored(name: str):
    drawing: Any = {name: EXAMPLES[name]}

    body = completion_body("Once", "tiny", drawing)

    assert CompletionAsked.model_validate(body).ignored() == []
    assert body != completion_body("Once", "tiny", {})

"""litellm, which many programs put between themselves and an API."""

import litellm
from telling import API, check, run

ASKED = {"model": "hosted_vllm/default", "api_base": API, "api_key": "none"}
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@check("chat")
def _() -> None:
    answer = litellm.completion(**ASKED, messages=HELLO)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@check("stream with usage")
def _() -> None:
    options = {"include_usage": True}
    chunks = list(litellm.completion(**ASKED, messages=HELLO, stream=True, stream_options=options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = litellm.completion(**ASKED, messages=HELLO)
    assert text == whole.choices[0].message.content
    assert any(getattr(chunk, "usage", None) for chunk in chunks)


@check("a tool call")
def _() -> None:
    answer = litellm.completion(
        **ASKED, messages=HELLO, tools=[WEATHER], tool_choice="required", max_tokens=100
    )
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"


@check("embeddings")
def _() -> None:
    told = litellm.embedding(**ASKED, input=["a hand", "many feet"])
    assert len(told.data) == 2
    assert len(told.data[0]["embedding"]) == len(told.data[1]["embedding"]) > 8


@check("too long a prompt is ContextWindowExceededError")
def _() -> None:
    try:
        litellm.completion(**ASKED, messages=HELLO, max_tokens=5000, num_retries=0)
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("it was answered")


@check("an unknown model is NotFoundError")
def _() -> None:
    try:
        litellm.completion(**{**ASKED, "model": "hosted_vllm/none"}, messages=HELLO, num_retries=0)
    except litellm.NotFoundError:
        return
    raise AssertionError("it was answered")


run()

"""What a caller may choose, by name, and the bodies that are made of it.

Names of sampling are transformers' on `generate` and OpenAI's on `chat.completions`; both become
bodies of the HTTP API, where they are checked.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from pydantic import BaseModel

from manyhands.client.values import Json


class Extension(TypedDict, total=False):
    """Who may serve, and for how long to try; `manyhands` in the HTTP API."""

    regions: Sequence[str]
    groups: Sequence[str]
    believe_regions: bool
    max_price: int
    max_cost: int
    max_prepaid: int
    avoid: Sequence[str]
    require: Sequence[str]
    no_relays: bool
    data_class: Literal["public", "internal", "restricted"]
    tier: Literal["swarm", "upstream"]
    verify: Literal["none", "spot", "full"]
    prefer: Literal["cheap", "balanced", "fast", "throughput", "latency"]
    profile: str
    reuse_prefix: bool
    spares: bool
    drafter: Literal["none", "lookup", "model", "auto"]
    timeout_s: float
    wait_s: float


class Drawing(TypedDict, total=False):
    """How an answer is drawn, in transformers' names. What is left out is the model's own choice.

    do_sample: False takes the likeliest token each time. stop: texts at which it ends, before them.
    eos_token_id: ids at which it ends besides the model's own. logprobs: tell how likely each token
    was. json_schema, regex: what the answer has to be.
    """

    max_new_tokens: int
    min_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int
    stop: str | Sequence[str]
    stop_strings: str | Sequence[str]
    eos_token_id: int | Sequence[int]
    logprobs: bool
    json_schema: Mapping[str, Any]
    regex: str
    manyhands: Extension


class ChatChoices(TypedDict, total=False):
    """How a chat is answered, in OpenAI's names; `docs/gateway.md` has what each means here."""

    max_completion_tokens: int
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[str, float]
    seed: int
    n: int
    stop: str | Sequence[str]
    logprobs: bool
    top_logprobs: int
    response_format: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    reasoning_effort: str
    chat_template_kwargs: Mapping[str, Any]
    stream_options: Mapping[str, Any]
    cache_salt: str
    manyhands: Extension


SAME = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "manyhands")
RENAMED = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}


def completion_body(prompt: str | Sequence[int], model: str, drawing: Drawing) -> Json:
    """Of `/v1/completions`, with all that an `Answer` tells."""
    given: Json = {**drawing}
    body: Json = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "return_token_ids": True,
    }
    body |= {name: given.pop(name) for name in SAME if name in given}
    body |= {told: given.pop(name) for name, told in RENAMED.items() if name in given}
    if given.pop("do_sample", None) is False:
        body["temperature"] = 0
    if stops := [*_several(given.pop("stop", ())), *_several(given.pop("stop_strings", ()))]:
        body["stop"] = stops
    if "eos_token_id" in given:
        ids = given.pop("eos_token_id")
        body["stop_token_ids"] = [ids] if isinstance(ids, int) else list(ids)
    if given.pop("logprobs", False):
        body["logprobs"] = 0
    formats = {"json": given.pop("json_schema", None), "regex": given.pop("regex", None)}
    if any(formats.values()):
        body["structured_outputs"] = {name: each for name, each in formats.items() if each}
    if given:
        raise TypeError(f"no such choice: {', '.join(sorted(given))}")
    plain_body: Json = plain(body)
    return plain_body


def chat_body(messages: Sequence[Any], model: str, choices: Mapping[str, Any]) -> Json:
    """Of `/v1/chat/completions`. Messages may be what an earlier answer had."""
    body: Json = plain({"model": model, "messages": messages, **choices})
    return body


def embedding_body(
    texts: str | Sequence[str], model: str, pooling: str | None, extension: Extension | None
) -> Json:
    """Of `/v1/embeddings`."""
    ours: Json = {**(extension or {})} | ({"pooling": pooling} if pooling else {})
    body: Json = plain({"model": model, "input": texts, "manyhands": ours})
    return body


def plain(value: Any) -> Any:
    """As JSON would have it: objects of answers, tuples and mappings become plain values."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(each) for each in value]
    return value


def _several(stops: str | Sequence[str]) -> list[str]:
    return [stops] if isinstance(stops, str) else list(stops)

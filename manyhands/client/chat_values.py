"""Answers of a chat, in the shape that OpenAI's own client gives them.

In: plain values. Out: objects with the same fields and the same `model_dump`. What is not named
here is kept, too: `manyhands` has the route, the receipts and the cost.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Function(Value):
    """arguments: JSON, as text."""

    name: str
    arguments: str


class ToolCall(Value):
    id: str
    type: str = "function"
    function: Function


class Message(Value):
    """reasoning: what the model wrote for itself before it answered."""

    role: str
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning: str | None = None


class TopLogprob(Value):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] = []


class Logprobs(Value):
    content: list[TokenLogprob] | None = None


class PromptDetails(Value):
    cached_tokens: int = 0


class CompletionDetails(Value):
    reasoning_tokens: int = 0


class ChatUsage(Value):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Choice(Value):
    index: int
    message: Message
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]
    logprobs: Logprobs | None = None


class ChatCompletion(Value):
    """A whole answer."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    system_fingerprint: str | None = None
    manyhands: dict[str, Any] = {}


class FunctionDelta(Value):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Value):
    index: int
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None


class Delta(Value):
    role: str | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    reasoning: str | None = None


class ChunkChoice(Value):
    index: int
    delta: Delta
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = None
    logprobs: Logprobs | None = None


class ChatCompletionChunk(Value):
    """A piece of a stream. usage: in the last one, and only for who asked for it."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None
    system_fingerprint: str | None = None
    manyhands: dict[str, Any] | None = None

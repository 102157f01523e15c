"""What strangers send in JSON: the bodies of the OpenAI-shaped endpoints, checked field by field.

In: a parsed body. Out: a value whose fields are of the right type and range, or pydantic's word on
the first that is not. Fields that are not named here are ignored, and listed to the caller
(`ignored`), unless they would change what the answer means: those are in `refusals.py`.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from protocol.asking import MAX_TOP
from protocol.messages import MAX_STOP_CHARS, MAX_STOPS

MAX_CHOICES, MAX_PROMPTS = 8, 32
MAX_TOOLS = 128
MAX_PARTS = 10_000  # of one message
MAX_LISTED, HEADER_NAME = 32, re.compile(r"[A-Za-z0-9_.-]{1,64}")
INT64 = 2**63


def _as_list(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    list[Stop],
    Field(max_length=MAX_STOPS),
    BeforeValidator(_as_list),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "maxItems": MAX_STOPS},
                {"type": "null"},
            ]
        }
    ),
]
Id = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Top = Annotated[int, Field(ge=0, le=MAX_TOP)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Words = Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=64)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class Asked(BaseModel):
    """Strict: `"1"` is no number. What is not declared stays in `model_extra`."""

    model_config = ConfigDict(
        extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=(), frozen=True
    )

    def ignored(self) -> list[str]:
        """Fields that nobody here reads; only names that may stand in a header."""
        names = {name for name in self._unread() if HEADER_NAME.fullmatch(name)}
        return sorted(names)[:MAX_LISTED]

    def _unread(self) -> list[str]:
        return [*(self.model_extra or {})]


class Extension(Asked):
    """The `manyhands` object: who may serve, and for how long to try. As `generate`'s flags."""

    model_config = ConfigDict(extra="forbid")

    regions: Words = []
    groups: Words = []
    believe_regions: bool = False
    max_price: Annotated[int, Field(ge=0, lt=INT64)] | None = None
    """Ncr, for a million tokens through one block; 0: donations alone."""
    max_cost: Annotated[int, Field(ge=0, lt=INT64)] | None = None
    max_prepaid: Annotated[int, Field(ge=0, lt=INT64)] = 0
    """Ncr that each node may ask for ahead, and that are lost if it vanishes."""
    avoid: Words = []
    require: Words = []
    no_relays: bool = False
    data_class: Literal["public", "internal", "restricted"] | None = None
    tier: Literal["swarm", "upstream"] | None = None
    """Of `manyhands/auto`; the policy's rules decide where it is left out."""
    verify: Literal["none", "spot", "full"] | None = None
    """How much of the answer is run again once it was sent: windows of it as each hop's standing
    asks for, or all. Hops sign what they ran, always."""
    prefer: Literal["cheap", "balanced", "fast", "throughput", "latency"] = "balanced"
    profile: Annotated[str, Field(max_length=128)] | None = None
    reuse_prefix: bool = True
    spares: bool = True
    drafter: Literal["none", "lookup", "model", "auto"] = "none"
    """Who guesses ahead; the answer is the same, and may come sooner."""
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    wait_s: Seconds | None = None

    @property
    def runs_again(self) -> str:
        """`spot` or `full`; empty: nothing is run again."""
        return "" if self.verify in (None, "none") else self.verify


class StreamOptions(Asked):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(Asked):
    name: Annotated[str, Field(max_length=64)] = ""
    schema_: Annotated[dict[str, Any] | bool, Field(alias="schema")] = {}
    strict: bool | None = None


class ResponseFormat(Asked):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Asked):
    """As vLLM names them."""

    model_config = ConfigDict(extra="forbid")

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=256)] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Drawn(Asked):
    """What chat and plain completions have in common."""

    model: str = Field(min_length=1, max_length=512)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stops = []
    ignore_eos: bool | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stop_token_ids: Annotated[list[Id], Field(max_length=64)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=1024)] | None = None
    prompt_logprobs: Top | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    manyhands: Extension | None = None

    @property
    def limit(self) -> int | None:
        """Tokens of the answer, as far as the caller limits them."""
        return self.max_tokens

    @property
    def n_likeliest(self) -> int | None:
        """How many tokens to tell besides each drawn one; None: no log-probabilities at all."""
        return None

    @property
    def n_prompt_likeliest(self) -> int | None:
        """The same, for the ids of the prompt."""
        return self.prompt_logprobs

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def usage_in_stream(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def usage_in_chunks(self) -> bool:
        return self.usage_in_stream and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    def _unread(self) -> list[str]:
        options = (self.stream_options and self.stream_options.model_extra) or {}
        return [*super()._unread(), *(f"stream_options.{name}" for name in options)]


class TextPart(Asked):
    type: Literal["text"]
    text: str


class RefusalPart(Asked):
    """Of an earlier answer, as clients send it back."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


Parts = Annotated[list[TextPart | RefusalPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class Message(Asked):
    """One turn. What else it brings (`name`, `tool_calls`) is `manyhands.replies.history`'s."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None

    def plain(self) -> dict[str, Any]:
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        return {**(self.model_extra or {}), "role": self.role, "content": content}


class NamedFunction(Asked):
    name: str = Field(min_length=1, max_length=64)


class NamedChoice(Asked):
    type: Literal["function"]
    function: NamedFunction


class ChatAsked(Drawn):
    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    add_generation_prompt: bool = True
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template is told besides the messages."""
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}
        return {**effort, **(self.chat_template_kwargs or {})}

    @property
    def n_chars(self) -> int:
        """Of all that goes into the prompt, about."""
        told = [str(more) for more in (self.tools, self.chat_template_kwargs) if more]
        return n_chars_of(self.messages) + sum(map(len, told))

    @property
    def n_likeliest(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


# The first that is wrong ends them: of 400,000 ids, each would be complained of twice (15 s, 1 GB).
Ids = Annotated[list[Id], Field(fail_fast=True)]
Texts = (
    str
    | Ids
    | Annotated[list[str], Field(fail_fast=True)]
    | Annotated[list[Ids], Field(fail_fast=True)]
)


def several(given: Texts) -> list[str | list[int]]:
    """One or several, each as text or ids."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [[id for id in given if isinstance(id, int)]]
    return [each for each in given if not isinstance(each, int)]


class CompletionAsked(Drawn):
    prompt: Texts
    echo: bool | None = None
    logprobs: Top | None = None
    return_token_ids: bool | None = None
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None

    @property
    def n_likeliest(self) -> int | None:
        return self.logprobs

    @property
    def n_prompt_likeliest(self) -> int | None:
        asked = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((n_top for n_top in asked if n_top is not None), default=None)

    @property
    def wants_echo_alone(self) -> bool:
        """One token is drawn all the same, with which a chain ends a prompt; nobody sees it."""
        return self.max_tokens == 0

    @property
    def limit(self) -> int | None:
        return 1 if self.wants_echo_alone else self.max_tokens

    @property
    def prompts(self) -> list[str | list[int]]:
        return several(self.prompt)


class EmbeddingExtension(Extension):
    pooling: Literal["mean", "last"] | None = None
    own_ids: bool = False
    """The ids in `input` are this model's, not those of the tokenizer that OpenAI's models have."""


class EmbeddingsAsked(Asked):
    model: str = Field(min_length=1, max_length=512)
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    manyhands: EmbeddingExtension | None = None

    @property
    def limit(self) -> int:
        """Of an answer in words, of which there is none."""
        return 0

    @property
    def streams(self) -> bool:
        return False

    @property
    def usage_in_stream(self) -> bool:
        return False


def n_chars_of(messages: Sequence[Message]) -> int:
    """Of what they hold, about."""
    told = [str(message.content or "") for message in messages]
    told += [str(message.model_extra) for message in messages if message.model_extra]
    return sum(map(len, told))


class TokenizeAsked(Asked):
    model: Annotated[str, Field(max_length=512)] | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, max_length=10_000)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True


class DetokenizeAsked(Asked):
    model: Annotated[str, Field(max_length=512)] | None = None
    tokens: Ids

"""What strangers send to /v1/responses, checked field by field, and the chat that it stands for.

In: a parsed body. Out: a `ChatAsked`, which all else here understands. Nothing is kept of a
response, so what would lean on an earlier one is refused by name (`refusals.py`), and so is every
tool that is no function: there is nobody here to run it.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from manyhands.gateway.asked import (
    INT64,
    MAX_TOOLS,
    Asked,
    ChatAsked,
    Extension,
    Id,
    NamedChoice,
    NamedFunction,
    Penalty,
    ResponseFormat,
    Stops,
    Top,
)
from manyhands.gateway.faults import ApiError
from manyhands.gateway.turns import messages_of

LOGPROBS = "message.output_text.logprobs"


class Format(Asked):
    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(max_length=64)] = ""
    schema_: Annotated[dict[str, Any] | bool | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextAsked(Asked):
    format: Format | None = None


class Reasoning(Asked):
    effort: Annotated[str, Field(max_length=32)] | None = None


class Function(Asked):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def for_chat(self) -> dict[str, Any]:
        named = {"name": self.name, "description": self.description, "strict": self.strict}
        told: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        told["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": told}


class ChosenFunction(Asked):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=64)


class ResponsesAsked(Asked):
    """`n_likeliest`, `streams` and the like are those of the chat."""

    model: str = Field(min_length=1, max_length=512)
    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Stops = Field([])
    stop_token_ids: Annotated[list[Id], Field(max_length=64)] | None = None
    top_logprobs: Top | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = (
        None
    )
    text: TextAsked | None = None
    reasoning: Reasoning | None = None
    tools: list[Function] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    store: bool | None = None
    truncation: Literal["disabled"] | None = None
    stream: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    manyhands: Extension | None = None

    def chat(self) -> ChatAsked:
        """
        Raises:
            ApiError: an item of the input makes no sense, or is of a kind that is not known here.
        """
        wants_odds = LOGPROBS in (self.include or []) or bool(self.top_logprobs)
        told = {
            "model": self.model,
            "messages": messages_of(self.instructions, self.input),
            "max_completion_tokens": self.max_output_tokens,
            "logprobs": wants_odds or None,
            "top_logprobs": self.top_logprobs if wants_odds else None,
            "tools": [tool.for_chat() for tool in self.tools or ()] or None,
            "tool_choice": self._choice(),
            "response_format": self._format(),
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            **{name: getattr(self, name) for name in SHARED},
            "stop": self.stop or None,
        }
        said = {name: value for name, value in told.items() if value is not None}
        return ChatAsked(**said)  # what is set goes on to an upstream

    def _choice(self) -> Literal["none", "auto", "required"] | NamedChoice | None:
        chosen = self.tool_choice
        if isinstance(chosen, ChosenFunction):
            return NamedChoice(type="function", function=NamedFunction(name=chosen.name))
        return chosen

    def _format(self) -> ResponseFormat | None:
        asked = self.text.format if self.text else None
        if asked is None:
            return None
        told: dict[str, Any] = {"type": asked.type}
        if asked.type == "json_schema":
            if asked.schema_ is None:
                raise ApiError("invalid_json_schema", "the schema is missing", param="text.format")
            told["json_schema"] = {"name": asked.name, "schema": asked.schema_}
        return ResponseFormat.model_validate(told)


SHARED = (
    *("temperature", "top_p", "top_k", "min_p"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "seed"),
    *("stop", "stop_token_ids", "stream", "cache_salt", "manyhands"),
    *("parallel_tool_calls", "chat_template_kwargs"),
)

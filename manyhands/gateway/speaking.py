"""How one chat request speaks with its model: the prompt, the tools on offer, what must be called.

In: a checked body. Out: the prompt's text and ids, a reader for each choice, and the grammar of a
reply that has to call. What a family writes around its calls and thoughts is `manyhands.replies`'
to know; models whose template names no tools are asked without any, or the caller is told.
"""

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manyhands.gateway.asked import ChatAsked, NamedChoice
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.prompts import chat_text, fitting_ids, on_thread
from manyhands.replies.closed import closed
from manyhands.replies.dialect import Dialect, Ids, dialect_of
from manyhands.replies.forcing import Forced
from manyhands.replies.reader import ReplyReader, new_reader
from manyhands.replies.tool_schemas import parameters_of
from protocol.errors import UsageError
from protocol.grammar import Grammar

LETTERS = string.ascii_letters + string.digits
N_TAIL_CHARS = 64  # of a prompt: enough to see whether the model thinks already


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """tools: those on offer, by name, with the schema of their parameters. marks: what the special
    tokens of the dialect stand for. several: whether more than one call is passed on."""

    ids: Sequence[int]
    dialect: Dialect
    tail: str = ""
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    marks: Mapping[int, str] = field(default_factory=dict)
    several: bool = True
    grammar: Grammar | None = None

    def reader(self) -> ReplyReader:
        return new_reader(self.dialect, self.tail, self.tools or None)

    def new_call_id(self) -> str:
        if self.dialect.ids is Ids.NINE:
            return "".join(secrets.choice(LETTERS) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"


async def speech_of(served: Served, asked: ChatAsked) -> Speech:
    """
    Raises:
        ApiError: the messages, the tools or the choice among them make no sense for this model.
    """
    tools = _offered(asked)
    dialect = dialect_of(served.tokenizer.chat_template)
    if tools and not dialect.has_calls:
        message = f"the chat template of {served.id} knows no tools"
        raise ApiError("unsupported_parameter", message, param="tools")

    def render() -> tuple[str, list[int]]:
        text = chat_text(
            served,
            asked.messages,
            add_generation_prompt=asked.add_generation_prompt,
            tools=asked.tools if tools else None,
            variables=asked.template_variables,
        )
        ids = fitting_ids(served, text, "messages", add_special_tokens=False)
        return text[-N_TAIL_CHARS:], ids

    tail, ids = await on_thread(render, asked.n_chars, "messages")
    added = served.tokenizer.added_ids
    special = served.tokenizer.special_ids
    marks = (*dialect.marks, *dialect.inner)
    grammar = await on_thread(
        lambda: _forced(asked, dialect, tools, tail, added), asked.n_chars, "tools"
    )
    return Speech(
        ids=ids,
        dialect=dialect,
        tail=tail,
        tools=tools,
        marks={added[m]: m for m in marks if added.get(m) in special},
        several=asked.parallel_tool_calls is not False,
        grammar=grammar,
    )


def _offered(asked: ChatAsked) -> dict[str, Mapping[str, Any]]:
    if asked.tool_choice == "none" or not asked.tools:
        if asked.tool_choice not in (None, "none", "auto"):
            message = "a call is asked for, and no tools are given"
            raise ApiError("invalid_value", message, param="tool_choice")
        return {}
    try:
        return parameters_of(asked.tools)
    except UsageError as error:
        raise ApiError("invalid_value", str(error), param="tools") from error


def _forced(
    asked: ChatAsked,
    dialect: Dialect,
    tools: Mapping[str, Mapping[str, Any]],
    tail: str,
    added: Mapping[str, int],
) -> Grammar | None:
    """The grammar of a reply that must call, or that may call a strict function; else None."""
    choice = asked.tool_choice
    may = choice in (None, "auto")
    strict = _strict(asked)
    if not tools or (may and not strict):
        return None
    if asked.response_format is not None and asked.response_format.type != "text":
        if may:  # then that format says what the reply is
            return None
        message = "a reply that must call a tool has no other format"
        raise ApiError("invalid_value", message, param="response_format")
    if isinstance(choice, NamedChoice):
        name = choice.function.name
        if name not in tools:
            message = f"tool_choice names {name[:64]!r}, which is not among the tools"
            raise ApiError("invalid_value", message, param="tool_choice")
        tools = {name: tools[name]}
    free = set(tools) - strict if may else set[str]()
    tools = {
        name: parameters if name in free else closed(parameters)
        for name, parameters in tools.items()
    }
    thinks = bool(dialect.thinking[0]) and tail.rstrip().endswith(dialect.thinking[0])
    several = asked.parallel_tool_calls is not False
    try:
        forced = Forced(
            dialect=dialect,
            tools=tools,
            free=free,
            several=several,
            must=not may,
            thinks=thinks,
            ids=added,
        )
        return None if may and not forced.can_be_left_open else forced.grammar()
    except UsageError as error:
        raise ApiError("invalid_value", str(error), param="tools") from error


def _strict(asked: ChatAsked) -> set[str]:
    """Functions whose arguments are to fit their schema, whoever decides to call them."""
    if asked.structured_outputs is not None or asked.ignore_eos:
        return set()  # the reply is something else already, or has no end
    functions = [tool["function"] for tool in asked.tools or () if "function" in tool]
    return {each["name"] for each in functions if each.get("strict") is True}

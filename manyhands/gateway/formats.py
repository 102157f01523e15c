"""What an answer has to look like: OpenAI's `response_format`, and vLLM's `structured_outputs`.

In: those fields. Out: a `protocol.grammar.Grammar`, or None where any text will do. It is compiled
where tokens are drawn; what cannot be compiled is refused there, never passed over.
"""

import json
import re
from typing import Any

from manyhands.gateway.asked import Drawn, ResponseFormat, StructuredOutputs
from manyhands.gateway.faults import ApiError
from manyhands.replies.closed import closed
from protocol.errors import BadGrammar, BadSchema
from protocol.grammar import Grammar

META = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~]")


def grammar_of(asked: Drawn) -> Grammar | None:
    """
    Raises:
        ApiError: it asks for two things at once, or for what is no schema.
    """
    formats, outputs = asked.response_format, asked.structured_outputs
    param = "response_format" if outputs is None else "structured_outputs"
    try:
        found = [*_of_format(formats), *_of_outputs(outputs)]
    except BadSchema as error:
        raise ApiError("invalid_json_schema", str(error), param=param) from error
    except BadGrammar as error:
        raise ApiError("invalid_grammar", str(error), param=param) from error
    if len(found) > 1:
        raise ApiError("invalid_value", "an answer has one format", param=param)
    return found[0] if found else None


def _of_format(formats: ResponseFormat | None) -> list[Grammar]:
    if formats is None or formats.type == "text":
        return []
    if formats.type == "json_object":
        return [Grammar.json_object()]
    if formats.json_schema is None:
        raise BadSchema("json_schema is missing")
    schema = formats.json_schema.schema_
    return [_schema(schema if isinstance(schema, bool) else closed(schema))]


def _of_outputs(outputs: StructuredOutputs | None) -> list[Grammar]:
    if outputs is None:
        return []
    found = []
    if outputs.json_ is not None:
        found.append(_schema(outputs.json_))
    if outputs.regex is not None:
        found.append(Grammar.regex(outputs.regex))
    if outputs.choice is not None:
        found.append(Grammar.regex("|".join(f"(?:{_literal(each)})" for each in outputs.choice)))
    if outputs.grammar is not None:
        found.append(Grammar.lark(outputs.grammar))
    if outputs.json_object:
        found.append(Grammar.json_object())
    return found


def _schema(schema: dict[str, Any] | bool | str) -> Grammar:
    return Grammar.json_schema(json.dumps(schema) if isinstance(schema, bool) else schema)


def _literal(text: str) -> str:
    """As `regex::escape` of Rust does it; there, escapes of other letters mean something."""
    return META.sub(r"\\\g<0>", text)

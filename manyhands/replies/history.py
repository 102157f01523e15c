"""Earlier turns, from the form that HTTP clients send to the one that chat templates expect.

A template is written against transformers: content is text, a call's arguments are an object,
a system message is called `system`, thoughts are `reasoning_content` or `thinking`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from protocol.errors import UsageError

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages as a template takes them.

    Raises:
        UsageError: a message has no role that is known, parts that are no text, or a call whose
            arguments are not a JSON object; the message says which.
    """
    called: dict[str, str] = {}  # a call's id, and the function it called
    return [_message(at, message, called) for at, message in enumerate(messages)]


def _message(at: int, message: Mapping[str, Any], called: dict[str, str]) -> dict[str, Any]:
    where = f"messages[{at}]"
    role = message.get("role")
    if role not in ROLES:
        raise UsageError(f"{where}.role is {role!r}", hint=f"one of {', '.join(ROLES)}")
    told: dict[str, Any] = {"role": "system" if role == "developer" else role}
    told["content"] = _text(f"{where}.content", message.get("content"))
    if isinstance(name := message.get("name"), str):
        told["name"] = name
    if role == "tool":
        id = message.get("tool_call_id")
        told["tool_call_id"] = id if isinstance(id, str) else ""
        told.setdefault("name", called.get(told["tool_call_id"], ""))
    if role == "assistant":
        thought = message.get("reasoning") or message.get("reasoning_content")
        if isinstance(thought, str) and thought:
            told |= {"reasoning_content": thought, "thinking": thought}
        if calls := message.get("tool_calls"):
            if not isinstance(calls, list):
                raise UsageError(f"{where}.tool_calls is not a list")
            told["tool_calls"] = [
                _call(f"{where}.tool_calls[{i}]", call, called) for i, call in enumerate(calls)
            ]
    return told


def _text(where: str, content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise UsageError(f"{where} is neither text nor a list of parts")
    parts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if kind in ("text", "input_text", "output_text") else None
        if kind == "refusal":
            text = part.get("refusal")
        if not isinstance(text, str):
            raise UsageError(
                f"{where}[{i}] is a part of type {kind!r}; this model reads text alone",
                hint='send {"type": "text", "text": …}',
            )
        parts.append(text)
    return "".join(parts)


def _call(where: str, call: Any, called: dict[str, str]) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise UsageError(f"{where}.function has no name")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}.function.arguments is not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise UsageError(f"{where}.function.arguments is not a JSON object")
    id = call.get("id")
    if isinstance(id, str):
        called[id] = name
    return {
        "id": id if isinstance(id, str) else "",
        "type": "function",
        "function": {"name": name, "arguments": dict(arguments)},
    }

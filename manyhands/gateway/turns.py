"""The input of /v1/responses, as the turns of a chat.

In: text, or items as that endpoint has them: messages, calls of functions and what these gave,
thoughts. Out: messages. What one reply of the model was told as, several items in a row, becomes
one turn again, as chat templates have it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from manyhands.gateway.asked import Message
from manyhands.gateway.faults import ApiError

Item = Mapping[str, Any]
ROLES = ("system", "developer", "user", "assistant")
TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


def messages_of(instructions: str | None, given: str | Sequence[Item]) -> list[Message]:
    """
    Raises:
        ApiError: an item that makes no sense, or of a kind that nobody here reads.
    """
    turns: list[dict[str, Any]] = []
    if instructions:
        turns.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        turns.append({"role": "user", "content": given})
    else:
        for at, item in enumerate(given):
            _add(turns, item, f"input[{at}]")
    return [Message.model_validate(turn) for turn in turns]


def _add(turns: list[dict[str, Any]], item: Item, where: str) -> None:
    match item.get("type", "message"):
        case "message":
            role, content = item.get("role"), item.get("content")
            if role not in ROLES:
                raise _wrong(f"{where}.role", f"one of {', '.join(ROLES)}")
            text = _text(content, f"{where}.content")
            if role == "assistant":
                turn = _reply(turns)
                turn["content"] = (turn["content"] or "") + text
            else:
                turns.append({"role": role, "content": text})
        case "reasoning":
            told = item.get("content") or item.get("summary") or []
            turn = _reply(turns)
            turn["reasoning"] = turn.get("reasoning", "") + _text(told, f"{where}.content")
        case "function_call":
            _reply(turns).setdefault("tool_calls", []).append(_call(item, where))
        case "function_call_output":
            id = item.get("call_id")
            if not isinstance(id, str):
                raise _wrong(f"{where}.call_id", "the id of a call")
            output = _text(item.get("output"), f"{where}.output")
            turns.append({"role": "tool", "content": output, "tool_call_id": id})
        case "item_reference":
            message = "nothing is kept of earlier responses; send the item itself"
            raise ApiError("unsupported_value", f"{where}: {message}", param=where)
        case kind:
            message = f"{where}: items of type {str(kind)[:40]!r} are not known here"
            raise ApiError("unsupported_value", message, param=f"{where}.type")


def _reply(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The model's turn that goes on; its text, thoughts and calls come as items in a row."""
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": None})
    return turns[-1]


def _call(item: Item, where: str) -> dict[str, Any]:
    id, name, arguments = item.get("call_id"), item.get("name"), item.get("arguments")
    if not isinstance(id, str) or not isinstance(name, str) or not isinstance(arguments, str):
        raise _wrong(where, "call_id, name and arguments, each as text")
    try:
        is_object = isinstance(json.loads(arguments or "{}"), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise _wrong(f"{where}.arguments", "a JSON object, as text")
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong(where, "text, or a list of parts")
    return "".join(_part(part, f"{where}[{at}]") for at, part in enumerate(content))


def _part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in (*TEXTS, "refusal"):
        text = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str):
            return text
        raise _wrong(f"{where}.text", "text")
    message = f"{where}: parts of type {str(kind)[:40]!r} are not read here, only text and refusals"
    raise ApiError("unsupported_value", message, param=f"{where}.type")


def _wrong(where: str, wanted: str) -> ApiError:
    return ApiError("invalid_value", f"{where} should be {wanted}", param=where)

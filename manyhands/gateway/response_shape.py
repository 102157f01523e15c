"""What a response is, whoever answers: its object, its frames, and how it opens and fails.

In: a checked body; items as they grow (`items.py`). Out: frames, each with its type and its number,
in OpenAI's order. A response that fails ends in `response.failed` and in an `error` that the
official clients raise: they take a stream that merely ends for one that was complete.
"""

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from manyhands.gateway.asked_responses import ChosenFunction, Function, ResponsesAsked
from manyhands.gateway.faults import ApiError
from manyhands.gateway.items import Event, Items
from manyhands.gateway.shapes import Json

AT_LIMIT = "max_output_tokens"
FAILURES = {429: "rate_limit_exceeded"}  # the codes of a response that failed; else server_error


class ResponseShape(ABC):
    """To one request; who inherits hears what is told, and is then a `stream.Telling`."""

    def __init__(self, asked: ResponsesAsked, temperature: float, top_p: float) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self._asked, self._drawn = asked, {"temperature": temperature, "top_p": top_p}
        self._items = Items()
        self._n_sent, self._created = 0, time.time()

    @property
    @abstractmethod
    def _cut_by(self) -> str:
        """Why it is not complete, in OpenAI's word; nothing where it is."""

    @abstractmethod
    def _of_all(self) -> Json:
        """`usage` and `manyhands`, once it is over."""

    def whole(self) -> Json:
        for _ in self._items.end(self._status()):
            pass
        return self._response(self._status())

    def end(self) -> Iterator[bytes]:
        yield from self._opening()
        status = self._status()
        for event in self._items.end(status):
            yield self._frame(event)
        yield self._of_response(f"response.{status}", status)

    def failed(self, error: ApiError) -> bytes:
        opening = b"".join(self._opening())
        code = FAILURES.get(error.status, "server_error")
        told = {"code": code, "message": error.message}
        failed = self._of_response("response.failed", "failed", told)
        body = error.body()["error"]
        last = {name: body[name] for name in ("code", "message", "param")}
        raised = {"type": "error", **last, "error": {**body, "id": self.id}}
        return opening + failed + self._frame(raised)

    def _opening(self) -> Iterator[bytes]:
        if not self._n_sent:
            yield self._of_response("response.created", "in_progress")
            yield self._of_response("response.in_progress", "in_progress")

    def _frame(self, event: Event) -> bytes:
        numbered = {**event, "sequence_number": self._n_sent}
        self._n_sent += 1
        data = json.dumps(numbered, separators=(",", ":"), ensure_ascii=False)
        return f"event: {event['type']}\ndata: {data}\n\n".encode()

    def _of_response(self, kind: str, status: str, error: Json | None = None) -> bytes:
        return self._frame({"type": kind, "response": self._response(status, error)})

    def _status(self) -> str:
        return "incomplete" if self._cut_by else "completed"

    def _response(self, status: str, error: Json | None = None) -> Json:
        asked = self._asked
        cut = {"reason": self._cut_by} if status == "incomplete" else None
        made: Json = {
            "id": self.id,
            "object": "response",
            "created_at": int(self._created),
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": error,
            "incomplete_details": cut,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": asked.model,
            "output": self._items.output,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": _effort(asked), "summary": None},
            "service_tier": "default",
            "store": False,
            "background": False,
            **self._drawn,
            "text": {"format": _format(asked)},
            "tool_choice": _choice(asked),
            "tools": [_tool(tool) for tool in asked.tools or ()],
            "top_logprobs": asked.top_logprobs or 0,
            "truncation": "disabled",
            "usage": None,
        }
        if status != "in_progress":
            made |= self._of_all()
        return made


def usage_of(n_prompt: int, n_cached: int, n_answer: int, n_reasoning: int) -> Json:
    return {
        "input_tokens": n_prompt,
        "input_tokens_details": {"cached_tokens": n_cached, "cache_write_tokens": 0},
        "output_tokens": n_answer,
        "output_tokens_details": {"reasoning_tokens": n_reasoning},
        "total_tokens": n_prompt + n_answer,
    }


def _effort(asked: ResponsesAsked) -> str | None:
    return asked.reasoning.effort if asked.reasoning else None


def _format(asked: ResponsesAsked) -> Json:
    given = asked.text.format if asked.text else None
    if given is None or given.type != "json_schema":
        return {"type": given.type if given else "text"}
    told = {"type": given.type, "name": given.name, "schema": given.schema_}
    return {**told, "strict": given.strict}


def _choice(asked: ResponsesAsked) -> Any:
    chosen = asked.tool_choice
    if isinstance(chosen, ChosenFunction):
        return {"type": chosen.type, "name": chosen.name}
    return chosen or "auto"


def _tool(tool: Function) -> Json:
    told: Json = {"type": tool.type, "name": tool.name, "description": tool.description}
    return {**told, "parameters": tool.parameters, "strict": tool.strict}

"""One response as it grows: as a whole, or as the events that OpenAI's clients expect.

In: what the swarm tells. Out: frames, each with its type and its number, in OpenAI's order. A
response that fails ends in `response.failed` and in an `error` that the official clients raise:
they take a stream that merely ends for one that was complete.
"""

import json
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Any

from manyhands.gateway.answers import Told
from manyhands.gateway.asked_responses import ChosenFunction, Function, ResponsesAsked
from manyhands.gateway.faults import ApiError
from manyhands.gateway.items import Event, Items
from manyhands.gateway.likelihoods import of_chat
from manyhands.gateway.prepared import Prepared
from manyhands.gateway.shapes import Json, ours
from manyhands.gateway.spoken import Spoken
from scheduler.request import Finished, GenerationResult, Token

FAILURES = {429: "rate_limit_exceeded"}  # the codes of a response that failed; else server_error


class ResponseReply:
    """To one request; see `stream.Telling`."""

    def __init__(self, asked: ResponsesAsked, chat: Prepared) -> None:
        assert chat.speech is not None, "it is a chat"
        self.id = f"resp_{secrets.token_hex(16)}"
        self._asked, self._served, self._request = asked, chat.served, chat.requests[0]
        self._spoken, self._items = Spoken(chat.speech), Items()
        self._odds: list[Json] = []  # of tokens whose text is held back
        self._n_sent, self._created = 0, time.time()
        self._result: GenerationResult | None = None

    def hear(self, told: Iterable[Told]) -> None:
        for _ in self._events(told):
            pass

    def whole(self) -> Json:
        for _ in self._items.end(self._status()):
            pass
        return self._response(self._status())

    def frames(self, told: Iterable[Told]) -> Iterator[bytes]:
        yield from self._opening()
        for event in self._events(told):
            yield self._frame(event)

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

    def _events(self, told: Iterable[Told]) -> Iterator[Event]:
        for _, event in told:
            if isinstance(event, Token):
                yield from self._heard(event)
            elif isinstance(event, Finished):
                self._result = event.result
                for delta in self._spoken.end():
                    yield from self._items.add(delta, self._taken(delta))

    def _heard(self, token: Token) -> Iterator[Event]:
        if token.logprobs is not None:
            told = of_chat(self._served.tokenizer, [(token.token_id, token.logprobs)])
            self._odds += told["content"]
        for delta in self._spoken.hear(token):
            yield from self._items.add(delta, self._taken(delta))

    def _taken(self, delta: Json) -> list[Json]:
        """The log-probabilities that go with this text; those of thoughts and calls go nowhere."""
        odds, self._odds = self._odds, []
        return odds if "content" in delta else []

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
        is_cut = self._result is not None and self._result.finish_reason == "length"
        return "incomplete" if is_cut else "completed"

    def _response(self, status: str, error: Json | None = None) -> Json:
        asked, sampling = self._asked, self._request.sampling
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
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
            "temperature": sampling.temperature,
            "text": {"format": _format(asked)},
            "tool_choice": _choice(asked),
            "tools": [_tool(tool) for tool in asked.tools or ()],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": None,
        }
        if self._result is not None:
            made["usage"] = self._usage(self._result)
            made["manyhands"] = ours(self._served, {0: self._result})
        return made

    def _usage(self, result: GenerationResult) -> Json:
        n_out = len(result.token_ids)
        return {
            "input_tokens": result.n_prompt,
            "input_tokens_details": {"cached_tokens": result.n_cached, "cache_write_tokens": 0},
            "output_tokens": n_out,
            "output_tokens_details": {"reasoning_tokens": self._spoken.n_reasoning},
            "total_tokens": result.n_prompt + n_out,
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

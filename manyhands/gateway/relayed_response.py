"""An upstream's chat as a response: the same items and events as when the swarm answers.

In: frames of a chat that was asked of an upstream, which may say anything. Out: items, and events.
Upstreams are asked for chats whatever a caller asked for: all that speak OpenAI's tongue have
those.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from manyhands.gateway.asked_responses import ResponsesAsked
from manyhands.gateway.faults import ApiError
from manyhands.gateway.items import Event
from manyhands.gateway.response_shape import AT_LIMIT, ResponseShape, usage_of
from manyhands.gateway.shapes import Json
from manyhands.gateway.upstream import Used

THOUGHTS = ("reasoning", "reasoning_content")  # both names are in use
CUT = {"length": AT_LIMIT, "content_filter": "content_filter"}
PARTS = {"text": "text", "output_text": "text", "refusal": "refusal"}  # of content, by their type


class RelayedResponse(ResponseShape):
    """See `stream.Telling`. ours: what stands under `manyhands` at the end. used: as it is told."""

    def __init__(self, asked: ResponsesAsked, ours: Callable[[], Json], used: Used) -> None:
        drawn = (1.0 if value is None else value for value in (asked.temperature, asked.top_p))
        super().__init__(asked, *drawn)
        self._ours, self._used = ours, used
        self._reason = ""
        self._open_call: tuple[int, str] | None = None  # its index and id, as the upstream says

    def hear(self, told: Iterable[Json]) -> None:
        for _ in self._events(told):
            pass

    def frames(self, told: Iterable[Json]) -> Iterator[bytes]:
        yield from self._opening()
        for event in self._events(told):
            yield self._frame(event)

    def _events(self, told: Iterable[Json]) -> Iterator[Event]:
        for frame in told:
            for choice in frame.get("choices") or ():
                if choice.get("index", 0) != 0:
                    continue  # one was asked for
                said = choice.get("delta") or choice.get("message") or {}
                for delta in self._deltas(said):
                    yield from self._items.add(delta)
                self._reason = _text(choice.get("finish_reason")) or self._reason

    def _deltas(self, said: Json) -> Iterator[Json]:
        """
        Raises:
            ApiError: it says what cannot be told on. Left out, the rest would look like all of it.
        """
        thoughts = (("reasoning", _text(said.get(name))) for name in THOUGHTS)
        refusal = ("refusal", _text(said.get("refusal")))
        for of, text in (*thoughts, *_spoken(said.get("content")), refusal):
            if text:
                yield {of: text}
                self._open_call = None
        calls = said.get("tool_calls") or []
        if not isinstance(calls, list) or said.get("function_call"):
            raise _failed("says calls in a way that nobody asked for")
        for n, call in enumerate(calls):
            yield {"tool_calls": [self._call(n, call)]}

    def _call(self, n: int, call: Any) -> Json:
        """n: its place in this frame, which counts where it says no index.

        Raises:
            ApiError: it is no call, or one that goes on after another has begun.
        """
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise _failed("says what is no call")
        index = call.get("index")
        index = index if type(index) is int else n
        told: Json = {"function": {"arguments": _arguments(function.get("arguments"))}}
        name, id_ = _text(function.get("name")), _text(call.get("id"))
        begun, begun_id = self._open_call or (None, "")
        # Some give all calls the index 0, and some a new id to each piece, which then has no name.
        if index != begun or (name and id_ and id_ != begun_id):
            if not (name and id_):
                raise _failed("says calls that are not told apart")
            told["id"], told["function"]["name"] = id_, name
            self._open_call = index, id_
        return told

    @property
    def _cut_by(self) -> str:
        return CUT.get(self._reason, "")

    def _of_all(self) -> Json:
        used = self._used
        return {"usage": usage_of(used.n_prompt, 0, used.n_answer, 0), "manyhands": self._ours()}


def _spoken(content: Any) -> Iterator[tuple[str, str]]:
    """Text and refusals, of content that is text or a list of parts.

    Raises:
        ApiError: it is neither.
    """
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        if isinstance(part, str):
            yield "content", part
        elif isinstance(part, dict) and (name := PARTS.get(_text(part.get("type")))):
            yield "refusal" if name == "refusal" else "content", _text(part.get(name))
        elif part is not None:
            raise _failed("says what is no text")


def _arguments(value: Any) -> str:
    """
    Raises:
        ApiError: they are neither JSON nor an object.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, dict):
        raise _failed("says arguments that are none")
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _failed(why: str) -> ApiError:
    return ApiError("upstream_failed", f"the upstream {why}")

"""An upstream's chat as a response: the same items and events as when the swarm answers.

In: frames of a chat that was asked of an upstream, which may say anything. Out: items, and events.
Upstreams are asked for chats whatever a caller asked for: all that speak OpenAI's tongue have
those.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from manyhands.gateway.asked_responses import ResponsesAsked
from manyhands.gateway.faults import ApiError
from manyhands.gateway.items import Event
from manyhands.gateway.response_shape import ResponseShape, usage_of
from manyhands.gateway.shapes import Json
from manyhands.gateway.upstream import Used

THOUGHTS = ("reasoning", "reasoning_content")  # both names are in use


class RelayedResponse(ResponseShape):
    """See `stream.Telling`. ours: what stands under `manyhands` at the end. used: as it is told."""

    def __init__(self, asked: ResponsesAsked, ours: Callable[[], Json], used: Used) -> None:
        drawn = (1.0 if value is None else value for value in (asked.temperature, asked.top_p))
        super().__init__(asked, *drawn)
        self._ours, self._used = ours, used
        self._reason = ""
        self._open_call: int | None = None  # its index, as the upstream counts

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
                said = choice.get("delta") or choice.get("message") or {}
                for delta in self._deltas(said):
                    yield from self._items.add(delta)
                self._reason = _text(choice.get("finish_reason")) or self._reason

    def _deltas(self, said: Json) -> Iterator[Json]:
        for name, of in (*((name, "reasoning") for name in THOUGHTS), ("content", "content")):
            if text := _text(said.get(name)):
                yield {of: text}
                self._open_call = None
        calls = said.get("tool_calls")
        for n, call in enumerate(calls if isinstance(calls, list) else ()):
            yield {"tool_calls": [self._call(n, call)]}

    def _call(self, n: int, call: Any) -> Json:
        """
        Raises:
            ApiError: it is no call, or one that goes on after another has begun.
        """
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise ApiError("upstream_failed", "the upstream says what is no call")
        index = call.get("index", n)
        told: Json = {"function": {"arguments": _text(function.get("arguments"))}}
        name, id_ = _text(function.get("name")), _text(call.get("id"))
        if index != self._open_call:
            if not (name and id_):
                raise ApiError("upstream_failed", "the upstream's calls are not told apart")
            told["id"], told["function"]["name"] = id_, name
            self._open_call = index
        return told

    @property
    def _is_cut(self) -> bool:
        return self._reason == "length"

    def _of_all(self) -> Json:
        used = self._used
        return {"usage": usage_of(used.n_prompt, 0, used.n_answer, 0), "manyhands": self._ours()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

"""A reply as the items of a response: thoughts, text, calls, each opened, filled and closed.

In: deltas as `spoken.py` gives them, and refusals, which upstreams have. Out: the events of
OpenAI's stream, and the items as they stand. One item is open at a time. Space around calls opens
no text of its own.
"""

import secrets
from collections.abc import Iterable, Iterator
from typing import Any

Json = dict[str, Any]
Event = Json  # `type` and what goes with it; whoever sends them counts them


class Items:
    """Of one reply."""

    def __init__(self) -> None:
        self.output: list[Json] = []
        self._open: Json | None = None
        self._space = ""  # that may turn out to stand before a call

    def add(self, delta: Json, odds: Iterable[Json] = ()) -> Iterator[Event]:
        """odds: log-probabilities of the tokens that this text came from."""
        if "content" in delta:
            yield from self._say(delta["content"], list(odds))
        elif "refusal" in delta:
            yield from self._refuse(delta["refusal"])
        elif "reasoning" in delta:
            yield from self._think(delta["reasoning"])
        for call in delta.get("tool_calls", ()):
            yield from self._call(call)

    def end(self, status: str) -> Iterator[Event]:
        """status: of what is still open."""
        if not any(item["type"] != "reasoning" for item in self.output):
            yield from self._say(self._space, [], opens=True)  # an empty answer is one as well
        yield from self._close(status)

    def _say(self, text: str, odds: list[Json], *, opens: bool = False) -> Iterator[Event]:
        if not self._is_open("output_text"):
            self._space += text
            if not self._space.strip() and not opens:
                return
            text, self._space = self._space, ""
            message = {"id": _id("msg"), "type": "message", "role": "assistant", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield from self._begin(message, part)
        item = self._item()
        if text or odds:
            part = item["content"][0]
            part["text"] += text
            part["logprobs"] += odds
            yield self._told("response.output_text.delta", delta=text, logprobs=odds)

    def _refuse(self, text: str) -> Iterator[Event]:
        if not self._is_open("refusal"):
            self._space = ""
            message = {"id": _id("msg"), "type": "message", "role": "assistant", "content": []}
            yield from self._begin(message, {"type": "refusal", "refusal": ""})
        self._item()["content"][0]["refusal"] += text
        yield self._told("response.refusal.delta", delta=text)

    def _think(self, text: str) -> Iterator[Event]:
        if not self._is_open("reasoning_text"):
            thought = {"id": _id("rs"), "type": "reasoning", "summary": [], "content": []}
            yield from self._begin(thought, {"type": "reasoning_text", "text": ""})
        self._item()["content"][0]["text"] += text
        yield self._told("response.reasoning_text.delta", delta=text)

    def _call(self, call: Json) -> Iterator[Event]:
        if "id" in call:
            self._space = ""
            yield from self._begin(
                {
                    "id": _id("fc"),
                    "type": "function_call",
                    "call_id": call["id"],
                    "name": call["function"]["name"],
                    "arguments": "",
                }
            )
        if arguments := call["function"]["arguments"]:
            item = self._item()
            item["arguments"] += arguments
            yield self._about("response.function_call_arguments.delta", delta=arguments)

    def _begin(self, item: Json, part: Json | None = None) -> Iterator[Event]:
        yield from self._close("completed")
        self._open = {**item, "status": "in_progress"}
        self.output.append(self._open)
        yield self._of_item("response.output_item.added")
        if part is not None:
            self._open["content"].append(part)
            yield self._told("response.content_part.added", part=dict(part))

    def _close(self, status: str) -> Iterator[Event]:
        item = self._open
        if item is None:
            return
        if item["type"] == "function_call":
            yield self._about(
                "response.function_call_arguments.done",
                name=item["name"],
                arguments=item["arguments"],
            )
        else:
            part = item["content"][0]
            told = {name: part[name] for name in ("text", "refusal", "logprobs") if name in part}
            yield self._told(f"response.{part['type']}.done", **told)
            yield self._told("response.content_part.done", part=dict(part))
        item["status"] = status
        yield self._of_item("response.output_item.done")
        self._open = None

    def _is_open(self, kind: str) -> bool:
        """Whether an item is, whose part is of this kind."""
        parts: list[Json] = self._open.get("content", []) if self._open else []
        return bool(parts) and parts[0]["type"] == kind

    def _item(self) -> Json:
        assert self._open is not None
        return self._open

    def _of_item(self, kind: str) -> Event:
        item = self._item()
        shown = {**item, "content": list(item["content"])} if "content" in item else dict(item)
        return {"type": kind, "output_index": len(self.output) - 1, "item": shown}

    def _about(self, kind: str, **more: Any) -> Event:
        at = {"item_id": self._item()["id"], "output_index": len(self.output) - 1}
        return {"type": kind, **at, **more}

    def _told(self, kind: str, **more: Any) -> Event:
        return self._about(kind, content_index=0, **more)


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"

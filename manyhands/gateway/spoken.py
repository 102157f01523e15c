"""One choice of a chat as it is spoken: what of it is answer, thought, or a call of a tool.

In: tokens. Out: deltas of a stream, and the whole message at the end.
"""

from typing import Any

from manyhands.gateway.speaking import Speech
from manyhands.replies.parts import CallArguments, CallBegun, Part, Said, Thought
from scheduler.request import Token

Json = dict[str, Any]
FINISH = {"stop": "stop", "length": "length"}


class Spoken:
    """See the module."""

    def __init__(self, speech: Speech) -> None:
        self._speech, self._reader = speech, speech.reader()
        self._said: list[str] = []
        self._thought: list[str] = []
        self._calls: list[Json] = []
        self.n_reasoning = 0

    def hear(self, token: Token) -> list[Json]:
        """The deltas that this token completes."""
        text = self._speech.marks.get(token.token_id, "") + token.text
        parts = self._reader.feed(text) if text else []
        self.n_reasoning += any(isinstance(part, Thought) for part in parts)
        return self._deltas(parts)

    def end(self) -> list[Json]:
        """The deltas of what was held back."""
        return self._deltas(self._reader.end())

    def message(self) -> Json:
        content = "".join(self._said)
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if self._calls:
            message |= {"content": content.strip() or None, "tool_calls": self._calls}
        if self._thought:
            message["reasoning"] = "".join(self._thought).strip()
        return message

    def finish_reason(self, reason: str) -> str:
        if self._calls and reason == "stop":
            return "tool_calls"
        return FINISH.get(reason, "stop")

    def _deltas(self, parts: list[Part]) -> list[Json]:
        found = [self._delta(part) for part in parts]
        return [delta for delta in found if delta is not None]

    def _delta(self, part: Part) -> Json | None:
        match part:
            case Said(text):
                self._said.append(text)
                return {"content": text}
            case Thought(text):
                self._thought.append(text)
                return {"reasoning": text}
            case CallBegun(index, name):
                if index and not self._speech.several:
                    return None
                call: Json = {
                    "id": self._speech.new_call_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                self._calls.append(call)
                opened = {"index": index, **call, "function": dict(call["function"])}
                return {"tool_calls": [opened]}
            case CallArguments(index, text):
                if index >= len(self._calls):
                    return None
                self._calls[index]["function"]["arguments"] += text
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}

"""A reply as it streams, taken apart: text in, parts out."""

from collections.abc import Mapping
from typing import Any, Protocol

from manyhands.replies.calls import CallsReader, Teller
from manyhands.replies.dialect import HARMONY, Dialect
from manyhands.replies.harmony import HarmonyReader
from manyhands.replies.marks import Mark, Marks
from manyhands.replies.parts import Part, Said, Thought, joined


class ReplyReader(Protocol):
    """Reads one reply."""

    def feed(self, text: str) -> list[Part]:
        """The parts that this text completes. `text` has the dialect's special tokens in it."""
        ...

    def end(self) -> list[Part]:
        """What was held back: the reply is over."""
        ...


def new_reader(dialect: Dialect, prompt: str, tools: Mapping[str, Any] | None) -> ReplyReader:
    """A reader of the reply to `prompt`, whose end says whether the model thinks already.

    tools: those on offer, by name, with the JSON schema of their parameters. Without any,
    nothing is read as a call.
    """
    if dialect.name == HARMONY.name:
        return HarmonyReader(tools or {})
    return MarkedReader(dialect, prompt, tools)


class MarkedReader:
    """For dialects that put marks around thinking and calls."""

    def __init__(self, dialect: Dialect, prompt: str, tools: Mapping[str, Any] | None) -> None:
        offered = bool(tools) and dialect.has_calls
        self._dialect, self._tools = dialect, tools or {}
        self._teller = Teller(self._tools)
        self._call_open, self._call_close = dialect.calls if offered else ("", "")
        self._silent = dialect.silent if offered else ()
        think_open, think_close = dialect.thinking
        marks = (think_open, think_close, self._call_open, self._call_close, *self._silent)
        self._marks = Marks([mark for mark in marks if mark])
        self._thinks = bool(think_open) and prompt.rstrip().endswith(think_open)
        self._calls: CallsReader | None = None
        self._blank = True  # nothing said since the beginning, or since a thought
        self._may_be_bare = offered and dialect.bare

    def feed(self, text: str) -> list[Part]:
        out: list[Part] = []
        for piece in self._marks.feed(text):
            out += self._mark(piece.text) if isinstance(piece, Mark) else self._text(piece)
        return joined(out)

    def end(self) -> list[Part]:
        out = self._text(self._marks.end())
        return joined(out + self._end_calls())

    def _mark(self, mark: str) -> list[Part]:
        think_open, think_close = self._dialect.thinking
        if self._calls is not None and mark not in (self._call_open, self._call_close):
            return self._calls.feed(mark)  # it stands in an argument
        if mark == think_open:
            self._thinks = True
        elif mark == think_close:
            self._thinks, self._blank = False, True
        elif self._thinks:
            return [Thought(mark)]
        elif mark == self._call_open:
            ended = self._end_calls()
            self._calls = CallsReader(self._dialect.read_calls, self._teller, mark)
            return ended
        elif mark == self._call_close:
            self._blank = self._calls is not None
            return self._end_calls(mark)
        return []

    def _text(self, text: str) -> list[Part]:
        if not text:
            return []
        if self._thinks:
            return [Thought(text)]
        if self._calls is not None:
            return self._calls.feed(text)
        if self._blank:  # the lines between a thought or a call and what follows say nothing
            text = text.lstrip("\r\n" if not self._may_be_bare else " \t\r\n")
            if not text:
                return []
            self._blank = False
            if self._may_be_bare and text.startswith("{"):
                self._calls = CallsReader(self._dialect.read_calls, self._teller, "")
                return self._calls.feed(text)
        self._may_be_bare = False
        return [Said(text)]

    def _end_calls(self, closing: str = "") -> list[Part]:
        if self._calls is None:
            return [Said(closing)]
        ended, self._calls = self._calls.end(closing), None
        return ended

"""Harmony, the way GPT-OSS speaks: messages on channels, each with a header.

A reply goes on after `<|start|>assistant`, within a header or with its first mark. Each message is
a header, `<|message|>`, a body and `<|end|>`, `<|call|>` or `<|return|>`. A header names a channel:
`analysis` is thinking, `final` the answer, `commentary` words for whoever asked. Where it says
`to=functions.NAME`, before the channel or after, it is a call.
The format is published in OpenAI's harmony cookbook (2025).
"""

import re
from collections.abc import Mapping
from typing import Any

from manyhands.replies.calls import BLANK, MAX_NAME_CHARS, Teller
from manyhands.replies.marks import Mark, Marks
from manyhands.replies.parts import Part, Said, Thought, joined

HEADER_MARKS = ("<|start|>", "<|channel|>", "<|constrain|>")
MARKS = (*HEADER_MARKS, "<|message|>", "<|end|>", "<|call|>", "<|return|>")
TO = "to=functions."
RECIPIENT = re.compile(r"to=functions\.([^\s<]+)")
MAX_HEADER_CHARS = 1024


class HarmonyReader:
    """See `ReplyReader`."""

    def __init__(self, tools: Mapping[str, Any]) -> None:
        self._offered = bool(tools)
        self._teller = Teller(tools)
        self._marks = Marks(MARKS)
        self._header: str | None = None  # None inside a body
        self._body = "final"  # what the body is: thought, call, or final
        self._first: str | None = ""  # text before any mark that may be of a header

    def feed(self, text: str) -> list[Part]:
        out: list[Part] = []
        for piece in self._marks.feed(text):
            out += self._mark(piece.text) if isinstance(piece, Mark) else self._text(piece)
        return joined(out)

    def end(self) -> list[Part]:
        told = self._text(self._marks.end())
        return joined([Said(self._first or ""), *told])

    def _mark(self, mark: str) -> list[Part]:
        if self._first is not None:
            first, self._first = self._first, None
            if not first.lstrip(BLANK).startswith(TO):
                return [Said(first), *self._mark(mark)]
            self._header = first
        if mark == "<|message|>" and self._header is not None:
            return self._begin_body(self._header)
        if mark in HEADER_MARKS:
            self._header = (self._header or "") + " "
        elif mark != "<|message|>":
            self._header = ""
        return []

    def _begin_body(self, header: str) -> list[Part]:
        self._header = None
        called = RECIPIENT.search(header)
        if called and self._offered:
            self._body = "call"
            self._teller.begin(called[1][:MAX_NAME_CHARS])
            return self._told()
        self._body = "thought" if "analysis" in header.split() else "final"
        return []

    def _text(self, text: str) -> list[Part]:
        if not text:
            return []
        if self._first is not None:
            text, self._first = self._first + text, None
            begun = text.lstrip(BLANK)
            if TO.startswith(begun[: len(TO)]):
                self._first = text
                return []
        if self._header is not None:
            self._header = (self._header + text)[-MAX_HEADER_CHARS:]
            return []
        if self._body == "call":
            self._teller.argue(text)
            return self._told()
        return [Thought(text) if self._body == "thought" else Said(text)]

    def _told(self) -> list[Part]:
        told, self._teller.parts = self._teller.parts, []
        return told

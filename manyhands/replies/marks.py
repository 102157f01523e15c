"""Finding marks in text that arrives in pieces, however they are cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from protocol.text import overlap


@dataclass(frozen=True, slots=True)
class Mark:
    """One of the marks that were looked for."""

    text: str


class Marks:
    """Cuts a stream of text at its marks. What may yet become a mark is held back."""

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = tuple(sorted(set(marks), key=len, reverse=True))  # the longest wins
        self._held = ""

    def feed(self, piece: str) -> Iterator[str | Mark]:
        text = self._held + piece
        while found := self._first(text):
            at, mark = found
            if at:
                yield text[:at]
            yield Mark(mark)
            text = text[at + len(mark) :]
        keep = max((overlap(text, mark) for mark in self._marks), default=0)
        self._held = text[len(text) - keep :]
        if len(text) > keep:
            yield text[: len(text) - keep]

    def end(self) -> str:
        """What was held back and is no mark after all."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> tuple[int, str] | None:
        found = [(at, -len(mark), mark) for mark in self._marks if (at := text.find(mark)) >= 0]
        if not found:
            return None
        at, _, mark = min(found)
        return at, mark

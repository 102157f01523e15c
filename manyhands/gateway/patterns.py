"""Whether a text holds a pattern, in time that grows with the text alone.

In: a pattern of the operator's, a text of a stranger's. Out: yes, no, or that nobody knows.
Python's own engine backtracks: a text made for it would hold the gateway for hours. llguidance
walks derivatives of the pattern (in Rust's syntax: no look-around, no word borders, no
back-references), a byte at a time, in a few microseconds each, and gives up where they grow.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from llguidance import LLTokenizer

MAX_BYTES = 16_384  # of a text, its end


@dataclass(frozen=True, slots=True)
class Pattern:
    """Upper and lower case are alike; a dot is any character, also the end of a line."""

    text: str
    _grammar: str

    @classmethod
    def of(cls, text: str) -> Self:
        """
        Raises:
            ValueError: it is no pattern.
        """
        from llguidance import LLMatcher

        whole = f"(?s:.*)(?is:{text})(?s:.*)"
        for regex in (text, whole):  # by itself too: `a)b(` is none
            grammar = LLMatcher.grammar_from_regex(regex)
            matcher = LLMatcher(_bytes(), grammar, log_level=0)
            if matcher.is_error():
                said = " ".join(matcher.get_error().split())
                raise ValueError(f"not a pattern: {text[:80]!r}: {said[:200]}")
        return cls(text, grammar)

    def is_in(self, text: str) -> bool | None:
        """Looks at the last `MAX_BYTES` of it; None: this pattern takes too much for this text."""
        from llguidance import LLMatcher

        end = text.encode(errors="replace")[-MAX_BYTES:].decode(errors="ignore")
        ids = list(end.encode())  # whole characters: a piece of one matches nothing at all
        matcher = LLMatcher(_bytes(), self._grammar, log_level=0)
        if matcher.try_consume_tokens(ids) < len(ids) or matcher.is_error():
            return None  # any text goes on with this grammar, unless its automaton grew too large
        return bool(matcher.is_accepting())


@lru_cache(maxsize=1)
def _bytes() -> "LLTokenizer":
    from llguidance import LLTokenizer

    return LLTokenizer("byte")

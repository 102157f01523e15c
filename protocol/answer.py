"""The last hop's text and the rule by which it stops: a pure function of (request, ids).

In: ids as they are drawn. Out: the text each adds, and why the answer ends, if it does. Built from
the ids so far, so that a replacement hop goes on in the middle of a word (DESIGN 5a.5, 5a.13).
"""

from collections.abc import Sequence

from protocol.messages import Reserve
from protocol.text import Detokenizer, StopMatcher, Tokenizer


class Answer:
    """See `protocol.actions.Ending`, which this is."""

    def __init__(
        self, tokenizer: Tokenizer, request: Reserve, ids: Sequence[int], n_prompt: int
    ) -> None:
        self._eos_ids = frozenset() if request.ignore_eos else tokenizer.eos_ids
        self._left = request.max_tokens
        self._text = Detokenizer(tokenizer, ids[:n_prompt])
        self._stops = StopMatcher(request.stops)
        for token_id in ids[n_prompt:]:
            self.add(token_id)

    def add(self, token_id: int) -> tuple[str, str]:
        """The text this id adds, and a finish reason or ""."""
        self._left -= 1
        if token_id in self._eos_ids:
            return self._rest(), "stop"
        text = self._stops.add(self._text.add(token_id))
        if self._stops.has_stopped:
            return text, "stop"
        if self._left <= 0:
            return text + self._rest(), "length"
        return text, ""

    def _rest(self) -> str:
        rest = self._stops.add(self._text.flush())
        return rest + self._stops.flush()

"""The last hop's text and the rule by which it stops: a pure function of (request, ids).

In: ids as they are drawn. Out: the text each adds, and why the answer ends, if it does. Built from
the ids so far, so that a replacement hop goes on in the middle of a word (DESIGN 5a.5, 5a.13).

Before `min_tokens` nothing ends an answer: the sampler avoids the ids that would, and text of those
tokens is no part of a stop string, as in vLLM.
"""

from collections.abc import Sequence

from protocol.messages import Reserve
from protocol.text import Detokenizer, StopMatcher, Tokenizer


class Answer:
    """See `protocol.actions.Ending`, which this is."""

    def __init__(
        self, tokenizer: Tokenizer, request: Reserve, ids: Sequence[int], n_prompt: int
    ) -> None:
        self._end_ids = end_ids(tokenizer, request)
        self._left = request.max_tokens
        self._least = request.min_tokens  # still to come before anything ends it
        self._text = Detokenizer(tokenizer, ids[:n_prompt])
        self._stops = StopMatcher(request.stops)
        for token_id in ids[n_prompt:]:
            self.add(token_id)

    def add(self, token_id: int) -> tuple[str, str]:
        """The text this id adds, and a finish reason or ""."""
        self._left -= 1
        self._least -= 1
        if token_id in self._end_ids:
            return self._rest(), "stop"
        piece = self._text.add(token_id)
        text = piece if self._least >= 0 else self._stops.add(piece)
        if self._stops.has_stopped:
            return text, "stop"
        if self._left <= 0:
            return text + self._rest(), "length"
        return text, ""

    def _rest(self) -> str:
        rest = self._stops.add(self._text.flush())
        return rest + self._stops.flush()


def end_ids(tokenizer: Tokenizer, request: Reserve) -> frozenset[int]:
    """The ids that end an answer to this request; they have no text."""
    model_s = frozenset() if request.ignore_eos else tokenizer.eos_ids
    return model_s.union(request.stop_token_ids)

"""The last hop's pen: from the logits behind a row to the next token of one session.

In: what the client asked for, the ids so far, logits. Out: an id, and its log-probabilities where
they were asked for. Everything is a pure function of (request, ids, logits): drawing twice for one
position gives the same, and a replacement hop goes on where the lost one was (DESIGN 5a.5). What a
draw is, `sampling.py` says; this file knows which of it a session wants.
"""

from collections.abc import Sequence

from protocol.actions import Line
from protocol.answer import end_ids
from protocol.draws import Drawn
from protocol.errors import UsageError
from protocol.grammar import Grammar
from protocol.guidance import Guide
from protocol.likelihoods import logprobs_of
from protocol.messages import Reserve
from protocol.sampling import Floats, SamplingParams, sample
from protocol.text import Tokenizer


class Drawing:
    """Of one session. `guide` is set, before the first draw, where there is a `grammar`.

    Raises:
        UsageError: what is asked for cannot be, or not together.
    """

    def __init__(self, reserve: Reserve, tokenizer: Tokenizer) -> None:
        asked = reserve.extensions
        self._params = SamplingParams.of(reserve.sampling, asked.logit_bias)
        self._n_top = asked.logprobs - 1  # below 0: none at all
        self._min_tokens = reserve.min_tokens
        self._end_ids = sorted(end_ids(tokenizer, reserve)) if reserve.min_tokens else []
        self._latest = -1, -1  # that was drawn: its position, and what it was
        self.grammar = Grammar.parse(asked.grammar) if asked.grammar else None
        self.guide: Guide | None = None
        if self.grammar is not None and reserve.ignore_eos:
            raise UsageError("an answer that follows a grammar ends where that does: no ignore_eos")

    @property
    def is_held_up(self) -> bool:
        """Whether a draw would wait for long."""
        return self.guide is not None and self.guide.is_held_up

    def judge(
        self, logits: Floats, ids: Sequence[int], n_prompt: int, position: int, line: Line
    ) -> tuple[Drawn, ...]:
        """The token at `position`, and each next one as long as the one before is as drafted.

        logits: [rows, vocab_size], behind the row of `position - 1` and those that follow. Rows of
        a draft that was found wrong meanwhile, or that follow one, are worth nothing: no draws.
        """
        at, token_id = self._latest
        is_known = position <= line.start or (position - 1 == at and line.at(at) == token_id)
        if not is_known:
            return ()
        known = [*ids[: line.start], *line.ids]
        drawn: list[Drawn] = []
        for row in logits:
            drawn.append(self.draw(row, known, n_prompt, position))
            if drawn[-1].token_id != line.at(position):
                break
            position += 1
        return tuple(drawn)

    def draw(self, logits: Floats, ids: Sequence[int], n_prompt: int, position: int) -> Drawn:
        """The token at `position`; `ids` are all before it, at least.

        Raises:
            IntegrityError: the logits are not numbers.
            BadGrammar: it grew beyond its bounds.
        """
        bars, answer = None, ids[n_prompt:position]
        if self.grammar is not None:
            assert self.guide is not None, "it was compiled before the session began"
            bars = self.guide.bars(answer, len(logits))
        is_early = position - n_prompt < self._min_tokens
        token_id = sample(
            logits,
            self._params,
            ids[:position] if self._params.has_penalties else (),
            n_prompt=n_prompt,
            position=position,
            bars=bars,
            avoided=self._end_ids if is_early else (),
        )
        self._latest = position, token_id
        if self.guide is not None:
            self.guide.begin([*answer, token_id], len(logits))  # while the model runs it
        told = logprobs_of(logits, token_id, self._n_top) if self._n_top >= 0 else None
        return Drawn(token_id, told)

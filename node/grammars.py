"""Grammars for the sessions of a last hop: compiled off the event loop, one after the other.

In: sessions that begin, some with a grammar of their client's. Out: what their draws ask at each
token. Reading the model's vocabulary takes up to seconds, so it is done once, when the first
grammar comes. What may be in one, and why it is compiled with care: `protocol/guidance.py`.
"""

import asyncio

from protocol.drawing import Drawing
from protocol.errors import PeerBusy, UsageError
from protocol.grammar import Grammar
from protocol.guidance import Guidance, Guide
from protocol.text import Tokenizer

WAIT_S = 1.5  # for those before; a reservation is kept for twice that


class Grammars:
    """Of one model; `tokenizer` where this node serves its head."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._guidance: Guidance | None = None
        self._turn = asyncio.Lock()

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UsageError("this model has no tokenizer here, so no answer can be drawn")
        return self._tokenizer

    async def prepare(self, drawing: Drawing) -> None:
        """Give it its guide, if it has a grammar.

        Raises:
            BadGrammar: the client's makes no sense, or is too large.
            UsageError: this model has none.
            PeerBusy: too many are compiled now.
        """
        if drawing.grammar is None:
            return
        try:
            async with asyncio.timeout(WAIT_S):
                await self._turn.acquire()
        except TimeoutError:
            raise PeerBusy("", "grammars wait to be compiled here", hint="try again") from None
        try:
            drawing.guide = await asyncio.to_thread(self._compile, drawing.grammar)
        finally:
            self._turn.release()

    def _compile(self, grammar: Grammar) -> Guide:
        if self._guidance is None:
            self._guidance = Guidance(self.tokenizer)
        return self._guidance.compile(grammar)

"""One response of the swarm as it grows: as a whole, or as the events that OpenAI's clients expect.

In: what the swarm tells. Out: frames and the whole object, in the shape of `response_shape.py`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from manyhands.gateway.answers import Told
from manyhands.gateway.asked_responses import ResponsesAsked
from manyhands.gateway.items import Event
from manyhands.gateway.likelihoods import of_chat
from manyhands.gateway.prepared import Prepared
from manyhands.gateway.response_shape import AT_LIMIT, ResponseShape, usage_of
from manyhands.gateway.shapes import Json, ours
from manyhands.gateway.spoken import Spoken
from scheduler.request import Finished, GenerationResult, Token


class ResponseReply(ResponseShape):
    """To one request; see `stream.Telling`."""

    def __init__(
        self, asked: ResponsesAsked, chat: Prepared, more: Mapping[str, Any] | None = None
    ) -> None:
        """more: what stands under `manyhands` besides."""
        assert chat.speech is not None, "it is a chat"
        sampling = chat.requests[0].sampling
        super().__init__(asked, sampling.temperature, sampling.top_p)
        self._served, self._more = chat.served, more or {}
        self._spoken = Spoken(chat.speech)
        self._odds: list[Json] = []  # of tokens whose text is held back
        self._result: GenerationResult | None = None

    def hear(self, told: Iterable[Told]) -> None:
        for _ in self._events(told):
            pass

    def frames(self, told: Iterable[Told]) -> Iterator[bytes]:
        yield from self._opening()
        for event in self._events(told):
            yield self._frame(event)

    def _events(self, told: Iterable[Told]) -> Iterator[Event]:
        for _, event in told:
            if isinstance(event, Token):
                yield from self._heard(event)
            elif isinstance(event, Finished):
                self._result = event.result
                for delta in self._spoken.end():
                    yield from self._items.add(delta, self._taken(delta))

    def _heard(self, token: Token) -> Iterator[Event]:
        if token.logprobs is not None:
            told = of_chat(self._served.tokenizer, [(token.token_id, token.logprobs)])
            self._odds += told["content"]
        for delta in self._spoken.hear(token):
            yield from self._items.add(delta, self._taken(delta))

    def _taken(self, delta: Json) -> list[Json]:
        """The log-probabilities that go with this text; those of thoughts and calls go nowhere."""
        odds, self._odds = self._odds, []
        return odds if "content" in delta else []

    @property
    def _cut_by(self) -> str:
        is_cut = self._result is not None and self._result.finish_reason == "length"
        return AT_LIMIT if is_cut else ""

    def _of_all(self) -> Json:
        result = self._result
        if result is None:
            return {}
        n_answer = len(result.token_ids)
        return {
            "usage": usage_of(result.n_prompt, result.n_cached, n_answer, self._spoken.n_reasoning),
            "manyhands": {**ours(self._served, {0: result}), **self._more},
        }

"""One HTTP answer as it grows: what has been told of each choice, as frames or as a whole.

In: events, by choice. Out: frames of a stream as they are due, or the whole object at the end, and
what either says of usage. The rules of the stream are OpenAI's: the role in the first delta alone,
one last chunk with a finish reason, usage in a chunk without choices and only for who asked.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manyhands.gateway.answers import Told
from manyhands.gateway.asked import Drawn
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.shapes import DONE, Json, Shape, frame, ours, usage, usage_of
from scheduler.request import Finished, GenerationRequest, GenerationResult, PromptRead, Token

NOTHING: Mapping[str, Any] = {}


@dataclass(slots=True)
class Reply:
    """To one request; `requests` are its choices, `asked.n` of each prompt."""

    shape: Shape
    served: Served
    asked: Drawn
    requests: Sequence[GenerationRequest]
    more: Mapping[str, Any] = field(default_factory=dict)  # under `manyhands`, besides
    _results: dict[int, GenerationResult] = field(default_factory=dict)
    _opened: set[int] = field(default_factory=set)
    _n_tokens: int = 0

    def hear(self, told: Iterable[Told]) -> None:
        """For a whole answer."""
        for index, event in told:
            if isinstance(event, Token):
                self.shape.hear(index, event)
            elif isinstance(event, Finished):
                self._results[index] = self.shape.seen(event.result)

    def whole(self) -> Json:
        choices = [
            self.shape.choice(index, result) for index, result in sorted(self._results.items())
        ]
        return self.shape.whole(choices, self._usage(), self._ours()["manyhands"])

    def frames(self, told: Iterable[Told]) -> Iterator[bytes]:
        """What of this a stream shows now."""
        return map(frame, self.chunks(told))

    def end(self) -> Iterator[bytes]:
        yield from map(frame, self.last_chunks())
        yield DONE

    def chunks(self, told: Iterable[Told]) -> Iterator[Json]:
        """The same, as plain values."""
        for index, event in told:
            if isinstance(event, PromptRead):
                self.shape.read(index, event)
            if not isinstance(event, Token | Finished):
                continue
            if index not in self._opened:
                self._opened.add(index)
                if (first := self.shape.first(index)) is not None:
                    yield self._chunk([first])
            if isinstance(event, Token):
                self._n_tokens += 1
                for delta in self.shape.deltas(index, event):
                    yield self._chunk([delta])
            else:
                self._results[index] = self.shape.seen(event.result)
                *held, last = self.shape.last(index, event.result)
                for delta in held:
                    yield self._chunk([delta])
                is_end = len(self._results) == len(self.requests) and not self.asked.usage_in_stream
                yield self._chunk([last], self._ours() if is_end else {})

    def last_chunks(self) -> Iterator[Json]:
        """What comes when every choice has ended."""
        if self.asked.usage_in_stream:
            yield self.shape.chunk([], {"usage": self._usage(), **self._ours()})

    def failed(self, error: ApiError) -> bytes:
        """The last frame of a stream that broke; the id is how its trace is found."""
        body = error.body()
        body["error"]["id"] = self.shape.id
        return frame(body)

    def _chunk(self, choices: list[Json], more: Mapping[str, Any] = NOTHING) -> Json:
        if self.asked.usage_in_chunks:
            more = {"usage": self._usage_so_far(), **more}
        elif self.asked.usage_in_stream:
            more = {"usage": None, **more}
        return self.shape.chunk(choices, more)

    def _ours(self) -> Json:
        return {"manyhands": {**ours(self.served, self._results), **self.more}}

    def _usage(self) -> Json:
        return usage_of(self._results, self.asked.n or 1, self.shape.n_reasoning)

    def _usage_so_far(self) -> Json:
        of_prompts = self.requests[:: self.asked.n or 1]
        prompts = [len(request.prompt_ids) for request in of_prompts]
        return usage(prompts, self._n_tokens, 0, self.shape.n_reasoning)

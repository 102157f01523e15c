"""The objects that OpenAI's clients read: whole answers, chunks of a stream, usage.

In: what the swarm told. Out: plain values, ready for JSON. `Chat` is here, plain completions are in
`texts.py`; what is ours alone (route, receipts, times) is under `manyhands`, once per answer.
"""

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from manyhands import __version__
from manyhands.gateway.catalogue import Served
from manyhands.gateway.likelihoods import Told, of_chat, of_prompt
from manyhands.gateway.speaking import Speech
from manyhands.gateway.spoken import Spoken
from scheduler.request import GenerationResult, PromptRead, Token

Json = dict[str, Any]


class Shape(ABC):
    """Of one HTTP request: an id, a time, the name the caller used for the model."""

    prefix, whole_object, chunk_object = "", "", ""

    def __init__(self, name: str, served: Served) -> None:
        self._head: Json = {
            "id": f"{self.prefix}-{secrets.token_hex(16)}",
            "object": self.whole_object,
            "created": int(time.time()),
            "model": name,
            "system_fingerprint": fingerprint(served),
        }
        self._tokenizer = served.tokenizer

    @property
    def id(self) -> str:
        return str(self._head["id"])

    def whole(self, choices: Sequence[Json], usage: Json, ours: Json) -> Json:
        return {**self._head, "choices": list(choices), "usage": usage, "manyhands": ours}

    def chunk(self, choices: Sequence[Json], more: Mapping[str, Any]) -> Json:
        return {**self._head, "object": self.chunk_object, "choices": list(choices), **more}

    @abstractmethod
    def choice(self, index: int, result: GenerationResult) -> Json:
        """One of a whole answer."""

    @abstractmethod
    def likelihoods(self, index: int, told: Sequence[Told]) -> Json:
        """Of the next tokens of a choice, in order."""

    def _of_all(self, index: int, result: GenerationResult) -> Json | None:
        if result.logprobs is None:
            return None
        return self.likelihoods(index, list(zip(result.token_ids, result.logprobs, strict=True)))

    @abstractmethod
    def read(self, index: int, read: PromptRead) -> None:
        """How likely a choice's prompt was; comes before its first token."""

    def seen(self, result: GenerationResult) -> GenerationResult:
        """What of a choice's result the caller gets to see."""
        return result

    @abstractmethod
    def first(self, index: int) -> Json | None:
        """What opens a choice in a stream, if anything does."""

    @abstractmethod
    def hear(self, index: int, token: Token) -> None:
        """For a whole answer: the next token of a choice."""

    @abstractmethod
    def deltas(self, index: int, token: Token) -> list[Json]:
        """What a stream shows of the next token of a choice; tokens come in order."""

    @abstractmethod
    def last(self, index: int, result: GenerationResult) -> list[Json]:
        """What a stream shows at a choice's end: what was held back, and why it ended."""

    def _told_of(self, index: int, token: Token) -> Json | None:
        if token.logprobs is None:
            return None
        return self.likelihoods(index, [(token.token_id, token.logprobs)])

    @property
    def n_reasoning(self) -> int:
        """Tokens, of all choices so far, that the model wrote for itself."""
        return 0


class Chat(Shape):
    """Each choice is read as it comes: text, thoughts, calls."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, name: str, served: Served, speech: Speech) -> None:
        super().__init__(name, served)
        self._head["service_tier"] = "default"
        self._speech = speech
        self._spoken: dict[int, Spoken] = {}
        self._prompt: list[Json | None] | None = None

    def whole(self, choices: Sequence[Json], usage: Json, ours: Json) -> Json:
        made = super().whole(choices, usage, ours)
        return made if self._prompt is None else {**made, "prompt_logprobs": self._prompt}

    def choice(self, index: int, result: GenerationResult) -> Json:
        if result.prompt_logprobs is not None:
            told = result.prompt_logprobs
            n_top = max((len(each.ids) for each in told), default=0)
            self._prompt = of_prompt(self._tokenizer, self._speech.ids, told, n_top)
        spoken = self._of(index)
        spoken.end()
        return {
            "index": index,
            "message": spoken.message(),
            "logprobs": self._of_all(index, result),
            "finish_reason": spoken.finish_reason(result.finish_reason),
        }

    def read(self, index: int, read: PromptRead) -> None:
        pass  # only whole answers tell it, with their choices

    def likelihoods(self, index: int, told: Sequence[Told]) -> Json:
        return of_chat(self._tokenizer, told)

    def first(self, index: int) -> Json | None:
        return self._part(index, {"role": "assistant", "content": ""})

    def hear(self, index: int, token: Token) -> None:
        self._of(index).hear(token)

    def deltas(self, index: int, token: Token) -> list[Json]:
        found = [self._part(index, delta) for delta in self._of(index).hear(token)]
        if (likelihoods := self._told_of(index, token)) is not None:
            found = found or [self._part(index, {"content": ""})]
            found[-1]["logprobs"] = likelihoods
        return found

    def last(self, index: int, result: GenerationResult) -> list[Json]:
        spoken = self._of(index)
        held = [self._part(index, delta) for delta in spoken.end()]
        reason = spoken.finish_reason(result.finish_reason)
        return [*held, self._part(index, {}) | {"finish_reason": reason}]

    @property
    def n_reasoning(self) -> int:
        return sum(spoken.n_reasoning for spoken in self._spoken.values())

    def _of(self, index: int) -> Spoken:
        if index not in self._spoken:
            self._spoken[index] = Spoken(self._speech)
        return self._spoken[index]

    def _part(self, index: int, delta: Json) -> Json:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def fingerprint(served: Served) -> str:
    """Another one means other weights, or another version of what asks for them."""
    return f"fp_{served.digest[:8]}_{__version__}"


def usage(prompts: Sequence[int], n_generated: int, n_cached: int, n_reasoning: int = 0) -> Json:
    """prompts: tokens of each, counted once however many choices it has."""
    n_prompt = sum(prompts)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": n_cached},
        "completion_tokens_details": {"reasoning_tokens": n_reasoning},
    }


def usage_of(results: Mapping[int, GenerationResult], n_choices: int, n_reasoning: int = 0) -> Json:
    """Of all choices; `n_choices` of each prompt."""
    of_prompts = [results[index] for index in sorted(results) if index % n_choices == 0]
    return usage(
        [result.n_prompt for result in of_prompts],
        sum(len(result.token_ids) for result in results.values()),
        sum(result.n_cached for result in of_prompts),
        n_reasoning,
    )


def ours(served: Served, results: Mapping[int, GenerationResult]) -> Json:
    """The `manyhands` object: who ran each choice, in what time, and by which receipts."""
    return {
        "model": served.pinned,
        "receipts": [id for _, result in sorted(results.items()) for id in result.receipts],
        "cost": {"amount": sum(each.cost_ncr for each in results.values()), "currency": "ncr"},
        "choices": [
            {
                "index": index,
                "seed": result.seed,
                "route": [step.to_json() for step in result.route],
                "failovers": result.failovers,
                "handovers": result.handovers,
                "ttft_ms": round(result.ttft_ms, 1),
                "total_ms": round(result.total_ms, 1),
            }
            for index, result in sorted(results.items())
        ],
    }


def frame(value: Json) -> bytes:
    """One server-sent event. JSON escapes line breaks, so its data is one line."""
    return (
        b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    )


DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"

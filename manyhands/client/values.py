"""What the clients give: answers, tokens of one, models.

In: the plain values that a gateway answers with, and that a client on a swarm makes itself. Out:
frozen values with names and types.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token as it comes. `text` may be empty: inside a character, or a stop."""

    index: int
    token_id: int
    text: str
    logprob: float | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """cached_tokens: of the prompt, those that peers still had from an earlier answer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Milliseconds from the request to the first token, and to the last one."""

    ttft_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """A peer that ran blocks `[start, stop)`."""

    peer: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer.

    tokens: its ids. finish_reason: `stop` or `length`. cost_ncr: what was promised for it, in
    nanocredits. receipts: ids of the signed ones. seed: the same one gives the same text again.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    model: str
    usage: Usage
    timings: Timings
    route: tuple[Hop, ...]
    seed: int
    failovers: int = 0
    handovers: int = 0
    cost_ncr: int = 0
    receipts: tuple[str, ...] = ()
    logprobs: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """id: the name to ask for. root: with the beginning of its digest, which pins the weights.

    max_model_len: tokens of its context; None: not looked up yet.
    """

    id: str
    root: str
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """A vector of length 1 for each text, in order. pooling: how a text's rows became one."""

    vectors: tuple[tuple[float, ...], ...]
    model: str
    pooling: str
    prompt_tokens: int
    cost_ncr: int = 0
    receipts: tuple[str, ...] = ()


def embeddings_of(whole: Mapping[str, Any]) -> Embeddings:
    ours = whole["manyhands"]
    return Embeddings(
        vectors=tuple(tuple(each["embedding"]) for each in whole["data"]),
        model=ours["model"],
        pooling=ours["pooling"],
        prompt_tokens=whole["usage"]["prompt_tokens"],
        cost_ncr=ours["cost"]["amount"],
        receipts=tuple(ours["receipts"]),
    )


def answer_of(whole: Mapping[str, Any]) -> Answer:
    """From the one choice of a whole answer to a plain completion."""
    (choice,), ours = whole["choices"], whole["manyhands"]
    (run,), usage = ours["choices"], whole["usage"]
    told = choice.get("logprobs")
    return Answer(
        text=choice["text"],
        tokens=tuple(choice["token_ids"]),
        finish_reason=choice["finish_reason"],
        model=ours["model"],
        usage=Usage(
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
            cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        ),
        timings=Timings(ttft_ms=run["ttft_ms"], total_ms=run["total_ms"]),
        route=tuple(
            Hop(peer=hop["peer"], start=hop["span"][0], stop=hop["span"][1]) for hop in run["route"]
        ),
        seed=run["seed"],
        failovers=run["failovers"],
        handovers=run["handovers"],
        cost_ncr=ours["cost"]["amount"],
        receipts=tuple(ours["receipts"]),
        logprobs=tuple(told["token_logprobs"]) if told else None,
    )


class Growing:
    """An answer while its stream comes: chunks in, tokens out, and the whole at the end."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._tells_logprobs = False
        self._reason = ""
        self._last: Json = {}

    def hear(self, chunk: Json) -> Token | None:
        """The token of this chunk, if it has one."""
        if "manyhands" in chunk:
            self._last = chunk
        for choice in chunk["choices"]:
            self._reason = choice["finish_reason"] or self._reason
            self._texts.append(choice["text"])
            if not choice.get("token_ids"):
                continue
            (token_id,) = choice["token_ids"]
            self._ids.append(token_id)
            return Token(
                index=len(self._ids) - 1,
                token_id=token_id,
                text=choice["text"],
                logprob=self._likelihood(choice.get("logprobs")),
            )
        return None

    def answer(self) -> Answer | None:
        """None before the end."""
        if not self._last:
            return None
        choice = {
            "text": "".join(self._texts),
            "token_ids": self._ids,
            "finish_reason": self._reason,
            "logprobs": {"token_logprobs": self._logprobs} if self._tells_logprobs else None,
        }
        return answer_of({**self._last, "choices": [choice]})

    def _likelihood(self, told: Mapping[str, Sequence[float]] | None) -> float | None:
        if told is None:
            return None
        self._tells_logprobs = True
        self._logprobs += told["token_logprobs"]
        return told["token_logprobs"][0] if told["token_logprobs"] else None

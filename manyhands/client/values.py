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
    """One token as it comes. `text` may be empty: inside a character, or a stop.

    token_id: None where an upstream answers `manyhands/auto`, whose `text` may be several tokens.
    """

    index: int
    token_id: int | None
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
    Where an upstream answered `manyhands/auto`, there are no ids, no route and no receipts, and
    neither timings nor a seed are known.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    model: str
    usage: Usage
    timings: Timings | None
    route: tuple[Hop, ...]
    seed: int | None
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


def models_of(listed: Sequence[Mapping[str, Any]]) -> list[Model]:
    return [
        Model(id=each["id"], root=each["root"], max_model_len=each.get("max_model_len"))
        for each in listed
    ]


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
    (choice,), ours, usage = whole["choices"], whole["manyhands"], whole["usage"]
    runs: Sequence[Json] = ours.get("choices") or ({},)  # an upstream has no chain to tell of
    (run,) = runs
    told = choice.get("logprobs")
    return Answer(
        text=choice["text"],
        tokens=tuple(choice.get("token_ids") or ()),
        finish_reason=choice["finish_reason"],
        model=ours["model"],
        usage=Usage(
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        ),
        timings=Timings(ttft_ms=run["ttft_ms"], total_ms=run["total_ms"]) if run else None,
        route=tuple(
            Hop(peer=hop["peer"], start=hop["span"][0], stop=hop["span"][1])
            for hop in run.get("route", ())
        ),
        seed=run.get("seed"),
        failovers=run.get("failovers", 0),
        handovers=run.get("handovers", 0),
        cost_ncr=ours["cost"]["amount"],
        receipts=tuple(ours["receipts"]),
        logprobs=tuple(told["token_logprobs"]) if told else None,
    )


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many peers serve every block of a model now.

    hosts: one number for each block. missing: the blocks that nobody serves, as (start, stop).
    """

    model: str
    hosts: tuple[int, ...]
    missing: tuple[tuple[int, int], ...]

    @property
    def least(self) -> int:
        """Hosts of the block with fewest: so many peers and one less may be lost. 0: it cannot
        answer."""
        return min(self.hosts, default=0)

    @property
    def is_complete(self) -> bool:
        return self.least > 0


def coverage_of(told: Json) -> Coverage:
    """Of what a gateway tells."""
    hosts = tuple(n for start, stop, n in told["hosts"] for _ in range(start, stop))
    if len(hosts) != told["n_blocks"] or not all(type(n) is int and n >= 0 for n in hosts):
        raise ValueError("hosts of other blocks than the model's")
    missing = tuple((int(start), int(stop)) for start, stop in told["missing"])
    return Coverage(str(told["model"]), hosts, missing)


class Growing:
    """An answer while its stream comes: chunks in, tokens out, and the whole at the end."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._n_told = 0
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
            ids = choice.get("token_ids") or ()
            if not ids and not (choice["text"] and "token_ids" not in choice):
                continue
            self._ids += ids
            self._n_told += 1
            return Token(
                index=self._n_told - 1,
                token_id=ids[0] if ids else None,
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

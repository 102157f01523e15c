"""What a caller asks of a swarm, and what it is told: values between a person and a session."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from protocol.actions import Drafter
from protocol.adapter_names import is_adapter
from protocol.asking import (
    ANY_DRAFTER,
    MAX_DRAFTER_CHARS,
    MAX_DRAFTS,
    MAX_TOP,
    MODEL_DRAFTER,
    POOLINGS,
    Extensions,
)
from protocol.errors import ContextExceeded, UsageError
from protocol.grammar import Grammar
from protocol.logprobs import Logprobs
from protocol.lookup import Lookup
from protocol.messages import MAX_POSITIONS, MAX_STOP_CHARS, MAX_STOP_IDS, MAX_STOPS, Span
from protocol.profile import Profile
from protocol.sampling import SamplingParams
from scheduler.prices import LEASE_S
from scheduler.wanted import ANY_PEER, Goal, Limits

MAX_SECRET_CHARS = 256
WAIT_S = 5.0
NO_DRAFTER = "none"
KNOWN: Mapping[str, Callable[[], Drafter]] = {"lookup": Lookup, ANY_DRAFTER: Lookup}
DRAFTERS = (NO_DRAFTER, *KNOWN, MODEL_DRAFTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One answer to one prompt.

    timeout_s: for all of it, finding peers included. wait_s: for peers and blocks to appear.
    room_wait_s: for room on peers that are there, before the answer begins; None: all of timeout_s.
    reuse_prefix: begin where an earlier session ended, and leave the hops something to begin with.
    prefix_group: a secret; clients who give the same one begin where any of them ended.
    drafter: who guesses ahead at the last hop, in DRAFTERS: the answer is the same and may come
        sooner. Guesses that are wrong are paid for, so nobody guesses where `limits.max_cost` is
        set, nor where a prompt is read.
    spares: while the answer runs, peers that would replace its hops hold copies of what was run.

    min_tokens: before these neither the model's end nor a stop ends the answer.
    stop_token_ids: end it as the model's own do; they are in `token_ids`, and have no text.
    grammar: what the answer has to be; it decides where it ends.
    logprobs: tell how likely each token was to the model itself (`protocol.logprobs`), and that
        many of the likeliest, 0 to 20; None: nothing.
    prompt_logprobs: the same of the prompt's own ids. pooling: of the prompt only one vector is
        wanted, the `mean` of its rows or the `last`. With either, all of the prompt is run.

    Raises:
        UsageError: the request can never be served; the message says which part.
    """

    manifest: bytes
    n_blocks: int
    prompt_ids: tuple[int, ...]
    max_tokens: int = 256
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    grammar: Grammar | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    pooling: str = ""
    timeout_s: float = LEASE_S
    wait_s: float = WAIT_S
    room_wait_s: float | None = None
    profile: str | None = None
    limits: Limits = ANY_PEER  # who may serve
    goal: Goal = Goal.LATENCY
    adapter: str = ""  # a name, or a name@digest
    reuse_prefix: bool = True
    prefix_group: str = field(default="", repr=False)
    spares: bool = True
    drafter: str = NO_DRAFTER
    model: str = ""  # for messages to people
    vocab_size: int = 0  # 0: not known here, the first hop checks
    hidden_size: int = 0  # of a row between hops; 0: not known here
    traceparent: str = ""  # of the trace it belongs to, which hops are told; see `protocol.tracing`

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise UsageError("the prompt has no tokens", hint="give a prompt of one token or more")
        self._require_ids(self.prompt_ids)
        if self.max_tokens <= 0:
            raise UsageError(f"max_tokens is at least 1, got {self.max_tokens}")
        self._check_draws()
        if not 0 < self.timeout_s < 1e9:  # nor NaN
            raise UsageError(f"a timeout of {self.timeout_s} s", hint="--timeout above 0")
        if not self.wait_s >= 0:  # nor NaN
            raise UsageError(f"a wait of {self.wait_s} s", hint="--wait 0 or more")
        if self.room_wait_s is not None and not self.room_wait_s >= 0:
            raise UsageError(f"a wait for room of {self.room_wait_s} s", hint="0 or more")
        if len(self.stops) > MAX_STOPS or any(
            not 0 < len(stop) <= MAX_STOP_CHARS for stop in self.stops
        ):
            raise UsageError(f"up to {MAX_STOPS} stops of 1 to {MAX_STOP_CHARS} characters each")
        if len(self.prefix_group) > MAX_SECRET_CHARS:
            raise UsageError(f"a prefix group has at most {MAX_SECRET_CHARS} characters")
        if self.profile is not None:
            Profile.parse(self.profile)
        if not 0 < len(self.drafter) <= MAX_DRAFTER_CHARS:
            raise UsageError("that is no name of a drafter", hint=f"one of {', '.join(DRAFTERS)}")
        if self.adapter and not is_adapter(self.adapter):
            raise UsageError(
                f"no adapter is called {self.adapter[:80]!r}", hint="name, or name@digest"
            )
        if self.capacity > MAX_POSITIONS:
            raise ContextExceeded(f"{self.capacity} positions are more than any model has")

    def _require_ids(self, ids: Iterable[int]) -> None:
        highest = self.vocab_size or 1 << 31
        outside = next((i for i in ids if not 0 <= i < highest), None)
        if outside is not None:
            raise UsageError(
                f"token id {outside} is outside the vocabulary of {highest}",
                hint=f"token ids go from 0 to {highest - 1}",
            )

    def _check_draws(self) -> None:
        self._require_ids(self.stop_token_ids)
        self._require_ids(self.sampling.logit_bias)
        if len(self.stop_token_ids) > MAX_STOP_IDS:
            raise UsageError(f"up to {MAX_STOP_IDS} stop token ids")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise UsageError(
                f"min_tokens lies between 0 and max_tokens, {self.max_tokens}, "
                f"got {self.min_tokens}"
            )
        for n_top in (self.logprobs, self.prompt_logprobs):
            if n_top is not None and not 0 <= n_top <= MAX_TOP:
                raise UsageError(f"logprobs lies between 0 and {MAX_TOP}, got {n_top}")
        if self.pooling and (self.pooling not in POOLINGS or self.max_tokens != 1):
            raise UsageError(f"pooling is one of {', '.join(POOLINGS)}, with max_tokens 1")
        if self.pooling and self.prompt_logprobs is not None:
            raise UsageError("a prompt is read for its odds or for its vector, not for both")
        if self.grammar is not None and self.ignore_eos:
            raise UsageError("an answer that follows a grammar ends where that does: no ignore_eos")

    def capped(self, ncr: int | None) -> Self:
        """The same, with this as the most that it may cost, where it says no less itself."""
        caps = [cap for cap in (self.limits.max_cost, ncr) if cap is not None]
        return replace(self, limits=replace(self.limits, max_cost=min(caps, default=None)))

    def draw_extensions(self, adapter: str) -> Extensions:
        """What the last hop is told besides."""
        return Extensions(
            grammar=str(self.grammar) if self.grammar else "",
            logprobs=0 if self.logprobs is None else 1 + self.logprobs,
            logit_bias=self.sampling.packed_bias(),
            adapter=adapter,
            drafter=self.drafter if self.most_drafts else "",
            pooling=self.pooling,
            prompt_logprobs=0 if self.prompt_logprobs is None else 1 + self.prompt_logprobs,
        )

    @property
    def reads_prompt(self) -> bool:
        """Whether the last hop has to see all of the prompt: nobody takes rows over then."""
        return bool(self.pooling) or self.prompt_logprobs is not None

    @property
    def most_drafts(self) -> int:
        """Behind one token; 0: nobody guesses."""
        may = self.limits.max_cost is None and not self.reads_prompt
        return MAX_DRAFTS if may and self.drafter != NO_DRAFTER else 0

    def make_drafter(self) -> Drafter | None:
        """One that guesses as the last hop's may, to know how many rows that can have sent; None:
        nobody guesses, or one that is not known here."""
        make = KNOWN.get(self.drafter) if self.most_drafts else None
        return make() if make is not None else None

    @property
    def capacity(self) -> int:
        """Positions: prompt and answer."""
        return len(self.prompt_ids) + self.max_tokens


@dataclass(frozen=True, slots=True)
class RouteStep:
    """One hop as the caller sees it. run_ms: its last step, when it has told."""

    peer: str
    span: Span
    run_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"peer": self.peer, "span": [self.span.start, self.span.stop]}


@dataclass(frozen=True, slots=True)
class Routed:
    """A chain stands: at the start, and again after each re-route. found_s: when its hops were
    chosen, on the monotonic clock, to be asked; 0: nobody had to choose."""

    route: tuple[RouteStep, ...]
    found_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class PromptRead:
    """Before the first token, where it was asked for: of each id of the prompt but the first."""

    logprobs: tuple[Logprobs, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """`index` counts from 0 in the answer; `text` may be empty inside a character or a stop."""

    index: int
    token_id: int
    text: str
    logprobs: Logprobs | None = None  # where they were asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """The whole answer. pauses_ms: what each failover cost between two tokens.

    handovers: hops that left in the middle of it, and had somebody take their place.

    n_cached: ids at its beginning that no hop had to run, since an earlier session had.

    cost_ncr: what the client has promised to pay for it, over all its tabs.

    logprobs: one for each token, where they were asked for. prompt_logprobs: for each id of the
        prompt but the first. vector: of the prompt, float32, where `pooling` was asked for.

    suspect_links: pairs of hops that signed for different rows between them: one of each lies.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    n_prompt: int
    ttft_ms: float
    tpot_ms: float
    total_ms: float
    route: tuple[RouteStep, ...]
    failovers: int
    receipts: tuple[str, ...]
    seed: int
    pauses_ms: tuple[float, ...] = ()
    n_cached: int = 0
    handovers: int = 0
    cost_ncr: int = 0
    logprobs: tuple[Logprobs, ...] | None = None
    prompt_logprobs: tuple[Logprobs, ...] | None = None
    vector: bytes = b""
    suspect_links: tuple[tuple[str, str], ...] = ()

    def without_answer(self) -> "GenerationResult":
        """For who wants to know of the prompt alone."""
        is_told = self.logprobs is not None
        return replace(self, text="", token_ids=(), logprobs=() if is_told else None)

    def to_json(self) -> dict[str, Any]:
        told = {
            "schema": "manyhands/generate/v1",
            "text": self.text,
            "token_ids": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "usage": {
                "prompt_tokens": self.n_prompt,
                "completion_tokens": len(self.token_ids),
                "cached_tokens": self.n_cached,
            },
            "timings": {
                "ttft_ms": round(self.ttft_ms, 1),
                "tpot_ms": round(self.tpot_ms, 3),
                "total_ms": round(self.total_ms, 1),
            },
            "route": [step.to_json() for step in self.route],
            "failovers": self.failovers,
            "handovers": self.handovers,
            "pauses_ms": [round(pause, 1) for pause in self.pauses_ms],
            "receipts": list(self.receipts),
            "cost_ncr": self.cost_ncr,
            "seed": self.seed,
        }
        if self.logprobs is not None:
            told["logprobs"] = [each.to_json() for each in self.logprobs]
        return told


@dataclass(frozen=True, slots=True)
class Finished:
    result: GenerationResult


@dataclass(frozen=True, slots=True)
class Waiting:
    """No chain can be had now, for this reason, and there is time for that to change.

    code: of the error that it will be if it does not.
    """

    reason: str
    code: str


Event = Routed | Waiting | PromptRead | Token | Finished

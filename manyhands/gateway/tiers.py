"""The model `manyhands/auto`: each request goes to whom the policy says, or to whom comes next.

In: a checked body, how to prepare and answer it here. Out: a response, with headers that say who
answered and why. What fails before its first token goes on to the next target of the decision;
after that, it ends as all failures do. Requests for other names stay on the swarm.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from fastapi import Request
from starlette.responses import Response

from manyhands.gateway.answers import Observer, Observers
from manyhands.gateway.asked import (
    ChatAsked,
    CompletionAsked,
    Drawn,
    EmbeddingExtension,
    EmbeddingsAsked,
    Extension,
    several,
)
from manyhands.gateway.catalogue import Served
from manyhands.gateway.deciding import Decision, Facts, decide
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Bounds, Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.metrics import Metrics
from manyhands.gateway.own_headers import told_of
from manyhands.gateway.patterns import MAX_BYTES
from manyhands.gateway.policy import AUTO, SWARM, Policy, Upstream
from manyhands.gateway.readiness import Readiness
from manyhands.gateway.relayed import Guarded, Passing, Relayed
from manyhands.gateway.residency import class_of, limits_of
from manyhands.gateway.second_runs import refused
from manyhands.gateway.stream import Telling, response_of
from manyhands.gateway.traced import begin, unless_refused
from manyhands.gateway.upstream import Json, Used, limited
from protocol.errors import ManyhandsError
from scheduler.request import GenerationRequest
from scheduler.wanted import Limits

Body = TypeVar("Body", bound=Drawn | EmbeddingsAsked)
Ready = TypeVar("Ready", bound="Readied")
Prepare = Callable[[Served, Body, Bounds, Caller], Awaitable[Ready]]
Answer = Callable[[Request, Ready, Decision | None], Awaitable[Response]]


class Readied(Protocol):
    """What can be asked of the swarm."""

    @property
    def requests(self) -> Sequence[GenerationRequest]: ...


UNABLE = {"context_length_exceeded", "unsupported_parameter", "unsupported_value"}
CHARS_PER_TOKEN = 4  # where the swarm's model cannot even count


@dataclass(frozen=True, slots=True)
class Passed:
    """An upstream's answer, to whoever tells it. ours: what stands under `manyhands` at its end."""

    asked: Drawn | EmbeddingsAsked
    ours: Callable[[], Json]
    used: Used
    id: str


Tell = Callable[[Passed], Telling[Json]]


def passing(passed: Passed) -> Passing:
    """As it comes."""
    return Passing(passed.asked, passed.ours, passed.id)


async def by_tier(
    request: Request,
    asked: Body,
    prepare: Prepare[Body, Ready],
    answer: Answer[Ready],
    path: str,
    tell: Tell = passing,
) -> Response:
    """path: to ask of an upstream. tell: how its answer is told.

    Raises:
        ApiError: nobody answers.
    """
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    if asked.model != AUTO or gateway.bounds.policy.auto is None:
        served = gateway.find(asked.model, caller)
        return await answer(request, await prepare(served, asked, gateway.bounds, caller), None)
    more = asked.manyhands
    if more is not None and more.runs_again and more.tier != SWARM:
        raise refused("only answers of the swarm can be run again: say tier swarm, too")
    decision, prepared = await decided(request, asked, prepare)
    following: Decision | None = decision
    while following is not None:
        decision = following
        try:
            if decision.target == SWARM:
                assert prepared is not None
                response = await answer(request, prepared, decision)
            else:
                response = await _from_upstream(request, asked, prepared, decision, path, tell)
        except ApiError as error:
            following = decision.after(error.code)
            if following is None:
                raise
        else:
            request.app.state.metrics.decided(decision)
            request.app.state.panel.traffic.decided(decision.target, decision.reason)
            return response
    raise AssertionError("a decision has a target")


async def decided(
    request: Request, asked: Body, prepare: Prepare[Body, Ready]
) -> tuple[Decision, Ready | None]:
    """What the policy says of this request now; prepared for the swarm, where that can be.

    Raises:
        ApiError: it makes no sense, or its data may go nowhere.
    """
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    policy = gateway.bounds.policy
    assert policy.auto is not None
    gateway.require_permitted(AUTO, caller)
    own = EmbeddingExtension if isinstance(asked, EmbeddingsAsked) else Extension
    more = asked.manyhands or own()
    if policy.auto.fall_back and more.wait_s is None:
        more = more.model_copy(update={"wait_s": 0.0})  # others need not wait for missing blocks
    limits = _limits(more, caller, policy)  # first: they bind also what the swarm cannot prepare
    here = cast("Body", asked.model_copy(update={"model": policy.auto.model, "manyhands": more}))
    prepared, refusal = None, None
    try:
        served = gateway.catalogue.find(policy.auto.model)
        prepared = await prepare(served, here, gateway.bounds, caller)
    except ApiError as error:
        if error.code not in UNABLE or error.param == "manyhands":
            raise
        refusal = error
    facts = await _facts(request, asked, prepared, refusal, limits)
    if len(facts.text) > MAX_BYTES // 4:
        decision = await asyncio.to_thread(decide, policy, facts)
    else:
        decision = decide(policy, facts)
    if refusal is not None and decision.target == SWARM:
        raise refusal
    return decision, prepared


def _limits(more: Extension, caller: Caller, policy: Policy) -> Limits:
    try:
        return limits_of(more, caller, policy)
    except ManyhandsError as error:
        raise ApiError("invalid_value", str(error), param="manyhands") from error


async def _facts(
    request: Request,
    asked: Drawn | EmbeddingsAsked,
    prepared: Readied | None,
    refusal: ApiError | None,
    limits: Limits,
) -> Facts:
    gateway: Gateway = request.app.state.gateway
    readiness: Readiness = request.app.state.readiness
    caller: Caller = request.state.caller
    auto = gateway.bounds.policy.auto
    assert auto is not None
    not_ready = ""
    if any(rule.not_ready is not None for rule in auto.rules):
        reasons = await readiness.reasons()
        not_ready = reasons.get(gateway.catalogue.find(auto.model).id, "")
    text, wants_vectors = text_of(asked), isinstance(asked, EmbeddingsAsked)
    requests = prepared.requests if prepared else ()
    return Facts(
        n_prompt=_prompt_tokens(asked, prepared),
        n_answer=0
        if wants_vectors
        else sum(each.max_tokens for each in requests) or asked.limit or 0,
        tools=bool(getattr(asked, "tools", None)),
        structured=isinstance(asked, Drawn) and _is_structured(asked),
        text=text,
        has_ids=bool(_ids_of(asked)),
        first_token_ms=gateway.pace.first_token_ms(),
        running=gateway.n_running,
        unable=refusal.code if refusal else "",
        not_ready=not_ready,
        data=class_of(asked.manyhands, caller),
        limits=limits,
        key=caller.name,
        tier=(asked.manyhands.tier if asked.manyhands else "") or "",
        wants_vectors=wants_vectors,
    )


def _is_structured(asked: Drawn) -> bool:
    wants_format = asked.response_format is not None and asked.response_format.type != "text"
    return wants_format or asked.structured_outputs is not None


def text_of(asked: Drawn | EmbeddingsAsked) -> str:
    """What its author wrote: the user's messages, the prompts, or the texts."""
    if isinstance(asked, ChatAsked):
        users = (message for message in asked.messages if message.role == "user")
        return "\n".join(str(message.plain()["content"] or "") for message in users)
    if isinstance(asked, EmbeddingsAsked):
        return "\n".join(text for text in several(asked.input) if isinstance(text, str))
    if isinstance(asked, CompletionAsked):
        return "\n".join(prompt for prompt in asked.prompts if isinstance(prompt, str))
    return ""


def _ids_of(asked: Drawn | EmbeddingsAsked) -> list[list[int]]:
    """What of it is token ids, not text."""
    if isinstance(asked, EmbeddingsAsked):
        return [each for each in several(asked.input) if not isinstance(each, str)]
    if isinstance(asked, CompletionAsked):
        return [each for each in asked.prompts if not isinstance(each, str)]
    return []


async def _from_upstream(
    request: Request,
    asked: Drawn | EmbeddingsAsked,
    prepared: Readied | None,
    decision: Decision,
    path: str,
    tell: Tell,
) -> Response:
    gateway: Gateway = request.app.state.gateway
    metrics: Metrics = request.app.state.metrics
    bounds, name = gateway.bounds, decision.target
    upstream, own = bounds.policy.upstreams[name], f"upstream:{name}"
    limit = bounds.max_tokens if asked.limit is None else asked.limit
    n_choices = _n_choices(asked, prepared)
    used = Used(_prompt_tokens(asked, prepared), limit * n_choices)
    body = asked.model_dump(mode="json", by_alias=True, exclude_unset=True)
    seen: list[Observer] = [metrics.watch(own, path), _Traced(request, name, prepared)]
    trace = begin(request, own, path, prepared.requests if prepared else (), own)
    if trace is not None:
        seen.append(trace)
    relayed = Relayed(
        gateway.upstreams.open(
            name, path, limited(upstream, body, path, limit), used, _timeout_s(asked, bounds)
        ),
        upstream,
        used,
        n_choices,
        Observers(*seen),
        streams=asked.streams,
        settled=partial(metrics.relayed, own),
    )
    with unless_refused(trace):
        gateway.relay(relayed, request.receive, request.state.caller)
    told = told_of(asked.ignored(), decision, model=upstream.model)
    passed = Passed(asked, lambda: _ours(relayed, upstream, decision), used, request.state.id)
    telling = Guarded(tell(passed), name)
    return await response_of(
        relayed, telling, lambda: told, streams=asked.streams, patience_s=bounds.patience_s
    )


def _ours(relayed: Relayed, upstream: Upstream, decision: Decision) -> Json:
    """The `manyhands` object of an upstream's answer."""
    cost = relayed.used.cost_ncr(upstream)
    return {
        "model": upstream.model,
        "decision": decision.to_json(),
        "receipts": [],
        "cost": {"amount": cost, "currency": "ncr"},
    }


def _timeout_s(asked: Drawn | EmbeddingsAsked, bounds: Bounds) -> float:
    more = asked.manyhands
    return min(bounds.timeout_s, (more and more.timeout_s) or bounds.timeout_s)


def _n_choices(asked: Drawn | EmbeddingsAsked, prepared: Readied | None) -> int:
    if isinstance(asked, EmbeddingsAsked):
        return 1
    if prepared is not None:
        return len(prepared.requests)
    n_prompts = len(asked.prompts) if isinstance(asked, CompletionAsked) else 1
    return n_prompts * (asked.n or 1)


def _prompt_tokens(asked: Drawn | EmbeddingsAsked, prepared: Readied | None) -> int:
    """As the swarm's model counts; else about."""
    if prepared is None:
        return len(text_of(asked)) // CHARS_PER_TOKEN + sum(map(len, _ids_of(asked)))
    return sum(len(each.prompt_ids) for each in prepared.requests)


class _Traced(Observer):
    """In the list of the last answers that the page shows."""

    def __init__(self, request: Request, name: str, prepared: Readied | None) -> None:
        self._traffic: Any = request.app.state.panel.traffic
        n_prompt = len(prepared.requests[0].prompt_ids) if prepared else 0
        self._of = (request.state.id, f"upstream:{name}", request.url.path, n_prompt)
        self._trace: Any = None

    def began(self, n_choices: int) -> None:
        self._trace = self._traffic.begin(*self._of)

    def hear(self, index: int, event: Any) -> None:
        self._traffic.hear(self._trace, event)

    def ended(self, index: int, reason: str, code: str) -> None:
        self._traffic.end(self._trace, code or reason)

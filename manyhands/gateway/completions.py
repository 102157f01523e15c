"""POST /v1/chat/completions and /v1/completions: from a checked body to an answer or a stream.

The status is held back until the first token or the first failure, so that what goes wrong before
it has its own status (see `stream.response_of`).
"""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from manyhands.dashboard.routes import Panel
from manyhands.gateway.answers import Answers, Observer, Observers, Told
from manyhands.gateway.asked import ChatAsked, CompletionAsked, Drawn, Extension
from manyhands.gateway.catalogue import Served
from manyhands.gateway.deciding import Decision
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.metrics import Metrics
from manyhands.gateway.own_headers import told_of, with_headers
from manyhands.gateway.policy import SWARM
from manyhands.gateway.prepared import Prepared, prepare_chat, prepare_text
from manyhands.gateway.residency import class_of, explained_here
from manyhands.gateway.second_runs import refused
from manyhands.gateway.stream import Telling, response_of
from manyhands.gateway.tiers import by_tier
from manyhands.gateway.traced import begin, unless_refused
from scheduler.request import GenerationRequest

router = APIRouter()

OUTCOMES = "/api/v1/requests"  # where it is told what a second run found


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, asked: ChatAsked) -> Response:
    """A conversation goes on, by the model's own chat template; whole or streamed."""
    asked = with_headers(asked, request.headers)
    return await by_tier(request, asked, prepare_chat, _answer, "chat/completions")


@router.post("/v1/completions")
async def completions(request: Request, asked: CompletionAsked) -> Response:
    """Text or token ids go on; whole or streamed."""
    asked = with_headers(asked, request.headers)
    return await by_tier(request, asked, prepare_text, _answer, "completions")


async def answer(
    request: Request,
    prepared: Prepared,
    reply: Telling[Told],
    *,
    kind: str,
    ignored: Sequence[str],
    decision: Decision | None = None,
) -> Response:
    """Ask the swarm, and tell the caller: as a stream, if that was asked for.

    kind: of object, for the metrics. ignored: fields that nobody reads. decision: why the swarm,
    where a policy was asked.

    Raises:
        ApiError: what went wrong before anything was told.
    """
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    asked, served, requests = prepared.asked, prepared.served, prepared.requests
    verify = (asked.manyhands or Extension()).runs_again
    answers = ask(request, served, kind, requests, verify)

    def headers() -> dict[str, str]:
        return told_of(ignored, decision, model=served.pinned, route=answers.route, verify=verify)

    patience_s = gateway.bounds.patience_s
    try:
        return await response_of(
            answers, reply, headers, streams=asked.streams, patience_s=patience_s
        )
    except ApiError as error:
        data = class_of(asked.manyhands, caller)
        raise explained_here(error, requests[0].limits, data) from error.__cause__


async def _answer(request: Request, prepared: Prepared, decision: Decision | None) -> Response:
    reply = prepared.reply(told_besides(request, prepared.asked, decision))
    kind, ignored = prepared.shape.whole_object, prepared.asked.ignored()
    return await answer(request, prepared, reply, kind=kind, ignored=ignored, decision=decision)


def told_besides(request: Request, asked: Drawn, decision: Decision | None) -> dict[str, Any]:
    """What stands under `manyhands` besides what every answer says of itself."""
    told: dict[str, Any] = {"decision": decision.to_json()} if decision else {}
    if verify := (asked.manyhands or Extension()).runs_again:
        told["verification"] = {"asked": verify, "request": request.state.id, "at": OUTCOMES}
    return told


def ask(
    request: Request,
    served: Served,
    kind: str,
    requests: Sequence[GenerationRequest],
    verify: str = "",
) -> Answers:
    """Begin to answer; whoever else hears what these requests' answers tell is told.

    verify: how much of them to run again afterwards; empty: nothing.

    Raises:
        ApiError: not now.
    """
    gateway: Gateway = request.app.state.gateway
    metrics: Metrics = request.app.state.metrics
    panel: Panel = request.app.state.panel
    heard: list[Observer] = [
        metrics.watch(served.id, kind),
        panel.traffic.watch(request.state.id, served.id, request.url.path, requests),
        gateway.pace.watch(),
    ]
    trace = begin(request, served.id, kind, requests, SWARM)
    if trace is not None:
        requests = trace.marked(requests)
        heard.append(trace)
    caller: Caller = request.state.caller
    observers = Observers(*heard)
    with unless_refused(trace):
        wish = None
        if verify:
            if gateway.second_runs is None:
                raise refused("this gateway runs no answers again")
            id, tell = request.state.id, observers.verified
            wish = gateway.second_runs.wish(verify, served, caller, id, tell)
        return gateway.ask(requests, request.receive, observers, caller=caller, wish=wish)

"""POST /v1/chat/completions and /v1/completions: from a checked body to an answer or a stream.

The status is held back until the first token or the first failure, so that what goes wrong before
it has its own status (see `answers.ready`).
"""

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from manyhands.dashboard.routes import Panel
from manyhands.gateway.answers import CallerLeft, Observer, Observers
from manyhands.gateway.asked import ChatAsked, CompletionAsked
from manyhands.gateway.catalogue import Served
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.metrics import Metrics
from manyhands.gateway.prepared import Prepared, prepare_chat, prepare_text
from manyhands.gateway.stream import EventStream, Telling
from scheduler.request import GenerationRequest

router = APIRouter()
IGNORED = "x-manyhands-ignored-params"
TOLD = (IGNORED,)  # headers of ours
GONE = 499  # nobody reads it; the access log does


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, asked: ChatAsked) -> Response:
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    served = gateway.find(asked.model, caller)
    return await _answer(request, await prepare_chat(served, asked, gateway.bounds, caller))


@router.post("/v1/completions")
async def completions(request: Request, asked: CompletionAsked) -> Response:
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    served = gateway.find(asked.model, caller)
    return await _answer(request, await prepare_text(served, asked, gateway.bounds, caller))


async def answer(
    request: Request, prepared: Prepared, reply: Telling, *, kind: str, ignored: Sequence[str]
) -> Response:
    """Ask the swarm, and tell the caller: as a stream, if that was asked for.

    kind: of object, for the metrics. ignored: fields that nobody reads.

    Raises:
        ApiError: what went wrong before anything was told.
    """
    gateway: Gateway = request.app.state.gateway
    requests = prepared.requests
    observer = observers(request, prepared.served, kind, requests)
    answers = gateway.ask(requests, request.receive, observer, caller=request.state.caller)
    headers = {IGNORED: ", ".join(ignored)} if ignored else {}
    handed_over = False
    try:
        if prepared.asked.streams:
            await answers.ready(gateway.bounds.patience_s)
            handed_over = True
            return EventStream(answers, reply, headers)
        while not answers.is_over:
            reply.hear(await answers.next())
        return JSONResponse(reply.whole(), headers=headers)
    except CallerLeft:
        return Response(status_code=GONE)
    finally:
        if not handed_over:
            answers.leave()


async def _answer(request: Request, prepared: Prepared) -> Response:
    kind, ignored = prepared.shape.whole_object, prepared.asked.ignored()
    return await answer(request, prepared, prepared.reply(), kind=kind, ignored=ignored)


def observers(
    request: Request, served: Served, kind: str, requests: Sequence[GenerationRequest]
) -> Observer:
    """Who else hears what these requests' answers tell."""
    metrics: Metrics = request.app.state.metrics
    panel: Panel = request.app.state.panel
    return Observers(
        metrics.watch(served.id, kind),
        panel.traffic.watch(request.state.id, served.id, request.url.path, requests),
    )

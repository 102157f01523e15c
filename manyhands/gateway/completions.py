"""POST /v1/chat/completions and /v1/completions: from a checked body to an answer or a stream.

The status is held back until the first token or the first failure, so that what goes wrong before
it has its own status (see `answers.ready`).
"""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from manyhands.dashboard.routes import Panel
from manyhands.gateway.answers import CallerLeft, Observers
from manyhands.gateway.asked import ChatAsked, CompletionAsked
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.metrics import Metrics
from manyhands.gateway.prepared import Prepared, prepare_chat, prepare_text
from manyhands.gateway.stream import EventStream

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


async def _answer(request: Request, prepared: Prepared) -> Response:
    gateway: Gateway = request.app.state.gateway
    asked, served, requests = prepared.asked, prepared.served, prepared.requests
    metrics: Metrics = request.app.state.metrics
    panel: Panel = request.app.state.panel
    observer = Observers(
        metrics.watch(served.id, prepared.shape.whole_object),
        panel.traffic.watch(request.state.id, served.id, request.url.path, requests),
    )
    answers = gateway.ask(requests, request.receive, observer, caller=request.state.caller)
    headers = {IGNORED: ", ".join(ignored)} if (ignored := asked.ignored()) else {}
    reply = prepared.reply()
    handed_over = False
    try:
        if asked.streams:
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

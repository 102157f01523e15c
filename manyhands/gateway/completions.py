"""POST /v1/chat/completions and /v1/completions: from a checked body to an answer or a stream.

The status is held back until the first token or the first failure, so that what goes wrong before
it has its own status (see `answers.ready`).
"""

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from manyhands.dashboard.routes import Panel
from manyhands.gateway.answers import CallerLeft, Observers
from manyhands.gateway.asked import MAX_PROMPTS, ChatAsked, CompletionAsked, Drawn
from manyhands.gateway.asking import requests_for
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.metrics import Metrics
from manyhands.gateway.prompts import prompt_ids
from manyhands.gateway.refusals import require_supported
from manyhands.gateway.reply import Reply
from manyhands.gateway.shapes import Chat, Shape, Text
from manyhands.gateway.speaking import speech_of
from manyhands.gateway.stream import EventStream
from protocol.grammar import Grammar

router = APIRouter()
IGNORED = "x-manyhands-ignored-params"
GONE = 499  # nobody reads it; the access log does


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, asked: ChatAsked) -> Response:
    gateway: Gateway = request.app.state.gateway
    require_supported(asked)
    served = gateway.catalogue.find(asked.model)
    speech = await speech_of(served, asked)
    shape = Chat(asked.model, served, speech)
    return await _answer(request, asked, served, [speech.ids], shape, "messages", speech.grammar)


@router.post("/v1/completions")
async def completions(request: Request, asked: CompletionAsked) -> Response:
    gateway: Gateway = request.app.state.gateway
    require_supported(asked)
    served = gateway.catalogue.find(asked.model)
    if asked.echo and asked.logprobs is not None:
        message = "log-probabilities of a prompt are not told; leave out echo or logprobs"
        raise ApiError("unsupported_value", message, param="logprobs")
    prompts = asked.prompts
    _require_few(prompts, asked)
    ids = [await prompt_ids(served, prompt) for prompt in prompts]
    echoes = [
        prompt if isinstance(prompt, str) else served.tokenizer.decode(prompt)
        for prompt in (prompts if asked.echo else [])
        for _ in range(asked.n or 1)
    ]
    return await _answer(request, asked, served, ids, Text(asked.model, served, echoes), "prompt")


async def _answer(
    request: Request,
    asked: Drawn,
    served: Served,
    prompts: Sequence[Sequence[int]],
    shape: Shape,
    param: str,
    grammar: Grammar | None = None,
) -> Response:
    gateway: Gateway = request.app.state.gateway
    bounds = gateway.bounds
    group: str = request.state.group
    requests = requests_for(
        served,
        prompts,
        asked,
        max_tokens=bounds.max_tokens,
        timeout_s=bounds.timeout_s,
        group=group,
        param=param,
        grammar=grammar,
    )
    metrics: Metrics = request.app.state.metrics
    panel: Panel = request.app.state.panel
    observer = Observers(
        metrics.watch(served.id, shape.whole_object),
        panel.traffic.watch(request.state.id, served.id, request.url.path, requests),
    )
    answers = gateway.ask(requests, request.receive, observer, group=group)
    headers = {IGNORED: ", ".join(ignored)} if (ignored := asked.ignored()) else {}
    reply = Reply(shape, served, asked, requests)
    handed_over = False
    try:
        if asked.streams:
            await answers.ready(bounds.patience_s)
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


def _require_few(prompts: Sequence[object], asked: CompletionAsked) -> None:
    n_choices = len(prompts) * (asked.n or 1)
    if not prompts:
        raise ApiError("invalid_value", "there is no prompt", param="prompt")
    if n_choices > MAX_PROMPTS:
        message = f"up to {MAX_PROMPTS} answers in one request, not {n_choices}"
        raise ApiError("unsupported_value", message, param="prompt")

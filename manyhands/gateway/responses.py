"""POST /v1/responses, of which nothing is kept: from a checked body to a response or its events."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from manyhands.gateway.asked_responses import ResponsesAsked
from manyhands.gateway.completions import answer
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.own_headers import with_headers
from manyhands.gateway.prepared import prepare_chat
from manyhands.gateway.refusals import require_stateless
from manyhands.gateway.response_reply import ResponseReply

router = APIRouter()

NAMES = {"messages": "input", "response_format": "text.format"}  # of a chat's fields, here


@router.post("/v1/responses")
async def responses(request: Request, asked: ResponsesAsked) -> Response:
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    require_stateless(asked)
    served = gateway.find(asked.model, caller)
    try:
        body = with_headers(asked.chat(), request.headers)
        chat = await prepare_chat(served, body, gateway.bounds, caller)
        reply = ResponseReply(asked, chat)
        return await answer(request, chat, reply, kind="response", ignored=asked.ignored())
    except ApiError as error:
        error.param = NAMES.get(error.param or "", error.param)
        raise

"""POST /v1/responses, of which nothing is kept: from a checked body to a response or its events."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from manyhands.gateway.asked import ChatAsked
from manyhands.gateway.asked_responses import ResponsesAsked
from manyhands.gateway.completions import answer, told_besides
from manyhands.gateway.deciding import Decision
from manyhands.gateway.faults import ApiError
from manyhands.gateway.own_headers import with_headers
from manyhands.gateway.prepared import Prepared, prepare_chat
from manyhands.gateway.refusals import require_stateless
from manyhands.gateway.relayed_response import RelayedResponse
from manyhands.gateway.response_reply import ResponseReply
from manyhands.gateway.tiers import Passed, by_tier
from manyhands.gateway.upstream import CHAT

router = APIRouter()

NAMES = {"messages": "input", "response_format": "text.format"}  # of a chat's fields, here


@router.post("/v1/responses")
async def responses(request: Request, asked: ResponsesAsked) -> Response:
    """Text, functions and thoughts as items; nothing is kept. Whole or streamed."""
    require_stateless(asked)
    try:
        body = chat_of(request, asked)
        telling = partial(_telling, asked)
        return await by_tier(request, body, prepare_chat, partial(_answer, asked), CHAT, telling)
    except ApiError as error:
        error.param = NAMES.get(error.param or "", error.param)
        raise


def chat_of(request: Request, asked: ResponsesAsked) -> ChatAsked:
    """The chat that it stands for, with what its headers say."""
    return with_headers(asked.chat(), request.headers)


async def _answer(
    asked: ResponsesAsked, request: Request, chat: Prepared, decision: Decision | None
) -> Response:
    reply = ResponseReply(asked, chat, told_besides(request, chat.asked, decision))
    ignored = asked.ignored()
    return await answer(request, chat, reply, kind="response", ignored=ignored, decision=decision)


def _telling(asked: ResponsesAsked, passed: Passed) -> RelayedResponse:
    return RelayedResponse(asked, passed.ours, passed.used)

"""From a checked body to what is asked of the swarm, and the shape in which it is told.

In: a body, the model that it means. Out: requests and a reply that has heard nothing yet. HTTP
(`completions.py`) and the Python client (`manyhands.client`) both come through here, so that they
cannot differ in what they ask or say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manyhands.gateway.asked import MAX_PROMPTS, ChatAsked, CompletionAsked, Drawn
from manyhands.gateway.asking import requests_for
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Bounds
from manyhands.gateway.grants import ANYBODY, Caller
from manyhands.gateway.prompts import all_ids, on_thread
from manyhands.gateway.refusals import require_supported
from manyhands.gateway.reply import Reply
from manyhands.gateway.shapes import Chat, Shape
from manyhands.gateway.speaking import Speech, speech_of
from manyhands.gateway.texts import Text
from scheduler.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class Prepared:
    """`requests` are one for each choice, in order."""

    shape: Shape
    served: Served
    asked: Drawn
    requests: Sequence[GenerationRequest]
    speech: Speech | None = None  # of a chat

    def reply(self, more: Mapping[str, Any] | None = None) -> Reply:
        """more: what stands under `manyhands` besides."""
        return Reply(self.shape, self.served, self.asked, self.requests, more or {})


async def prepare_chat(
    served: Served, asked: ChatAsked, bounds: Bounds, caller: Caller = ANYBODY
) -> Prepared:
    """
    Raises:
        ApiError: it asks for what cannot be had.
    """
    require_supported(asked)
    speech = await speech_of(served, asked)
    requests = requests_for(
        served,
        [speech.ids],
        asked,
        max_tokens=bounds.max_tokens,
        timeout_s=bounds.timeout_s,
        caller=caller,
        policy=bounds.policy,
        param="messages",
        grammar=speech.grammar,
    )
    return Prepared(Chat(asked.model, served, speech), served, asked, requests, speech)


async def prepare_text(
    served: Served, asked: CompletionAsked, bounds: Bounds, caller: Caller = ANYBODY
) -> Prepared:
    """
    Raises:
        ApiError: it asks for what cannot be had.
    """
    require_supported(asked)
    if asked.wants_echo_alone and not asked.echo:
        raise ApiError("invalid_value", "0 tokens are nothing, without echo", param="max_tokens")
    prompts = asked.prompts
    _require_few(prompts, asked)
    ids = await all_ids(served, prompts)
    told = zip(prompts, ids, strict=True) if asked.echo else ()
    echoes = [await _echo(served, prompt, of) for prompt, of in told]
    requests = requests_for(
        served,
        ids,
        asked,
        max_tokens=bounds.max_tokens,
        timeout_s=bounds.timeout_s,
        caller=caller,
        policy=bounds.policy,
    )
    shape = Text(asked.model, served, asked, ids, echoes)
    return Prepared(shape, served, asked, requests)


async def _echo(served: Served, prompt: str | list[int], ids: Sequence[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    return await on_thread(lambda: served.tokenizer.decode(ids), 4 * len(ids), "prompt")


def _require_few(prompts: Sequence[object], asked: CompletionAsked) -> None:
    n_choices = len(prompts) * (asked.n or 1)
    if not prompts:
        raise ApiError("invalid_value", "there is no prompt", param="prompt")
    if n_choices > MAX_PROMPTS:
        message = f"up to {MAX_PROMPTS} answers in one request, not {n_choices}"
        raise ApiError("unsupported_value", message, param="prompt")

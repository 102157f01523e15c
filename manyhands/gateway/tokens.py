"""POST /tokenize and /detokenize, GET /tokenizer_info: the model's tokenizer, for tools that count.

The names and shapes are vLLM's, which lm-eval and others ask for. Without a `model` the default
one is meant.
"""

from fastapi import APIRouter, Request

from manyhands.gateway.asked import DetokenizeAsked, TokenizeAsked, n_chars_of
from manyhands.gateway.catalogue import DEFAULT, Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.prompts import chat_text, on_thread, require_known, text_ids
from manyhands.gateway.shapes import Json

router = APIRouter()


@router.post("/tokenize")
async def tokenize(request: Request, asked: TokenizeAsked) -> Json:
    """A text, or a conversation, as ids."""
    served = _model(request, asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise ApiError("invalid_value", "give either prompt or messages", param="prompt")
    if asked.messages is not None:
        opens, messages = asked.add_generation_prompt, asked.messages

        def render() -> list[int]:
            text = chat_text(served, messages, add_generation_prompt=opens)
            return served.tokenizer.encode(text, add_special_tokens=False)

        ids = await on_thread(render, n_chars_of(messages), "messages")
    else:
        assert asked.prompt is not None
        special = asked.add_special_tokens
        ids = await text_ids(served, asked.prompt, add_special_tokens=special)
    return {"tokens": ids, "count": len(ids), "max_model_len": served.max_positions}


@router.post("/detokenize")
async def detokenize(request: Request, asked: DetokenizeAsked) -> Json:
    """Ids as text."""
    served = _model(request, asked.model)
    require_known(served, asked.tokens, "tokens")

    def decode() -> str:
        return served.tokenizer.decode(asked.tokens, skip_special_tokens=False)

    return {"prompt": await on_thread(decode, 4 * len(asked.tokens), "tokens")}


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request, model: str = DEFAULT) -> Json:
    """What a client needs to know of a model's tokenizer."""
    served = _model(request, model)
    tokenizer = served.tokenizer
    named = {name: tokenizer.special_tokens.get(name) for name in ("bos_token", "pad_token")}
    return {
        "model": served.id,
        "eos_token": tokenizer.special_tokens.get("eos_token"),
        **named,
        "eos_token_ids": sorted(tokenizer.eos_ids),
        "vocab_size": tokenizer.vocab_size,
        "max_model_len": served.max_positions,
        "chat_template": tokenizer.chat_template,
    }


def _model(request: Request, name: str | None) -> Served:
    gateway: Gateway = request.app.state.gateway
    return gateway.find(name or DEFAULT, request.state.caller)

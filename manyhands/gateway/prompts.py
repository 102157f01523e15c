"""From messages or text to token ids, without holding up the others.

In: what a caller said. Out: ids. Templates and tokenizers take time that grows with the text, so
long ones run on a thread; both are the model's own (`protocol.text`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from manyhands.gateway.asked import Message
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from protocol.errors import UsageError

T = TypeVar("T")
SHORT_CHARS = 4096  # what takes about a millisecond


async def chat_ids(
    served: Served, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> list[int]:
    """
    Raises:
        ApiError: the model's template refuses these messages.
    """

    def render() -> list[int]:
        plain = [message.plain() for message in messages]
        tokenizer = served.tokenizer
        text = tokenizer.chat(plain, add_generation_prompt=add_generation_prompt)
        return tokenizer.encode(text, add_special_tokens=False)

    size = sum(len(str(message.content or "")) for message in messages)
    return await _on_thread(render, size, "messages")


async def text_ids(served: Served, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """
    Raises:
        ApiError: the text is no text.
    """

    def encode() -> list[int]:
        return served.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    return await _on_thread(encode, len(text), "prompt")


async def prompt_ids(served: Served, prompt: str | list[int]) -> list[int]:
    """
    Raises:
        ApiError: it is empty, or holds an id that the model has not.
    """
    ids = await text_ids(served, prompt) if isinstance(prompt, str) else prompt
    if not ids:
        raise ApiError("invalid_value", "the prompt has no tokens", param="prompt")
    require_known(served, ids, "prompt")
    return ids


def require_known(served: Served, ids: Sequence[int], param: str) -> None:
    """
    Raises:
        ApiError: one is outside the vocabulary.
    """
    vocab_size = served.model.manifest.vocab_size
    if (highest := max(ids, default=0)) >= vocab_size:
        message = f"token id {highest} is outside the vocabulary of {vocab_size}"
        raise ApiError("invalid_value", message, param=param)


async def _on_thread(work: Callable[[], T], size: int, param: str) -> T:
    try:
        return work() if size <= SHORT_CHARS else await asyncio.to_thread(work)
    except UsageError as error:
        raise ApiError("invalid_value", str(error), param=param) from error

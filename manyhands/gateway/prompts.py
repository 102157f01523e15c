"""From messages or text to token ids, without holding up the others.

In: what a caller said. Out: ids. Templates and tokenizers take time that grows with the text, so
long ones run on a thread; both are the model's own (`protocol.text`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from manyhands.gateway.asked import Message
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.replies.history import for_template
from protocol.errors import UsageError

T = TypeVar("T")
SHORT_CHARS, CALL_CHARS = 4096, 128  # what takes about a millisecond; what a call costs besides


def chat_text(
    served: Served,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The conversation as the model's template renders it.

    Raises:
        UsageError: it refuses these messages.
    """
    return served.tokenizer.chat(
        for_template([message.plain() for message in messages]),
        add_generation_prompt=add_generation_prompt,
        tools=tools,
        variables=variables,
    )


async def text_ids(
    served: Served, text: str, *, add_special_tokens: bool = True, param: str = "prompt"
) -> list[int]:
    """
    Raises:
        ApiError: the text is no text.
    """

    def encode() -> list[int]:
        return served.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    return await on_thread(encode, len(text), param)


async def all_ids(
    served: Served, prompts: Sequence[str | list[int]], param: str = "prompt"
) -> list[list[int]]:
    """Of each prompt, in order.

    Raises:
        ApiError: one is empty, or holds an id that the model has not.
    """

    def encode() -> list[list[int]]:
        return [served.tokenizer.encode(p) if isinstance(p, str) else p for p in prompts]

    size = sum(len(prompt) + CALL_CHARS for prompt in prompts if isinstance(prompt, str))
    found = await on_thread(encode, size, param)
    for ids in found:
        if not ids:
            raise ApiError("invalid_value", f"the {param} has no tokens", param=param)
        require_known(served, ids, param)
    return found


def require_known(served: Served, ids: Sequence[int], param: str) -> None:
    """
    Raises:
        ApiError: one is outside the vocabulary.
    """
    vocab_size = served.model.manifest.vocab_size
    if (highest := max(ids, default=0)) >= vocab_size:
        message = f"token id {highest} is outside the vocabulary of {vocab_size}"
        raise ApiError("invalid_value", message, param=param)


async def on_thread(work: Callable[[], T], size: int, param: str) -> T:
    """Do it here if that takes about a millisecond.

    Raises:
        ApiError: what was asked makes no sense to the model's tokenizer or template.
    """
    try:
        return work() if size <= SHORT_CHARS else await asyncio.to_thread(work)
    except UsageError as error:
        raise ApiError("invalid_value", str(error), param=param) from error
    except RecursionError as error:
        raise ApiError("invalid_value", "this is nested too deeply", param=param) from error

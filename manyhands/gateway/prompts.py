"""From messages or text to token ids, without holding up the others.

In: what a caller said. Out: ids. Templates and tokenizers take time that grows with the text, so
long ones run on a thread; both are the model's own (`protocol.text`). Of a text that cannot fit the
context only so much is read as shows that. The threads are few and no one else's: who sends many
long texts waits for itself, and neither the event loop nor what else runs on threads does.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from manyhands.gateway.asked import Message
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.replies.history import for_template
from protocol.errors import UsageError

T = TypeVar("T")
SHORT_CHARS, CALL_CHARS = 4096, 128  # what takes about a millisecond; what a call costs besides
_lanes = ThreadPoolExecutor(2, thread_name_prefix="texts")  # makes no thread before it has work


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
    """However many they are.

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
        ApiError: one is empty, surely too long for the context, or holds an id that it has not.
    """
    size = sum(len(prompt) + CALL_CHARS for prompt in prompts if isinstance(prompt, str))

    def encode() -> list[list[int]]:
        return [fitting_ids(served, p, param) if isinstance(p, str) else p for p in prompts]

    found = await on_thread(encode, size, param)
    for ids in found:
        if not ids:
            raise ApiError("invalid_value", f"the {param} has no tokens", param=param)
        require_known(served, ids, param)
    return found


def fitting_ids(
    served: Served, text: str, param: str, *, add_special_tokens: bool = True
) -> list[int]:
    """
    Raises:
        ApiError: it surely does not fit the context; what is near that is the caller's to see.
        UsageError: the text is no text.
    """
    if n_ids := served.tokenizer.at_least(text, served.max_positions):
        raise too_long(served, n_ids, 1, param, says="at least ")
    return served.tokenizer.encode(text, add_special_tokens=add_special_tokens)


def too_long(
    served: Served, n_prompt: int, n_answer: int, param: str, *, says: str = ""
) -> ApiError:
    """As OpenAI says it, which clients look for. says: how exactly the prompt was counted."""
    return ApiError(
        "context_length_exceeded",
        f"This model's maximum context length is {served.max_positions} tokens. However, you "
        f"requested {says}{n_prompt + n_answer} tokens ({says}{n_prompt} in the {param}, "
        f"{n_answer} in the completion). Please reduce the length of the {param} or completion.",
        param=param,
    )


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
    """Do it here if that takes about a millisecond; else on one of the few threads for that.

    Raises:
        ApiError: what was asked makes no sense to the model's tokenizer or template.
    """
    try:
        if size <= SHORT_CHARS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(_lanes, work)
    except UsageError as error:
        raise ApiError("invalid_value", str(error), param=param) from error
    except RecursionError as error:
        raise ApiError("invalid_value", "this is nested too deeply", param=param) from error

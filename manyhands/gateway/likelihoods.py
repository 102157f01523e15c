"""Log-probabilities as OpenAI's clients read them, in chats and in plain completions.

In: drawn ids with what the last hop told of them. Out: plain values. A token is told as text and as
bytes, for one may be half a character. Those that have no text, as the one that ends an answer, are
left out.
"""

from collections.abc import Iterable
from typing import Any

from protocol.logprobs import Logprobs
from protocol.text import Tokenizer

Json = dict[str, Any]
Told = tuple[int, Logprobs]  # a drawn id, and what was told of it


def of_chat(tokenizer: Tokenizer, told: Iterable[Told]) -> Json:
    content = [
        {
            **_token(tokenizer, id, each.drawn),
            "top_logprobs": [
                _token(tokenizer, *pair) for pair in zip(each.ids, each.values, strict=True)
            ],
        }
        for id, each in told
        if id not in tokenizer.special_ids
    ]
    return {"content": content, "refusal": None}


def of_text(tokenizer: Tokenizer, told: Iterable[Told], offset: int) -> Json:
    """offset: of the first token, in the characters of the answer."""
    tokens: list[str] = []
    values: list[float] = []
    likeliest: list[dict[str, float]] = []
    offsets: list[int] = []
    for id, each in told:
        if id in tokenizer.special_ids:
            continue
        tokens.append(_text(tokenizer.spelled(id)))
        values.append(each.drawn)
        pairs = zip(each.ids, each.values, strict=True)
        likeliest.append({_text(tokenizer.spelled(other)): value for other, value in pairs})
        offsets.append(offset)
        offset += len(tokens[-1])
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": likeliest,
        "text_offset": offsets,
    }


def _token(tokenizer: Tokenizer, id: int, logprob: float) -> Json:
    spelled = tokenizer.spelled(id)
    return {"token": _text(spelled), "logprob": logprob, "bytes": list(spelled)}


def _text(spelled: bytes) -> str:
    return spelled.decode(errors="replace")

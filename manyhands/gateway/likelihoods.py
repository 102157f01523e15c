"""Log-probabilities as OpenAI's clients read them, in chats and in plain completions.

In: drawn ids with what the last hop told of them. Out: plain values. A token is told as text and as
bytes, for one may be half a character. Those that have no text, as the one that ends an answer, are
left out, but not where a prompt is told as well: there every id has its place.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from protocol.logprobs import Logprobs
from protocol.text import Tokenizer

Json = dict[str, Any]
Told = tuple[int, Logprobs | None]  # an id, and what was told of it; nothing of a prompt's first


def of_chat(tokenizer: Tokenizer, told: Iterable[Told]) -> Json:
    content = [
        {
            **_token(tokenizer, id, each.drawn),
            "top_logprobs": [
                _token(tokenizer, *pair) for pair in zip(each.ids, each.values, strict=True)
            ],
        }
        for id, each in told
        if each is not None and id not in tokenizer.special_ids
    ]
    return {"content": content, "refusal": None}


def of_text(
    tokenizer: Tokenizer, told: Iterable[Told], offset: int, *, keeps_all: bool = False
) -> Json:
    """offset: of the first token, in the characters of the answer. keeps_all: also ids without
    text, which take up none of it.
    """
    tokens: list[str] = []
    values: list[float | None] = []
    likeliest: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for id, each in told:
        is_special = id in tokenizer.special_ids
        if is_special and not keeps_all:
            continue
        tokens.append(_text(tokenizer.spelled(id)))
        values.append(each.drawn if each else None)
        likeliest.append(_likeliest(tokenizer, each) if each else None)
        offsets.append(offset)
        offset += 0 if is_special else len(tokens[-1])
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": likeliest,
        "text_offset": offsets,
    }


def of_prompt(
    tokenizer: Tokenizer, ids: Sequence[int], told: Sequence[Logprobs], n_top: int
) -> list[Json | None]:
    """As vLLM tells it: for each id but the first, itself and the likeliest, by id."""
    read: list[Json | None] = [None]
    for id, each in zip(ids[1:], told, strict=True):
        cut = each.top(n_top)
        entries = {
            str(other): _ranked(tokenizer, other, value, rank)
            for rank, (other, value) in enumerate(zip(cut.ids, cut.values, strict=True), 1)
        }
        read.append({str(id): _ranked(tokenizer, id, each.drawn, None)} | entries)
    return read


def _ranked(tokenizer: Tokenizer, id: int, logprob: float, rank: int | None) -> Json:
    return {"logprob": logprob, "rank": rank, "decoded_token": _text(tokenizer.spelled(id))}


def _likeliest(tokenizer: Tokenizer, each: Logprobs) -> dict[str, float]:
    """By text; of two that read the same, halves of a character, the likelier one."""
    pairs = zip(reversed(each.ids), reversed(each.values), strict=True)
    found = {_text(tokenizer.spelled(id)): value for id, value in pairs}
    return dict(reversed(found.items()))


def _token(tokenizer: Tokenizer, id: int, logprob: float) -> Json:
    spelled = tokenizer.spelled(id)
    return {"token": _text(spelled), "logprob": logprob, "bytes": list(spelled)}


def _text(spelled: bytes) -> str:
    return spelled.decode(errors="replace")

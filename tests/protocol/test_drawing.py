"""What a session draws and where its answer ends is a pure function of (request, ids, logits)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.answer import Answer
from protocol.asking import Extensions, Sampling
from protocol.drawing import Drawing
from protocol.errors import UsageError
from protocol.messages import Reserve, SessionId, Span
from protocol.text import Tokenizer

TINY = Path(__file__).parents[2] / "manyhands" / "models" / "tiny"
RESERVE = Reserve(
    session=SessionId(bytes(16)),
    epoch=0,
    manifest=bytes(32),
    span=Span(0, 8),
    n_blocks=8,
    capacity=100,
    max_tokens=40,
    budget_ms=1000,
    client_nonce=bytes(16),
    salt_commit=bytes(32),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(TINY)


def told(tokenizer: Tokenizer, request: Reserve, ids: list[int]) -> list[tuple[str, str]]:
    answer = Answer(tokenizer, request, [], 0)
    return [answer.add(token_id) for token_id in ids]


def asking(**what: Any) -> Reserve:
    return replace(RESERVE, **what)


def test_a_stop_id_ends_the_answer_as_the_models_own_does_and_has_no_text(tokenizer):
    ids = tokenizer.encode("Hello you", add_special_tokens=False)
    stop = tokenizer.encode("Z", add_special_tokens=False)[0]

    for request in (
        asking(stop_token_ids=(stop,)),
        asking(stop_token_ids=(stop,), ignore_eos=True),
    ):
        pieces = told(tokenizer, request, [*ids, stop])

        assert "".join(text for text, _ in pieces) == "Hello you"
        assert [reason for _, reason in pieces] == [""] * len(ids) + ["stop"]


def test_before_min_tokens_no_stop_string_ends_the_answer(tokenizer):
    ids = tokenizer.encode("one. two. three.", add_special_tokens=False)
    ends = [at for at, id in enumerate(ids) if tokenizer.decode([id]).endswith(".")]
    assert len(ends) == 3

    request = asking(stops=(".",), min_tokens=ends[0] + 1)
    pieces = told(tokenizer, request, ids[: ends[1] + 1])

    assert "".join(text for text, _ in pieces) == "one. two"
    assert pieces[-1][1] == "stop"


def test_text_of_the_tokens_before_min_tokens_is_no_part_of_a_stop(tokenizer):
    ids = tokenizer.encode("ab", add_special_tokens=False)[:1]
    ids += tokenizer.encode("cd", add_special_tokens=False)
    text = tokenizer.decode(ids)
    request = asking(stops=(text[:2] + text[2:3],), min_tokens=1)

    assert "stop" not in [reason for _, reason in told(tokenizer, request, ids)]


def test_before_min_tokens_the_ids_that_end_an_answer_are_not_drawn(tokenizer):
    [eos] = tokenizer.eos_ids
    logits = np.linspace(1, 0, tokenizer.vocab_size, dtype=np.float32)
    logits[[eos, 7]] = 9.0, 8.0
    drawing = Drawing(asking(min_tokens=3, stop_token_ids=(7,)), tokenizer)

    drawn = [drawing.draw(logits, [5] * position, 4, position).token_id for position in range(4, 9)]

    assert drawn == [0, 0, 0, eos, eos]


def test_log_probabilities_are_of_the_logits_as_they_left_the_model(tokenizer):
    logits = np.linspace(1, 0, tokenizer.vocab_size, dtype=np.float32)
    bias = np.array([(11, 50.0)], [("id", "<u4"), ("value", "<f4")]).tobytes()
    plain = Drawing(asking(extensions=Extensions(logprobs=3)), tokenizer)
    wild = Drawing(
        asking(
            sampling=Sampling(temperature=0.3, repetition_penalty=1.5),
            extensions=Extensions(logprobs=3, logit_bias=bias),
        ),
        tokenizer,
    )

    one, other = (each.draw(logits, [0, 1], 1, 2) for each in (plain, wild))

    assert (one.token_id, other.token_id) == (0, 11)
    assert one.logprobs is not None
    assert other.logprobs is not None
    assert one.logprobs.ids == other.logprobs.ids == (0, 1)
    assert one.logprobs.values == other.logprobs.values
    assert other.logprobs.drawn < other.logprobs.values[1]


def test_who_asks_for_none_is_told_none(tokenizer):
    logits = np.zeros(tokenizer.vocab_size, dtype=np.float32)

    assert Drawing(RESERVE, tokenizer).draw(logits, [1], 1, 1).logprobs is None
    lone = Drawing(asking(extensions=Extensions(logprobs=1)), tokenizer).draw(logits, [1], 1, 1)
    assert lone.logprobs is not None
    assert lone.logprobs.ids == ()


@pytest.mark.parametrize(
    "what",
    [
        {"sampling": Sampling(top_p=0.0)},
        {"extensions": Extensions(grammar="what:ever")},
        {"extensions": Extensions(grammar="json_object"), "ignore_eos": True},
        {"extensions": Extensions(logit_bias=b"\x00\x00\x00\x00\x00\x00\xc0\x7f")},  # NaN
    ],
)
def test_what_cannot_be_drawn_is_refused_before_a_session_begins(tokenizer, what):
    with pytest.raises(UsageError):
        Drawing(asking(**what), tokenizer)

"""What is read off a prompt's rows: the odds of many at once, what is kept of them, and how often
they are told again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from node.odds import odds_of
from node.readout import MOST_AGAIN, ODDS_BYTES, kept_bytes, readout_of
from protocol.asking import Extensions
from protocol.codec import to_client_bytes
from protocol.errors import PeerBusy
from protocol.likelihoods import logprobs_of
from protocol.logprobs import PromptLogprobs
from protocol.messages import Reserve, SessionId, Span

N_PROMPT = 40
TAIL = Span(4, 8)


def reserve(prompt_logprobs: int = 6, span: Span = TAIL) -> Reserve:
    return Reserve(
        session=SessionId(bytes(16)),
        epoch=0,
        manifest=bytes(32),
        span=span,
        n_blocks=8,
        capacity=300,
        max_tokens=4,
        budget_ms=60_000,
        client_nonce=bytes(16),
        salt_commit=bytes(32),
        extensions=Extensions(prompt_logprobs=prompt_logprobs),
    )


@given(
    rows=st.integers(1, 20),
    vocabulary=st.integers(1, 40),
    n_top=st.integers(0, 20),
    n_values=st.integers(1, 1000),
    seed=st.integers(0, 2**31),
)
def test_odds_of_many_rows_are_those_of_each(rows, vocabulary, n_top, n_values, seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-n_values, n_values, (rows, vocabulary)).astype(np.float32)
    ids = rng.integers(0, vocabulary, rows).tolist()

    found = odds_of(torch.from_numpy(logits), ids, n_top)

    assert found == [logprobs_of(row, id, n_top) for row, id in zip(logits, ids, strict=True)]


def read_whole(n_top: int, n_ids: int = 1000):
    """A readout that has told of all of a prompt, and its session."""
    readout = readout_of(reserve(1 + n_top))
    agreed = SimpleNamespace(n=N_PROMPT, n_prompt=N_PROMPT)
    draws = SimpleNamespace(ids=list(range(n_ids - N_PROMPT, n_ids)))
    readout.session = SimpleNamespace(commitment=agreed, draws=draws, epoch=0, length=N_PROMPT)
    for start in (0, 30):
        stop = min(start + 30, N_PROMPT)
        rng = np.random.default_rng(start)
        logits = torch.from_numpy(rng.normal(size=(stop - start, n_ids)).astype(np.float32))
        readout.read(None, start, SimpleNamespace(hidden=logits, logits=logits))
    return readout, agreed


@pytest.mark.parametrize("n_top", [0, 20])
def test_what_is_kept_of_odds_takes_no_more_than_the_session_was_charged(n_top):
    readout, _ = read_whole(n_top, n_ids=200_000)

    kept = sum(map(len, readout.again(N_PROMPT)))

    assert 0 < kept <= kept_bytes(reserve(1 + n_top), N_PROMPT)
    assert kept_bytes(reserve(1 + n_top), N_PROMPT) == N_PROMPT * (1 + n_top) * ODDS_BYTES
    assert kept_bytes(reserve(0), N_PROMPT) == 0
    assert kept_bytes(reserve(6, Span(0, 4)), N_PROMPT) == 0, "the last hop reads, no other"


def test_odds_are_told_again_to_who_holds_no_token_as_they_were():
    readout, _ = read_whole(2)
    told = readout.again(N_PROMPT)

    assert told == readout.again(0)
    assert all(isinstance(each, bytes) for each in told)
    n_last = N_PROMPT - 31
    last = PromptLogprobs.of(0, 31, odds_of(torch.zeros(n_last, 9), [0] * n_last, 2))
    assert len(told) == 2
    assert abs(len(told[-1]) - len(to_client_bytes(last))) < 9 * 3 * 2


def test_who_holds_a_token_has_heard_the_odds_and_nothing_is_kept_for_it():
    readout, agreed = read_whole(2)
    assert readout.again(N_PROMPT + 1) == readout.again(N_PROMPT) == []

    readout, agreed = read_whole(2)
    agreed.n = N_PROMPT + 1
    assert not readout.needs_logits(0)
    assert readout.again(0) == []


def test_odds_are_not_told_again_without_end():
    readout, _ = read_whole(2)
    for _ in range(MOST_AGAIN):
        readout.again(0)

    with pytest.raises(PeerBusy, match="too often"):
        readout.again(0)


def test_logits_of_each_row_are_needed_of_the_prompt_alone():
    readout, _ = read_whole(2)

    assert readout.needs_logits(0)
    assert readout.needs_logits(N_PROMPT - 2)
    assert not readout.needs_logits(N_PROMPT - 1)

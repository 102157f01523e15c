"""Draws are pure, pinned, exact in distribution, and filtered as the transformers library does."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.asking import Sampling
from protocol.errors import IntegrityError, UsageError
from protocol.sampling import (
    SamplingParams,
    biased,
    gumbel_noise,
    kept_tokens,
    penalised,
    possible,
    sample,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "sampling.json"
MASK = 2**64 - 1


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> list[int]:
    """Philox4x64-10 as its paper states it, for comparison."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (right >> 64) ^ b ^ k0, right & MASK, (left >> 64) ^ d ^ k1, left & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [a, b, c, d]


def logits_of(vocab_size: int, salt: int = 0) -> np.ndarray:
    """Scattered logits in [-4, 4) that any language can make exactly."""
    mixed = (np.arange(vocab_size, dtype=np.uint64) + salt) * 2654435761 % 2**32
    return (mixed.astype(np.float64) / 2**29 - 4).astype(np.float32)


def draw(logits: np.ndarray, position: int = 0, choice: int = 0, **params: Any) -> int:
    return sample(
        logits, SamplingParams(**params, choice=choice), [], n_prompt=0, position=position
    )


def test_the_reference_philox_gives_the_published_known_answers() -> None:
    zeros = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox((0, 0, 0, 0), (0, 0)) == zeros
    ones = [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]
    assert philox((MASK,) * 4, (MASK,) * 2) == ones


@given(
    seed=st.integers(0, MASK),
    position=st.integers(0, 2**24),
    choice=st.integers(0, 100),
    token=st.integers(0, 40),
)
def test_noise_is_what_the_docstring_defines(
    seed: int, position: int, choice: int, token: int
) -> None:
    block = philox((token // 4 + 1, position, choice, 0), (seed, 0))
    uniform = ((block[token % 4] >> 12) + 0.5) / 2**52

    noise = gumbel_noise(np.array([token]), 41, seed, position, choice)[0]

    assert noise == pytest.approx(-math.log(-math.log(uniform)), rel=1e-12)


def test_draws_are_those_of_the_golden_file() -> None:
    for case in json.loads(GOLDEN.read_text()):
        logits = logits_of(case["vocab_size"], case["salt"])
        params = SamplingParams(**case["params"], choice=case["choice"])

        drawn = [
            sample(logits, params, case["ids"], n_prompt=2, position=p)
            for p in range(len(case["tokens"]))
        ]

        assert drawn == case["tokens"], case


def test_a_draw_depends_on_seed_position_and_choice_alone() -> None:
    logits = logits_of(500)
    first = [draw(logits, p, temperature=1.0, seed=7) for p in range(50)]
    np.random.seed(3)

    again = [draw(logits, p, temperature=1.0, seed=7) for p in reversed(range(50))]

    assert first == again[::-1]
    assert len(set(first)) > 25
    assert first != [draw(logits, p, temperature=1.0, seed=8) for p in range(50)]
    assert first != [draw(logits, p, choice=1, temperature=1.0, seed=7) for p in range(50)]


def test_drawn_tokens_follow_the_softmax() -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0, 0.5, -3.0], dtype=np.float32)
    n = 20_000
    weights = np.exp(logits / 1.5)
    expected = n * weights / weights.sum()

    drawn = [draw(logits, position, temperature=1.5, seed=11) for position in range(n)]

    counts = np.bincount(drawn, minlength=6)
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # chi-square, 5 degrees, p = 0.001


def test_a_temperature_of_zero_takes_the_best_token() -> None:
    logits = logits_of(1000)

    assert draw(logits) == int(logits.argmax())
    assert draw(logits, top_k=1, temperature=2.0) == int(logits.argmax())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-40, 1e-46, 1e-308, 5e-324])
@pytest.mark.parametrize("shift", [0.0, 100.0, -100.0])
def test_a_temperature_next_to_zero_takes_the_best_token(temperature: float, shift: float) -> None:
    logits = logits_of(1000) + np.float32(shift)
    logits[3] = -np.inf
    best = int(logits.argmax())

    for top in ({}, {"top_p": 0.9}, {"top_k": 50}):
        assert {draw(logits, p, temperature=temperature, **top) for p in range(5)} == {best}


@pytest.mark.filterwarnings("error")
def test_a_best_logit_of_zero_is_drawn_at_any_temperature() -> None:
    logits = logits_of(1000) - logits_of(1000).max()

    for temperature in (1e-40, 1e-46, 5e-324):
        assert draw(logits, temperature=temperature) == int(logits.argmax())


def transformers_keeps(logits: np.ndarray, warpers: list[Callable[..., Any]]) -> set[int]:
    import torch

    scores = torch.from_numpy(logits.copy())[None]
    for warper in warpers:
        scores = warper(None, scores)
    return set(torch.isfinite(scores[0]).nonzero()[:, 0].tolist())


@given(
    logits=st.lists(st.integers(-60, 60), min_size=2, max_size=80, unique=True),
    top_k=st.integers(1, 90),
    top_p=st.floats(0.01, 0.99),
)
@settings(deadline=None)  # the first example imports a library
def test_top_k_and_top_p_keep_what_transformers_keeps(
    logits: list[int], top_k: int, top_p: float
) -> None:
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    row = np.array(logits, dtype=np.float32) / 10
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p)

    kept = set(kept_tokens(row, params).tolist())

    assert kept == transformers_keeps(row, [TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)])


@given(
    logits=st.lists(st.integers(-60, 60), min_size=2, max_size=80, unique=True),
    top_p=st.floats(0.01, 1.0),
    min_p=st.sampled_from([0.001, 0.02, 0.1, 0.3, 0.9]),
)
@settings(deadline=None)
def test_min_p_behind_top_p_keeps_what_transformers_keeps(
    logits: list[int], top_p: float, min_p: float
) -> None:
    from transformers import MinPLogitsWarper, TopPLogitsWarper

    row = np.array(logits, dtype=np.float32) / 10
    params = SamplingParams(temperature=1.0, top_p=top_p, min_p=min_p)

    kept = set(kept_tokens(row, params).tolist())

    assert kept == transformers_keeps(row, [TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)])


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_a_large_vocabulary_is_filtered_alike(top_p: float) -> None:
    from transformers import TopPLogitsWarper

    rng = np.random.default_rng(5)
    for scale in (0.5, 3.0):
        row = (rng.standard_normal(20_000) * scale).astype(np.float32)

        kept = set(kept_tokens(row, SamplingParams(temperature=1.0, top_p=top_p)).tolist())

        # Sums of 20,000 floats may part at the very border.
        assert len(kept ^ transformers_keeps(row, [TopPLogitsWarper(top_p)])) <= 3


def test_repetition_penalty_is_that_of_transformers() -> None:
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, ids = logits_of(50), [3, 8, 8, 40]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(
        torch.tensor([ids]), torch.from_numpy(logits.copy())[None]
    )[0].numpy()

    got = penalised(logits, SamplingParams(repetition_penalty=1.3), ids, n_prompt=2)

    assert np.array_equal(got, expected)


def test_frequency_and_presence_weigh_on_generated_ids_alone() -> None:
    logits = np.zeros(6, dtype=np.float32)
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)

    got = penalised(logits, params, [1, 2, 3, 3, 4], n_prompt=2)

    assert got.tolist() == [0, 0, 0, -1.0, -0.75, 0]
    assert not logits.any()


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 0.0},
        {"presence_penalty": math.nan},
        {"frequency_penalty": 101.0},
        {"min_p": -0.1},
        {"min_p": math.nan},
        {"choice": -1},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_impossible_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SamplingParams(**params)
    with pytest.raises(UsageError):
        SamplingParams.of(Sampling(**params))


@pytest.mark.parametrize(
    "bias", [{1: 100.5}, {1: math.nan}, {-1: 0.0}, {2**31: 0.0}, dict.fromkeys(range(1025), 1.0)]
)
def test_impossible_biases_are_refused(bias: dict[int, float]) -> None:
    with pytest.raises(UsageError):
        SamplingParams(logit_bias=bias)


def test_parameters_survive_their_message() -> None:
    params = SamplingParams(
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        seed=12,
        min_p=0.1,
        choice=2,
        logit_bias={9: -1.5, 2: 4},
    )

    assert SamplingParams.of(params.message(), params.packed_bias()) == params


def test_a_bias_is_added_before_anything_else_is_weighed() -> None:
    logits = logits_of(50)

    assert draw(logits, logit_bias={7: 100.0}) == 7
    assert draw(logits, logit_bias={int(logits.argmax()): -100.0}) == int(logits.argsort()[-2])
    assert draw(logits, logit_bias={7: 20.0}, repetition_penalty=1.0) == 7
    assert biased(logits, {3: 1.5, 999: 5.0})[3] == logits[3] + np.float32(1.5)
    assert biased(logits, {3: 1.5})[4] == logits[4]


def barring(allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """As a grammar says it."""
    return np.where(allowed, 0, -np.inf).astype(np.float32)


@given(
    salt=st.integers(0, 1000),
    allowed=st.sets(st.integers(0, 39), min_size=1),
    temperature=st.sampled_from([0.0, 0.7, 3.0]),
    position=st.integers(0, 500),
)
def test_a_draw_within_a_grammar_is_the_draw_from_what_it_allows(
    salt: int, allowed: set[int], temperature: float, position: int
) -> None:
    logits, ids = logits_of(40, salt), sorted(allowed)
    params = SamplingParams(temperature=temperature, seed=3, logit_bias={5: 30.0}, top_p=0.8)
    bars = barring(np.isin(np.arange(40), ids))
    rest = np.where(bars == 0, logits, -np.inf).astype(np.float32)

    drawn = sample(logits, params, [], n_prompt=0, position=position, bars=bars)

    assert drawn in allowed
    assert drawn == sample(rest, params, [], n_prompt=0, position=position)


def test_what_is_avoided_is_drawn_only_when_nothing_else_is_allowed() -> None:
    logits = logits_of(10)
    best, second = logits.argsort()[::-1][:2].tolist()
    only = barring(np.arange(10) == best)

    def drawn(**what: Any) -> int:
        return sample(logits, SamplingParams(), [], n_prompt=0, position=3, **what)

    assert drawn(avoided=[best, 77]) == second
    assert drawn(avoided=[best], bars=only) == best


def test_a_grammar_may_want_what_the_model_holds_impossible() -> None:
    logits = np.full(6, -np.inf, dtype=np.float32)
    logits[0] = 1.0
    flags = np.array([False, False, True, False, True, False])

    bars, hot = barring(flags), SamplingParams(temperature=1.0)

    assert np.isfinite(possible(logits, bars, [])).tolist() == flags.tolist()
    drawn = {sample(logits, hot, [], n_prompt=0, position=p, bars=bars) for p in range(20)}
    assert drawn == {2, 4}


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_no_token(poison: float) -> None:
    logits = logits_of(10)
    logits[4] = poison

    with pytest.raises(IntegrityError):
        draw(logits, temperature=1.0)


def test_masked_logits_are_never_drawn() -> None:
    logits = np.full(100, -np.inf, dtype=np.float32)
    logits[17] = -5.0

    assert {draw(logits, p, temperature=1.0, top_p=0.9) for p in range(20)} == {17}


def test_a_draw_from_a_large_vocabulary_takes_milliseconds() -> None:
    logits = logits_of(128_256)
    began = time.thread_time()

    for position in range(10):
        draw(logits, position, temperature=0.8, top_k=50, top_p=0.95)
        draw(logits, position, temperature=0.8, top_p=0.95)

    assert (time.thread_time() - began) / 20 < 0.05

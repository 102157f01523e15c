"""Draws of the built-in model come as often as they should, with drafts and without."""

import asyncio
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForCausalLM

from protocol.actions import Line
from protocol.asking import Extensions
from protocol.drawing import Drawing
from protocol.messages import Reserve, SessionId, Span
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.text import Tokenizer
from protocol.transport.memory import MemoryNetwork
from tests.local_swarm import swarm, whole
from tests.pit import BOUNDS, Transform, is_uniform, probabilities, statistic

TINY = Path(__file__).parents[1] / "manyhands" / "models" / "tiny"
N_DRAWS, N_TOKENS, WINDOW = 20_000, 160, 5
PLAIN = SamplingParams(temperature=1.0)
FILTERED = SamplingParams(temperature=0.8, top_k=40, top_p=0.92)
ALL = SamplingParams(
    temperature=1.3,
    top_k=300,
    top_p=0.97,
    min_p=0.002,
    repetition_penalty=1.15,
    frequency_penalty=0.2,
    presence_penalty=0.1,
)
RESERVE = Reserve(
    session=SessionId(bytes(16)),
    epoch=0,
    manifest=bytes(32),
    span=Span(0, 8),
    n_blocks=8,
    capacity=1000,
    max_tokens=900,
    budget_ms=1000,
    client_nonce=bytes(16),
    salt_commit=bytes(32),
)


def logits_of(ids: list[int]) -> npt.NDArray[np.float32]:
    """[ids, vocab_size], behind each of them; of transformers' own model."""
    with torch.inference_mode():
        out = _model()(torch.tensor([ids])).logits[0]
    return np.ascontiguousarray(out.numpy(), dtype=np.float32)


@cache
def _model() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(TINY)


@cache
def a_text() -> tuple[list[int], int]:
    """A prompt and a wandering answer, and how long the prompt is."""
    prompt = tokenizer().encode_chat([{"role": "user", "content": "Tell me about rain."}])
    torch.manual_seed(3)
    ids = _model().generate(torch.tensor([prompt]), do_sample=True, max_new_tokens=N_TOKENS)
    return ids[0].tolist(), len(prompt)


def drawing_of(params: SamplingParams) -> Drawing:
    asked = Extensions(logit_bias=params.packed_bias())
    return Drawing(replace(RESERVE, sampling=params.message(), extensions=asked), tokenizer())


def drawn(params: SamplingParams, *, drafts: bool) -> list[tuple[int, int]]:
    """(position, token), many draws behind each part of a text; drafts are what stands there."""
    ids, n_prompt = a_text()
    logits = logits_of(ids)
    came: list[tuple[int, int]] = []
    seed = 0
    while len(came) < N_DRAWS:
        pen = drawing_of(replace(params, seed=seed))
        start = n_prompt
        while start + WINDOW < len(ids):
            if drafts:
                line = Line(start, tuple(ids[start : start + WINDOW]))
                rows = logits[start - 1 : start + WINDOW]
                draws = pen.judge(rows, ids[:start], n_prompt, start, line)
            else:
                draws = (pen.draw(logits[start - 1], ids, n_prompt, start),)
            came += ((start + at, one.token_id) for at, one in enumerate(draws))
            start += len(draws)
        seed += 1
    return came


def transformed(params: SamplingParams, came: list[tuple[int, int]]) -> list[float]:
    ids, n_prompt = a_text()
    logits, v = logits_of(ids), np.random.default_rng(11)

    @cache
    def behind(position: int) -> Transform:
        p = probabilities(logits[position - 1], params, ids[:position], n_prompt)
        return Transform(p)

    return [behind(position).of(token_id, v.random()) for position, token_id in came]


def excess(params: SamplingParams, came: list[tuple[int, int]]) -> float:
    """How many more draws are what stands in the text than should be, in standard deviations."""
    ids, n_prompt = a_text()
    logits = logits_of(ids)
    odds = {
        at: probabilities(logits[at - 1], params, ids[:at], n_prompt)[ids[at]]
        for at in range(n_prompt, len(ids))
    }
    p = np.array([odds[at] for at, _ in came])
    hits = sum(ids[at] == token_id for at, token_id in came)
    return float((hits - p.sum()) / np.sqrt((p * (1 - p)).sum()))


@pytest.mark.parametrize(
    ("params", "drafts"),
    [
        pytest.param(PLAIN, False, id="plain", marks=pytest.mark.slow),
        pytest.param(PLAIN, True, id="plain-drafts", marks=pytest.mark.slow),
        pytest.param(FILTERED, False, id="filtered", marks=pytest.mark.slow),
        pytest.param(FILTERED, True, id="filtered-drafts", marks=pytest.mark.slow),
        pytest.param(ALL, False, id="all", marks=pytest.mark.slow),
        pytest.param(ALL, True, id="all-drafts"),
    ],
)
def test_draws_come_as_often_as_their_probabilities_say(params, drafts):
    came = drawn(params, drafts=drafts)
    ids, _ = a_text()

    assert len(came) >= N_DRAWS
    assert is_uniform(transformed(params, came))
    assert abs(excess(params, came)) < 5, "drafts are favoured, or held back"
    n_hits = sum(ids[at] == token_id for at, token_id in came)
    assert N_DRAWS / 10 < n_hits < len(came) - N_DRAWS / 10, "both were to be seen"


@pytest.mark.slow
def test_the_figure_tells_a_temperature_that_is_wrong():
    came = drawn(PLAIN, drafts=True)

    assert statistic(transformed(PLAIN, came)) < BOUNDS[1]
    assert statistic(transformed(replace(PLAIN, temperature=1.3), came)) > BOUNDS[1]


@pytest.mark.slow
@pytest.mark.parametrize("drafter", ["none", "lookup"])
async def test_tokens_that_a_chain_of_nodes_sends_come_as_often_as_they_should(tmp_path, drafter):
    """All of 20,000, judged by another library's model and filters; many answers side by side."""
    network, n_sessions = MemoryNetwork(), 25
    params = replace(ALL, repetition_penalty=1.0, frequency_penalty=0.02)  # else nothing repeats
    async with swarm(
        TINY, tmp_path, lambda who: network.transport(who, OPEN_SWARM_ID), (0, 4), (4, 8)
    ) as built:
        prompt = built.tokenizer.encode_chat([{"role": "user", "content": "Tell me about rain."}])
        request = built.request(
            prompt, max_tokens=800, ignore_eos=True, drafter=drafter, timeout_s=3600.0
        )
        sampled = [replace(params, seed=seed) for seed in range(n_sessions)]
        async with built.client() as client:
            answers = await asyncio.gather(
                *(whole(client.generate(replace(request, sampling=each))) for each in sampled)
            )
    values, v = [], np.random.default_rng(11)
    for answer in answers:
        ids = [*prompt, *answer.token_ids]
        logits = logits_of(ids)
        for at in range(len(prompt), len(ids)):
            p = probabilities(logits[at - 1], params, ids[:at], len(prompt))
            values.append(Transform(p).of(ids[at], v.random()))

    assert len(values) == N_DRAWS
    assert is_uniform(values)

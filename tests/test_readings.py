"""What is read off a prompt, its vector or the odds of its ids, is what one machine finds, and
stays so when hops are lost while it is read."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from protocol.errors import UsageError
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from scheduler import Finished, GenerationRequest, GenerationResult, PromptRead, Token
from tests.local_swarm import Swarm, swarm

TINY = Path(__file__).parents[1] / "manyhands" / "models" / "tiny"
TEXT = "Once upon a time there was a hand, and it was not alone. " * 24  # several chunks of prefill


@pytest.fixture(scope="module")
def alone() -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype="float32").eval()


@pytest.fixture
async def three(tmp_path):
    async with swarm(
        TINY, tmp_path, lambda who: GrpcTransport(who, OPEN_SWARM_ID), (0, 4), (4, 8), (4, 8)
    ) as built:
        yield built


def ask(swarm: Swarm, text: str = TEXT, **what: object) -> GenerationRequest:
    return swarm.request(swarm.tokenizer.encode(text), **({"max_tokens": 1} | what))


async def answered(
    swarm: Swarm, request: GenerationRequest, name: str, *, lose: bool = False
) -> tuple[GenerationResult, list[object]]:
    """lose: the last hop, once it has run some of the prompt."""
    told: list[object] = []
    async with swarm.client(name) as client, client.generate(request) as run:
        if lose:
            await run_a_part(swarm)
        async for event in run:
            told.append(event)
            if isinstance(event, Finished):
                return event.result, told
    raise AssertionError("no result")


async def run_a_part(swarm: Swarm) -> None:
    """Until a last hop has run a chunk, which then is lost."""
    while True:
        await asyncio.sleep(0)
        for node in swarm.nodes[1:]:
            for hop in list(node.node.sessions._hops.values()):
                if hop.session.length > 0:
                    assert hop.session.length < len(hop.session.draws.ids)
                    node.node.sessions.draining = True
                    hop.give_up()
                    return


def hidden_of(alone, ids) -> torch.Tensor:
    with torch.inference_mode():
        return alone.model(torch.tensor([list(ids)])).last_hidden_state[0]


@pytest.mark.parametrize("pooling", ["mean", pytest.param("last", marks=pytest.mark.slow)])
async def test_a_vector_of_a_prompt_is_that_of_one_machine_also_when_a_hop_is_lost(
    three, alone, pooling
):
    request = ask(three, pooling=pooling)

    calm, _ = await answered(three, request, "calm")
    hurt, _ = await answered(three, request, "hurt", lose=True)

    hidden = hidden_of(alone, request.prompt_ids)
    wanted = (hidden.mean(dim=0) if pooling == "mean" else hidden[-1]).numpy()
    assert (calm.failovers, hurt.failovers) == (0, 1)
    for result in (calm, hurt):
        np.testing.assert_allclose(np.frombuffer(result.vector, "<f4"), wanted, atol=1e-5)
    assert len(calm.receipts) == 2, "each hop is paid for it as for any prompt"
    assert calm.cost_ncr == (await answered(three, ask(three), "plain"))[0].cost_ncr


async def test_odds_of_a_prompt_are_those_of_one_machine_also_when_a_hop_is_lost(three, alone):
    request = ask(three, prompt_logprobs=3, max_tokens=4)

    calm, told = await answered(three, request, "calm")
    hurt, _ = await answered(three, request, "hurt", lose=True)
    again, _ = await answered(three, request, "calm-again")

    ids = torch.tensor(request.prompt_ids)
    with torch.inference_mode():
        odds = alone(ids[None]).logits[0].log_softmax(dim=-1)
    wanted = odds[torch.arange(len(ids) - 1), ids[1:]].numpy()
    best = odds[:-1].topk(3)
    for result in (calm, hurt, again):
        assert result.prompt_logprobs is not None
        got = np.array([each.drawn for each in result.prompt_logprobs])
        np.testing.assert_allclose(got, wanted, atol=1e-4)
        likeliest = [each.values for each in result.prompt_logprobs]
        np.testing.assert_allclose(likeliest, best.values.numpy(), atol=1e-4)
    assert hurt.failovers == 1
    order = [type(event) for event in told if isinstance(event, PromptRead | Token)]
    assert order == [PromptRead, *[Token] * 4]


async def test_a_prompt_that_was_run_before_is_run_whole_again_when_it_is_read(three, alone):
    async with three.client() as client:
        for reads in ({}, {"prompt_logprobs": 0}, {"pooling": "mean"}):
            async with client.generate(ask(three, **reads)) as run:
                [result] = [event.result async for event in run if isinstance(event, Finished)]

            assert result.n_cached == 0
    assert len(result.vector) == 128 * 4


def test_what_cannot_be_read_together_is_refused():
    what = {"manifest": bytes(32), "n_blocks": 8, "prompt_ids": (1, 2)}
    for asked in (
        {"pooling": "first", "max_tokens": 1},
        {"pooling": "mean", "max_tokens": 2},
        {"pooling": "mean", "max_tokens": 1, "prompt_logprobs": 0},
        {"prompt_logprobs": 21},
    ):
        with pytest.raises(UsageError):
            GenerationRequest(**what, **asked)

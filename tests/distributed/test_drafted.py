"""A client that holds the ends guesses ahead: the same tokens, in fewer journeys."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from manyhands.distributed.drafted import SmallModel
from node.drafting import Drafting
from node.windows import Window
from protocol.errors import UsageError
from tests.checkpoints import write_checkpoint
from tests.distributed.test_model import HALVES, PROMPT, both
from tests.local_swarm import add_byte_tokenizer

DEPTH = 5
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_k": 40, "repetition_penalty": 1.2}
ROUND = [4, 8, 15, 16, 23, 42] * 3


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("llama"), "llama"))


@pytest.fixture
def always(monkeypatch):
    """However quick this swarm is, guesses pay."""
    monkeypatch.setattr(
        Drafting, "_window", lambda self, costs, source: Window(DEPTH, source.acceptance)
    )


async def generated(pair: Any, **what: Any) -> list[int]:
    ids = torch.tensor([what.pop("prompt", PROMPT)])
    how = {"max_new_tokens": 24} | what
    return (await asyncio.to_thread(pair.generate, pair.remote, ids, **how))[0].tolist()


@pytest.mark.parametrize("prompt", [PROMPT, ROUND], ids=["novel", "repeats itself"])
async def test_the_same_tokens_come_whoever_guesses(llama, tmp_path, always, prompt):
    async with both(llama, tmp_path, *HALVES) as pair:
        steps = pair.swarm.nodes[0].node.batcher.load
        for how in ({}, SAMPLED, SAMPLED | {"seed": 3}):
            plain = await generated(pair, prompt=prompt, drafter="none", **how)
            if not how:
                assert plain == await generated(pair, prompt=prompt)
            before = steps.steps
            for drafter in ("lookup", pair.local):
                before = steps.steps
                assert await generated(pair, prompt=prompt, drafter=drafter, **how) == plain
            if not how:  # the small model is the model itself, and is right each time
                assert steps.steps - before < 12
        assert pair.is_settled


@pytest.mark.parametrize("victim", [0, -1])
async def test_a_hop_killed_between_guesses_changes_nothing(llama, tmp_path, always, victim):
    class Killer:
        """A streamer that kills a hop as a token comes."""

        def __init__(self, pair: Any) -> None:
            self.pair, self.at = pair, 6

        def put(self, value: torch.Tensor) -> None:
            self.at -= 1
            if not self.at:
                busy = [n.node for n in self.pair.swarm.nodes if n.node.sessions.reserved_bytes]
                kill, peer = self.pair.network.kill, busy[victim].identity.peer_id
                self.pair.loop.call_soon_threadsafe(kill, peer)

        def end(self) -> None: ...

    async with both(llama, tmp_path, *HALVES, *HALVES) as pair:
        killed = Killer(pair)
        got = await generated(
            pair, prompt=ROUND, drafter="lookup", seed=2, streamer=killed, **SAMPLED
        )
        assert got == await generated(pair, prompt=ROUND, drafter="none", seed=2, **SAMPLED)
        assert killed.at < 0


async def test_what_a_drafter_cannot_do_is_said(llama, tmp_path):
    async with both(llama, tmp_path, *HALVES) as pair:
        for what in ({"drafter": "nobody"}, {"drafter": "lookup", "num_beams": 2}):
            with pytest.raises(UsageError):
                await generated(pair, **what)
        assert pair.is_settled


async def test_the_head_is_run_for_the_rows_that_are_drawn_from(llama, tmp_path, always):
    """A prompt's rows through a head of a large vocabulary take gigabytes here."""
    async with both(llama, tmp_path, (0, 6)) as pair:
        rows = []
        pair.remote.lm_head.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape))

        await generated(pair, drafter="lookup", prompt=ROUND, max_new_tokens=8)

        assert rows[0][1] == 1 < len(ROUND)
        assert max(shape[1] for shape in rows) <= 1 + DEPTH


def small_gpt2(n_positions: int) -> Any:
    """Its positions are learned, so that it has none beyond its context."""
    config = GPT2Config(vocab_size=50, n_positions=n_positions, n_embd=8, n_layer=1, n_head=1)
    return GPT2LMHeadModel(config).eval()


def test_a_small_model_guesses_up_to_the_end_of_its_context_and_is_silent_beyond():
    small = SmallModel(small_gpt2(16))
    ids = list(range(14))

    assert len(small.guess(ids, 15)) == 3  # the last of which it need not read
    assert len(small.guess([*ids, 14, 15], 15)) == 1
    assert small.guess([*ids, 14, 15, 16], 15) == ()


def test_a_small_model_that_fails_guesses_no_more_and_raises_nothing():
    model = small_gpt2(64)
    small, calls = SmallModel(model), []

    def fail(*_: Any) -> None:
        calls.append(1)
        raise IndexError("index out of range in self")

    assert small.guess([1, 2, 3], 4)
    model.register_forward_pre_hook(fail)

    assert [small.guess([1, 2, 3, 4], 4), small.guess([1, 2, 3, 4, 5], 4)] == [(), ()]
    assert calls == [1]

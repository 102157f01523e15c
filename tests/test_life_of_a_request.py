"""One request, from the prompt to the signed receipts, over three real nodes and real sockets."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ledger.meter import Rates
from ledger.verify import verify_ledger
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from scheduler import Finished, Routed, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer, swarm

PRICED = Rates(prefill_tl=1_000_000, decode_tl=5_000_000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


def reference(model: Path, prompt: list[int], n: int) -> list[int]:
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.tensor([prompt])
    out = whole.generate(ids, max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0)
    generated: list[int] = out[0, len(prompt) :].tolist()
    return generated


async def test_a_request_is_answered_by_three_strangers_and_accounted_for(model, tmp_path):
    def over_sockets(identity):
        return GrpcTransport(identity, OPEN_SWARM_ID)

    # Three nodes, each with a span of the model, a key and a ledger of its own. Each joins through
    # any other; gossip tells all of all.
    async with swarm(model, tmp_path, over_sockets) as strangers:
        first, middle, last = await strangers.start((0, 2), (2, 5), (5, 6), rates=PRICED)

        # A client knows one address, finds the others, and opens a hop on each.
        async with strangers.client() as client:
            prompt = strangers.tokenizer.encode("Many hands make light work.")
            request = strangers.request(prompt, max_tokens=40, ignore_eos=True)
            async with client.generate(request) as generation:
                events = [event async for event in generation]

        routed, tokens, finished = events[0], events[1:-1], events[-1]

    # The chain covers every block once, in order.
    assert isinstance(routed, Routed)
    assert [(step.span.start, step.span.stop) for step in routed.route] == [(0, 2), (2, 5), (5, 6)]

    # The tokens are those of the unsplit model.
    assert [token.token_id for token in tokens if isinstance(token, Token)] == reference(
        model, prompt, 40
    )
    assert isinstance(finished, Finished)
    assert finished.result.finish_reason == "length"
    assert finished.result.failovers == 0

    # Hidden states went from node to node, the token from the last to the first: one frame per
    # hop and step, and none through the client.
    steps = 40
    assert first.node.neighbours.frames_pushed == steps
    assert middle.node.neighbours.frames_pushed == steps
    assert last.node.neighbours.frames_pushed == steps - 1  # the last token ends the answer

    # Every party holds a receipt per tab in its own signed log, and all of it can be re-derived.
    assert len(finished.result.receipts) == 3
    assert finished.result.cost_ncr > 0
    for party in ("client", "node-0", "node-1", "node-2"):
        report = verify_ledger(tmp_path / party)
        assert report.holds, report.failures

    # What a node earned is what its meter says, at the price it offered.
    rows = len(prompt) + 39
    work = first.node.batcher.load.rows
    assert work == rows


async def test_the_same_seed_gives_the_same_text_on_another_chain(model, tmp_path):
    sampling = SamplingParams(temperature=0.9, top_k=40, top_p=0.95, seed=42)
    texts = []
    for name, spans in (("one", [(0, 6)]), ("two", [(0, 3), (3, 6)])):
        async with (
            swarm(model, tmp_path / name, lambda i: GrpcTransport(i, OPEN_SWARM_ID), *spans) as s,
            s.client() as client,
        ):
            prompt = s.tokenizer.encode("Once")
            request = s.request(prompt, max_tokens=24, sampling=sampling, ignore_eos=True)
            async with client.generate(request) as generation:
                events = [event async for event in generation]
            assert isinstance(events[-1], Finished)
            texts.append(events[-1].result.token_ids)

    assert texts[0] == texts[1]

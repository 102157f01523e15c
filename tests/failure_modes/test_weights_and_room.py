"""What a node loads, fetches and has room for: modes 10, 13 and 14."""

from pathlib import Path
from typing import Any

import pytest

from node.engine import load_shard, plan_shard, span_tensors
from protocol.describing import make_manifest
from protocol.errors import BadModel, OutOfMemory, PeerBusy
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import Routed, Token
from tests.checkpoints import write_checkpoint
from tests.failure_modes.conftest import ask
from tests.local_swarm import Swarm, swarm, whole


async def test_memory_ratios_guessed_are_not_what_admits_a_session(
    model: Path, tmp_path: Path, network: MemoryNetwork
):
    """exo: memory is shared out by ratios; a long context ends in SIGKILL for all.

    Here a session is admitted with all the room that its longest possible answer takes, counted in
    bytes, or refused at once; those under way keep what they have, and end as if nothing was asked.
    """

    def over_memory(identity: Any) -> Any:
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory) as small:
        await small.start((0, 6), kv_cache_bytes=1 << 20)
        sessions = small.nodes[0].node.sessions
        async with small.client() as client:
            alone = await whole(client.generate(ask(small)))
            async with client.generate(ask(small)) as under_way:
                tokens = [e async for e in _until_token(under_way)]
                sessions.reserved_bytes += 1 << 20  # as others' sessions would take it
                with pytest.raises(PeerBusy, match="room"):
                    await whole(
                        client.generate(ask(small, max_tokens=200, wait_s=0.2, room_wait_s=0.2))
                    )
                sessions.reserved_bytes -= 1 << 20
                assert sessions.reserved_bytes <= 1 << 20
                tokens += [e async for e in under_way if isinstance(e, Token)]

    assert tuple(token.token_id for token in tokens) == alone.token_ids


async def _until_token(run: Any) -> Any:
    async for event in run:
        if isinstance(event, Token):
            yield event
            return


def test_memory_ratios_guessed_are_not_what_a_span_is_loaded_by(model: Path):
    """The same before a start: bytes are counted from the tensors, and what fits is told."""
    span = Span(0, 6)
    plan = plan_shard(model, span, dtype="float32", device="cpu", kv_cache_bytes=1 << 40)

    assert not plan.fits
    with pytest.raises(OutOfMemory):
        plan.require("cpu")
    loaded = load_shard(model, Span(2, 4), dtype="float32")
    told = plan_shard(model, Span(2, 4), dtype="float32", device="cpu", kv_cache_bytes=1 << 20)
    assert told.weights_bytes == loaded.weights_bytes


def test_model_family_boundary_rules_are_kept_or_the_model_is_refused(tmp_path: Path):
    """mesh-llm: Gemma 4 shares keys and values across blocks: cut at 12, 14, 24 or 28 it is wrong.

    Here a family whose blocks need more than the hidden states of the one before is refused with
    that reason, whatever the span; for the others every load proves the span, and a part of it,
    against the family's own code.
    """
    sharing = write_checkpoint(tmp_path / "sharing", num_kv_shared_layers=2)
    sizes = {"num_kv_shared_layers": 0, "head_dim": 16, "hidden_size_per_layer_input": 16}
    sideband = write_checkpoint(tmp_path / "sideband", "gemma4_text", **sizes)

    for start in range(6):
        with pytest.raises(BadModel, match="share keys and values"):
            load_shard(sharing, Span(start, 6))
    with pytest.raises(BadModel, match="beside hidden states"):
        load_shard(sideband, Span(1, 2))


def test_full_model_downloads_are_not_what_a_span_needs(model: Path):
    """exo: every node fetches every file (`allow_patterns = ["*"]`).

    Here a span names its tensors, and no others are fetched: the spans of a split name each block's
    once, and only whoever embeds or draws names the ends.
    """
    places = make_manifest(model).tensors
    n_bytes = {name: place.entry.n_bytes for name, place in places.items()}

    named = [set(span_tensors(model, Span(*s), places)) for s in [(0, 2), (2, 5), (5, 6)]]

    blocks = [{name for name in names if ".layers." in name} for names in named]
    assert blocks[0].isdisjoint(blocks[1])
    assert blocks[1].isdisjoint(blocks[2])
    assert set.union(*named) == set(places)
    middle = sum(n_bytes[name] for name in named[1])
    of_blocks = sum(n for name, n in n_bytes.items() if ".layers." in name)
    assert middle == of_blocks // 2
    assert middle < sum(n_bytes.values()) // 2


async def test_full_model_downloads_do_not_follow_a_loss(pair: Swarm, network: MemoryNetwork):
    """Parallax: one missing layer, and all nodes go to standby and load their weights again.

    Here a loss moves rows, and no weights: nobody asks anybody for a byte of them.
    """
    engines = [local.node.engine for local in pair.nodes]
    async with pair.client() as client:
        async with client.generate(ask(pair)) as run:
            async for event in run:
                if isinstance(event, Routed):
                    route = event.route
                if isinstance(event, Token) and event.index == 5:
                    network.kill(route[1].peer)
        result = await whole(client.generate(ask(pair)))

    assert len(result.token_ids) == 24
    assert [local.node.engine for local in pair.nodes] == engines
    assert [local.node.status()["weights_shared_bytes"] for local in pair.nodes] == [0] * 6

"""Hops commit to fingerprints of what they computed, and show them to whoever paid for it.

Real nodes and a real client; a whole engine beside them runs the prompt and the answer again.
"""

from pathlib import Path

import pytest

from node.engine import load_shard
from node.node import Node
from node.recomputing import run_again
from protocol.errors import PeerMisbehaved, PeerRefused
from protocol.fingerprint import compare
from protocol.redrawing import shortfall
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from protocol.windows import WINDOW
from scheduler import Finished, Routed, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm, whole

SPANS = [(0, 2), (2, 5), (5, 6)]
WANDERING = SamplingParams(temperature=1.0, seed=7)
N = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def engine(model):
    """The auditor's own."""
    return load_shard(model, None, dtype="float32")


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


@pytest.fixture
async def pair(model: Path, tmp_path: Path, network: MemoryNetwork):
    """Two nodes for every span."""

    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory, *SPANS, *SPANS) as built:
        yield built


def ask(swarm: Swarm, **what: object):
    prompt = swarm.tokenizer.encode("Tell me of many hands, and of what they did together.")
    return swarm.request(
        prompt, **({"max_tokens": N, "sampling": WANDERING, "ignore_eos": True} | what)
    )


def distances(engine, ids, held, windows):
    """Of what a hop shows to what this engine makes of the same ids."""
    stop = held.terms.layer_hi
    again = run_again(engine, ids[:-1], [stop])
    return [compare(w, again.rows[stop][w.start : w.stop]).worst for w in windows.values()], again


async def test_every_hop_shows_what_it_ran_and_the_last_what_it_drew(pair, engine):
    async with pair.client() as client:
        request = ask(pair)
        generation = client.generate(request)
        result = await whole(generation)
        ids = [*request.prompt_ids, *result.token_ids]
        n_windows = -(-(len(ids) - 1) // WINDOW)

        for held in generation.commitments.values():
            windows = (await client.open_windows(held, range(n_windows))).windows
            worst, again = distances(engine, ids, held, windows)

            assert [w.start for w in windows.values()] == [WINDOW * i for i in range(n_windows)]
            assert list(windows.values())[-1].stop == len(ids) - 1
            assert max(worst) < 1e-4
            draws = [drawn for w in windows.values() for drawn in w.draws]
            assert draws == (list(result.token_ids) if held.terms.layer_hi == 6 else [])

        for at, drawn in enumerate(draws, len(request.prompt_ids)):
            logits = again.logits[at - 1]
            assert shortfall(logits, WANDERING, ids[:at], drawn, n_prompt=53) < 1e-3

    assert len(generation.commitments) == 3
    assert result.suspect_links == ()


async def test_nobody_else_is_shown_anything_and_what_is_gone_is_said_to_be(pair, network):
    async with pair.client() as client, pair.client("another") as stranger:
        generation = client.generate(ask(pair))
        await whole(generation)
        await whole(stranger.generate(ask(pair, max_tokens=2)))
        held = next(iter(generation.commitments.values()))

        with pytest.raises(PeerRefused, match="no tab of yours"):
            await stranger.open_windows(held, [0])
        with pytest.raises(PeerRefused, match="no window 99"):
            await client.open_windows(held, [99])
        for local in pair.nodes:
            local.node.standing.shelf._retain_s = 0.0
            for kept in local.node.standing.shelf._kept.values():
                kept.until_s = 0.0
        with pytest.raises(PeerRefused, match="gone"):
            await client.open_windows(held, [0])


async def test_a_statement_made_after_the_question_does_not_count(pair, monkeypatch):
    async with pair.client() as client:
        first, second = (client.generate(ask(pair)) for _ in range(2))
        await whole(first)
        await whole(second)
        (peer, held), other = next(iter(first.commitments.items())), second.commitments
        shelf = next(n.node.standing.shelf for n in pair.nodes if n.node.identity.peer_id == peer)
        if peer in other:
            kept = shelf._kept[held.terms_oid]
            assert kept.leaves  # an opening hashes no rows again
            kept.statement = other[peer].envelope

            with pytest.raises(PeerMisbehaved, match="another statement"):
                await client.open_windows(held, [0])


SLOW = pytest.mark.slow


@pytest.mark.parametrize("lost", [1, pytest.param(0, marks=SLOW), 2])
async def test_after_a_loss_survivors_and_their_new_neighbour_show_all_that_stands(
    pair, engine, network, lost
):
    """Roots of rows begin anew with an epoch; fingerprints are of the tab, whatever the epoch."""
    async with pair.client() as client:
        request, tokens = ask(pair), 0
        async with client.generate(request) as generation:
            async for event in generation:
                if isinstance(event, Routed) and not tokens:
                    dies = event.route[lost].peer
                if isinstance(event, Token):
                    tokens += 1
                    if tokens == 12:
                        network.kill(dies)
                if isinstance(event, Finished):
                    result = event.result
        ids = [*request.prompt_ids, *result.token_ids]
        for step in result.route:
            held = generation.commitments[step.peer]
            shown = await client.open_windows(held, range(-(-(len(ids) - 1) // WINDOW)))
            windows = shown.windows

            assert max(distances(engine, ids, held, windows)[0]) < 1e-4
            assert list(windows.values())[-1].stop == len(ids) - 1
            told = [(window.draws_from, window.draws) for window in windows.values()]
            first, drawn = min(((at, of) for at, of in told if of), default=(0, ()))
            if step.span.stop == SPANS[-1][1]:
                drew_all = first == len(request.prompt_ids)
                assert drawn == tuple(ids[first : first + len(drawn)])
                # Who took the lost hop's place says nothing of what that one had drawn.
                assert drew_all if lost != 2 else first >= len(request.prompt_ids) + 8
            else:
                assert not drawn

    assert result.failovers == 1
    assert result.suspect_links == ()


def lie_at_sending(node: Node) -> None:
    """An adversary: it sends on other rows than it signs for."""
    push = node.serving.neighbours.push

    def altered(peer, group, row_bytes, rows, back=None):
        push(peer, group, row_bytes, bytes([rows[0] ^ 1]) + rows[1:], back)

    node.serving.neighbours.push = altered


def lie_at_taking_in(node: Node) -> None:
    """An adversary: it signs for rows that nobody sent it, as if it had worked on them."""
    admit = node.sessions.admit

    def admitted(*asked):
        hop = admit(*asked)
        saw = hop.meter.will_see_in
        hop.meter.will_see_in = lambda start, rows: saw(start, bytes(len(rows)))
        return hop

    node.sessions.admit = admitted


@pytest.mark.parametrize(
    ("lie", "liar"),
    [
        ("sends other rows", 0),
        ("claims other rows", 1),
        pytest.param("sends other rows", 1, marks=SLOW),
        pytest.param("claims other rows", 0, marks=SLOW),
    ],
)
async def test_35_and_36_hops_that_sign_for_other_rows_than_neighbours_are_named_with_the_link(
    model, tmp_path, network, liar, lie
):
    """Altered activations, and work that was not done."""

    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory, *SPANS) as built, built.client() as client:
        nodes = [local.node for local in built.nodes]
        if lie == "sends other rows":
            lie_at_sending(nodes[liar])
        else:
            lie_at_taking_in(nodes[liar + 1])

        result = await whole(client.generate(ask(built)))

        peers = tuple(node.identity.peer_id for node in nodes[liar : liar + 2])
        assert result.suspect_links == (peers,)

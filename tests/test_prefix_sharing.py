"""What one session has run, the next one of the same client never runs again."""

import asyncio
from pathlib import Path

import pytest

from ledger.meter import Rates
from ledger.reader import LedgerReader
from ledger.receipts import open_receipt
from ledger.verify import verify_ledger
from node.prefixes import Rows
from protocol.measured import State
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import Finished, GenerationResult, Routed, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole

SPANS = [(0, 2), (2, 5), (5, 6)]
WANDERING = SamplingParams(temperature=1.0, seed=7)
TURN_1 = [(7 * i) % 250 for i in range(100)]
N = 12
MORE = [(11 * i + 3) % 250 for i in range(20)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


@pytest.fixture
async def chain(model: Path, tmp_path: Path, network: MemoryNetwork):
    """One node for every span."""
    async with swarm(model, tmp_path, over(network), *SPANS) as built:
        yield built


@pytest.fixture
async def pair(model: Path, tmp_path: Path, network: MemoryNetwork):
    """Two nodes for every span."""
    async with swarm(model, tmp_path, over(network), *SPANS, *SPANS) as built:
        yield built


def over(network: MemoryNetwork):
    return lambda identity: network.transport(identity, OPEN_SWARM_ID)


def ask(swarm: Swarm, prompt: list[int], **what: object):
    chosen = {"max_tokens": N, "sampling": WANDERING, "ignore_eos": True} | what
    return swarm.request(prompt, **chosen)


def rows_run(swarm: Swarm) -> list[int]:
    return [local.node.batcher.load.rows for local in swarm.nodes]


def retained(local: LocalNode) -> list[Rows]:
    return list(local.node.sessions.prefixes._retained)


async def cold(swarm: Swarm, prompt: list[int], name: str = "stranger") -> GenerationResult:
    """The answer for somebody whom no hop knows."""
    async with swarm.client(name) as client:
        return await whole(client.generate(ask(swarm, prompt)))


async def test_the_second_turn_of_a_chat_runs_nothing_of_the_first_again(chain):
    async with chain.client() as client:
        first = await whole(client.generate(ask(chain, TURN_1)))
        history = [*TURN_1, *first.token_ids]
        before = rows_run(chain)
        second = await whole(client.generate(ask(chain, [*history, *MORE])))
        rows = [after - was for after, was in zip(rows_run(chain), before, strict=True)]
    reference = await cold(chain, [*history, *MORE])

    assert first.n_cached == 0
    assert second.n_cached == len(history) - 1, "all but the last id of turn 1 had been run"
    assert rows == [1 + len(MORE) + N - 1] * 3
    assert second.token_ids == reference.token_ids
    assert second.text == reference.text
    assert reference.n_cached == 0, "a stranger begins at the beginning"


async def test_a_long_conversation_leaves_one_copy_of_itself(chain):
    history = list(TURN_1)
    async with chain.client() as client:
        for turn in range(3):
            answer = await whole(client.generate(ask(chain, history)))
            history += [*answer.token_ids, *MORE]
            assert (answer.n_cached > 0) == (turn > 0)

    for local in chain.nodes:
        assert local.node.sessions.prefixes.n_retained == 1
        assert local.node.status()["prefix_hits"] == 2
        assert local.node.sessions.reserved_bytes == 0


async def test_a_system_prompt_is_shared_by_sessions_that_go_on_differently(chain):
    async with chain.client() as client:
        await whole(client.generate(ask(chain, [*TURN_1, 1, 2, 3])))
        other = await whole(client.generate(ask(chain, [*TURN_1, 4, 5, 6])))
    reference = await cold(chain, [*TURN_1, 4, 5, 6])

    assert other.n_cached == 64, "the last stride within the common beginning"
    assert other.token_ids == reference.token_ids


async def test_a_session_begins_where_one_that_still_runs_has_been(chain):
    async with chain.client() as client, client.generate(ask(chain, TURN_1)) as first:
        async for event in first:
            if isinstance(event, Token) and event.index == 3:
                break
        second = await whole(client.generate(ask(chain, TURN_1)))
        rest = [event async for event in first]

    assert second.n_cached == len(TURN_1) - 1
    assert isinstance(rest[-1], Finished)
    assert rest[-1].result.token_ids == second.token_ids


async def test_after_a_cancel_what_was_run_is_still_there(chain):
    async with chain.client() as client:
        async with client.generate(ask(chain, TURN_1)) as first:
            async for event in first:
                if isinstance(event, Token) and event.index == 3:
                    break
        again = await whole(client.generate(ask(chain, TURN_1)))

    assert again.n_cached == len(TURN_1) - 1
    assert again.token_ids == (await cold(chain, TURN_1)).token_ids


async def test_a_session_that_ends_early_leaves_no_more_room_taken_than_it_used(chain):
    async with chain.client() as client:
        async with client.generate(ask(chain, TURN_1, max_tokens=150)) as first:
            async for event in first:
                if isinstance(event, Token) and event.index == 3:
                    break
        await asyncio.sleep(0.1)
        for local in chain.nodes:
            sessions = local.node.sessions
            [rows] = retained(local)
            assert rows.lease.capacity == rows.length < 110
            assert sessions.prefixes.retained_bytes == sessions.rows_bytes(
                rows.reserve, rows.length
            )
        again = await whole(client.generate(ask(chain, TURN_1)))

    assert again.n_cached == len(TURN_1) - 1
    assert again.token_ids == (await cold(chain, TURN_1)).token_ids


@pytest.mark.parametrize("family", ["gemma2", "qwen3_next"])
async def test_any_family_goes_on_where_it_was(family, tmp_path_factory, tmp_path, network):
    """Sliding windows that forgot the beginning, and recurrent states, which cannot go back."""
    directory = tmp_path_factory.mktemp(family)
    write_checkpoint(directory, family, max_position_embeddings=1024)
    async with swarm(add_byte_tokenizer(directory), tmp_path, over(network)) as built:
        await built.start((0, 3), (3, 6))
        async with built.client() as client:
            first = await whole(client.generate(ask(built, TURN_1 * 6)))
            floors = [rows.lease.floor for n in built.nodes for rows in retained(n)]
            prompt = [*TURN_1 * 6, *first.token_ids, *MORE]
            second = await whole(client.generate(ask(built, prompt)))
        reference = await cold(built, prompt)

    assert (max(floors) > 0) == (family == "gemma2")
    assert second.n_cached == len(TURN_1) * 6 + N - 1
    assert second.token_ids == reference.token_ids


async def test_nobody_learns_from_a_hit_what_others_asked(chain):
    async with chain.client("one") as one, chain.client("other") as other:
        await whole(one.generate(ask(chain, TURN_1)))

        assert (await whole(other.generate(ask(chain, TURN_1)))).n_cached == 0
        assert (await whole(one.generate(ask(chain, TURN_1)))).n_cached == len(TURN_1) - 1


async def test_those_who_share_a_secret_share_their_prefixes_and_nobody_else_does(chain):
    async with chain.client("one") as one, chain.client("other") as other:
        await whole(one.generate(ask(chain, TURN_1, prefix_group="ours")))

        assert (await whole(other.generate(ask(chain, TURN_1)))).n_cached == 0
        assert (
            await whole(other.generate(ask(chain, TURN_1, prefix_group="theirs")))
        ).n_cached == 0
        ours = await whole(other.generate(ask(chain, TURN_1, prefix_group="ours")))

    assert ours.n_cached == len(TURN_1) - 1


async def test_who_wants_no_trace_leaves_none(chain):
    async with chain.client() as client:
        await whole(client.generate(ask(chain, TURN_1, reuse_prefix=False)))
        again = await whole(client.generate(ask(chain, TURN_1)))

    assert again.n_cached == 0


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_a_hop_killed_in_a_session_that_began_with_a_prefix_is_replaced(pair, network, hop):
    async with pair.client() as client:
        first = await whole(client.generate(ask(pair, TURN_1)))
        prompt = [*TURN_1, *first.token_ids, *MORE]
        ran = {step.peer for step in first.route}
        others = [local.node for local in pair.nodes if local.node.peer_id not in ran]
        for node in others:  # on a busy machine they could look faster by more than a prefix saves
            node.become(State.DRAINING)
        route = None
        async with client.generate(ask(pair, prompt)) as run:
            async for event in run:
                if isinstance(event, Routed):
                    route = route or event.route
                elif isinstance(event, Token) and event.index == 5:
                    assert route is not None
                    for node in others:
                        node.become(State.SERVING)
                    network.kill(route[hop].peer)
                elif isinstance(event, Finished):
                    second = event.result
    reference = await cold(pair, prompt)

    assert route is not None
    assert [step.peer for step in route] == [step.peer for step in first.route], "the same chain"
    assert second.n_cached == len(TURN_1) + N - 1
    assert second.failovers == 1
    assert second.token_ids == reference.token_ids


async def test_a_hop_that_forgot_is_filled_by_its_predecessor_and_the_others_run_nothing(chain):
    async with chain.client() as client:
        first = await whole(client.generate(ask(chain, TURN_1)))
        chain.nodes[1].node.sessions.prefixes.clear()
        before = rows_run(chain)
        prompt = [*TURN_1, *first.token_ids, *MORE]
        second = await whole(client.generate(ask(chain, prompt)))
        rows = [after - was for after, was in zip(rows_run(chain), before, strict=True)]

    assert second.n_cached == 0
    assert rows == [1 + len(MORE) + N - 1, len(prompt) + N - 1, 1 + len(MORE) + N - 1]
    assert second.token_ids == (await cold(chain, prompt)).token_ids


async def test_a_live_session_gets_the_room_that_prefixes_take(model, tmp_path, network):
    async with swarm(model, tmp_path, over(network)) as small:
        [local] = await small.start((0, 6), kv_cache_bytes=1 << 20)
        sessions = local.node.sessions
        async with small.client() as client:
            for first in range(6):
                await whole(client.generate(ask(small, [first, *TURN_1], max_tokens=4)))
            kept = sessions.prefixes.n_retained
            async with client.generate(ask(small, [9] * 32, max_tokens=224)) as run:
                async for event in run:
                    if isinstance(event, Token):
                        break

                assert sessions.reserved_bytes + sessions.prefixes.retained_bytes <= 1 << 20
                assert sessions.prefixes.n_retained < kept == 6

    assert sessions.refused == 0


async def test_cached_rows_are_counted_apart_and_only_run_ones_are_billed(model, tmp_path, network):
    rates = Rates(prefill_tl=1_000_000_000, decode_tl=5_000_000_000)
    async with swarm(model, tmp_path, over(network)) as priced:
        await priced.start((0, 3), (3, 6), rates=rates)
        async with priced.client() as client:
            first = await whole(client.generate(ask(priced, TURN_1)))
            prompt = [*TURN_1, *first.token_ids, *MORE]
            second = await whole(client.generate(ask(priced, prompt)))

    with LedgerReader.read(tmp_path / "client") as books:
        receipts = [books.receipt(bytes.fromhex(receipt)) for receipt in second.receipts]
    for tab in (open_receipt(receipt, OPEN_SWARM_ID) for receipt in receipts):
        assert tab.voucher is not None
        meter = tab.voucher.meter
        assert meter.cached_tl == (len(TURN_1) + N - 1) * 3
        assert meter.prefill_tl == (1 + len(MORE)) * 3
        assert meter.decode_tl == (N - 1) * 3
    for party in ("client", "node-0", "node-1"):
        report = verify_ledger(tmp_path / party)
        assert report.holds, report.failures

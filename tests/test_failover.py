"""Hops die, streams break, clients vanish: the text stands, the books balance, nothing leaks."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.meter import Rates
from ledger.verify import verify_ledger
from protocol.codec import to_client_message, to_hop_bytes
from protocol.errors import PeerBusy, PeerRefused, SwarmIncomplete, UsageError
from protocol.hop_state import State
from protocol.lateness import AGREE_S
from protocol.messages import Failure, Reserve, Reserved, SessionId, Span
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Finished, GenerationResult, Routed, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm, whole

SPANS = [(0, 2), (2, 5), (5, 6)]
WANDERING = SamplingParams(temperature=1.0, seed=7)
N = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


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
    prompt = swarm.tokenizer.encode("Tell me about hands.")
    return swarm.request(
        prompt, **({"max_tokens": N, "sampling": WANDERING, "ignore_eos": True} | what)
    )


async def killed_at(swarm: Swarm, network: MemoryNetwork, hop: int, token: int) -> GenerationResult:
    """The answer when the hop at this place in the chain dies as this token arrives."""
    async with swarm.client(f"killer-{hop}-{token}") as client, client.generate(ask(swarm)) as run:
        route, events = None, []
        async for event in run:
            events.append(event)
            if isinstance(event, Routed):
                route = event.route
            if isinstance(event, Token) and event.index == token:
                assert route is not None
                network.kill(route[hop].peer)
    assert isinstance(events[-1], Finished)
    indices = [event.index for event in events if isinstance(event, Token)]
    assert indices == list(range(N)), "no token lost, none repeated"
    return events[-1].result


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_a_killed_hop_is_replaced_and_the_text_is_the_same(pair, network, hop, tmp_path):
    async with pair.client() as client:
        undisturbed = await whole(client.generate(ask(pair)))

    disturbed = await killed_at(pair, network, hop, token=9)

    assert disturbed.token_ids == undisturbed.token_ids
    assert disturbed.text == undisturbed.text
    assert disturbed.failovers == 1
    assert len(disturbed.receipts) == 4, "the lost hop's tab, too"
    assert verify_ledger(tmp_path / f"killer-{hop}-9").holds


async def test_survivors_run_at_most_the_row_in_flight_again(pair, network):
    before = {n.node.identity.peer_id: n.node.batcher.load.rows for n in pair.nodes}

    result = await killed_at(pair, network, hop=1, token=9)

    prompt = result.n_prompt
    survivors = {result.route[0].peer, result.route[2].peer}
    for local in pair.nodes:
        if local.node.identity.peer_id in survivors:
            rows = local.node.batcher.load.rows - before[local.node.identity.peer_id]
            assert prompt + N - 1 <= rows <= prompt + N - 1 + 2


async def test_the_dead_are_routed_around_while_they_are_still_announced(pair, network):
    async with pair.client() as client:
        undisturbed = await whole(client.generate(ask(pair)))

    answers = [await killed_at(pair, network, hop, token=6 + hop) for hop in (0, 1, 2)]

    assert [answer.token_ids for answer in answers] == [undisturbed.token_ids] * 3
    assert [answer.failovers for answer in answers] == [1, 1, 1]


async def test_dead_hosts_cost_an_opening_nothing_but_time(pair, network):
    """Each new client draws some of the announced dead, and gives up the living beside them."""
    dead, living = pair.nodes[:3], pair.nodes[3:]
    for local in dead:
        network.kill(local.node.identity.peer_id)

    for seed in range(12):
        async with pair.client(f"client-{seed}", seed=seed) as client:
            for local in living:  # dials and streams overtake each other
                ends = (client.identity.peer_id, local.node.identity.peer_id)
                network.set_faults(Faults(delay_s=(0.0, 0.03)), *ends)
            result = await whole(client.generate(ask(pair, max_tokens=4)))

        assert {step.peer for step in result.route} == {n.node.identity.peer_id for n in living}
        assert result.failovers == 0, "no hop that served was lost"


async def test_a_late_reserve_of_an_older_epoch_displaces_nothing(pair, network):
    async with pair.client() as client:
        local = pair.nodes[0]
        older = reserve(pair, epoch=0)
        connection = await client.transport.dial(local.address)
        newer_stream, older_stream = [await connection.open("control") for _ in range(2)]

        newer_stream.send(to_hop_bytes(replace(older, epoch=1)))
        reserved = to_client_message(await newer_stream.receive())
        older_stream.send(to_hop_bytes(older))
        refused = to_client_message(await older_stream.receive())

        assert isinstance(reserved, Reserved)
        assert isinstance(refused, Failure)
        [hop] = local.node.sessions._hops.values()
        assert (hop.session.epoch, hop.session.state) == (1, State.RESERVED)
        await connection.aclose()


def reserve(swarm: Swarm, *, epoch: int) -> Reserve:
    return Reserve(
        session=SessionId(bytes(16)),
        epoch=epoch,
        manifest=swarm.manifest.digest,
        span=Span(*SPANS[0]),
        n_blocks=swarm.manifest.n_blocks,
        capacity=64,
        max_tokens=32,
        budget_ms=10_000,
        client_nonce=bytes(16),
        salt_commit=bytes(32),
    )


async def test_a_peer_that_was_away_and_is_back_serves_again(model, tmp_path, network):
    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory, (0, 3), (3, 6)) as built:
        first, last = (local.node.identity.peer_id for local in built.nodes)
        async with built.client() as client, client.generate(ask(built, wait_s=20.0)) as run:
            events = []
            async for event in run:
                events.append(event)
                if isinstance(event, Token) and event.index == 5:
                    # Nobody else serves these blocks; the network heals only after a while.
                    network.partition([first], [last, client.identity.peer_id])
                    healing = asyncio.create_task(heal_later(network))
        await healing

    assert isinstance(events[-1], Finished)
    assert [e.index for e in events if isinstance(e, Token)] == list(range(N))
    assert events[-1].result.failovers >= 1
    assert len(events[-1].result.receipts) == 3, "two tabs with the one that was away"


@pytest.mark.parametrize("place", [0, 1])
async def test_a_peer_that_forgot_the_session_is_asked_to_serve_it_anew(
    model, tmp_path, network, place
):
    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with (
        swarm(model, tmp_path, over_memory, (0, 3), (3, 6)) as built,
        built.client() as client,
        client.generate(ask(built)) as run,
    ):
        events, gone_s, back_s = [], 0.0, 0.0
        async for event in run:
            events.append(event)
            if isinstance(event, Token) and event.index == 5:  # as after a quick restart
                [hop] = built.nodes[place].node.sessions._hops.values()
                hop.give_up()
                gone_s = time.monotonic()
            if isinstance(event, Routed):
                back_s = time.monotonic()

    assert isinstance(events[-1], Finished)
    assert 0 < back_s - gone_s < AGREE_S, "it said so itself: nobody waits for its answer"
    assert [e.index for e in events if isinstance(e, Token)] == list(range(N))


async def heal_later(network: MemoryNetwork) -> None:
    await asyncio.sleep(4.5)
    network.heal()


async def test_two_adjacent_hops_lost_at_once_are_one_loss(pair, network):
    async with pair.client() as client:
        undisturbed = await whole(client.generate(ask(pair)))

    async with pair.client("two") as client, client.generate(ask(pair)) as run:
        events = []
        async for event in run:
            events.append(event)
            if isinstance(event, Token) and event.index == 5:
                routes = [e.route for e in events if isinstance(e, Routed)]
                network.kill(routes[-1][0].peer)
                network.kill(routes[-1][1].peer)

    assert isinstance(events[-1], Finished)
    assert events[-1].result.token_ids == undisturbed.token_ids


async def test_a_broken_data_stream_is_opened_again_and_nothing_restarts(pair, network):
    async with pair.client() as client:
        undisturbed = await whole(client.generate(ask(pair)))
        async with client.generate(ask(pair)) as run:
            events = []
            async for event in run:
                events.append(event)
                if isinstance(event, Token) and event.index in (4, 11):
                    route = next(e.route for e in events if isinstance(e, Routed))
                    network.break_streams(route[0].peer, route[1].peer)

    assert isinstance(events[-1], Finished)
    assert events[-1].result.token_ids == undisturbed.token_ids
    assert events[-1].result.failovers == 0


async def test_a_broken_control_stream_is_resumed(pair, network):
    async with pair.client() as client, client.generate(ask(pair)) as run:
        events = []
        async for event in run:
            events.append(event)
            if isinstance(event, Token) and event.index == 6:
                route = next(e.route for e in events if isinstance(e, Routed))
                for step in route:
                    network.break_streams(client.identity.peer_id, step.peer)

    assert isinstance(events[-1], Finished)
    assert events[-1].result.failovers == 0
    assert [e.index for e in events if isinstance(e, Token)] == list(range(N))


async def test_leaving_early_frees_every_hop_within_a_second(pair):
    async with pair.client() as client:
        async with client.generate(ask(pair, max_tokens=200)) as run:
            async for event in run:
                if isinstance(event, Token) and event.index == 3:
                    break
        await asyncio.sleep(0.5)
        assert all(local.node.sessions.reserved_bytes == 0 for local in pair.nodes)


async def test_a_client_that_vanishes_costs_its_room_and_no_more(pair, network):
    from protocol.patience import RESUME_S

    async with pair.client() as client, client.generate(ask(pair, max_tokens=200)) as run:
        async for event in run:
            if isinstance(event, Token) and event.index == 3:
                network.kill(client.identity.peer_id)
                break
        held = [n for n in pair.nodes if n.node.sessions.reserved_bytes]
        assert len(held) == 3
        await asyncio.sleep(0.2)  # the streams' ends are noticed
        for local in held:
            for hop in list(local.node.sessions._hops.values()):
                hop.do(hop.session.tick(asyncio.get_running_loop().time() + 11))
        assert RESUME_S == 10.0
        assert all(n.node.sessions.reserved_bytes == 0 for n in pair.nodes)


class WithAMistake:
    """A transport whose code is wrong: what it raises is none of the typed errors."""

    peer_id = ""

    async def dial(self, *_: object, **__: object) -> None:
        raise ZeroDivisionError("a mistake")


async def test_a_mistake_of_ours_is_told_not_passed_off_as_a_cancelled_answer(pair):
    async with pair.client() as client:
        client.transport = WithAMistake()

        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(10):
                await whole(client.generate(ask(pair)))


async def test_blocks_that_nobody_serves_are_named(pair, network):
    for local in (pair.nodes[1], pair.nodes[4]):
        await pair.stop(local)

    async with pair.client() as client:
        with pytest.raises(SwarmIncomplete) as caught:
            await whole(client.generate(ask(pair, wait_s=0.5)))

    assert caught.value.missing == ((2, 5),)
    assert caught.value.exit_code == 5


async def test_a_full_node_refuses_at_once_and_serves_again_when_there_is_room(
    model, tmp_path, network
):
    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory) as small:
        await small.start((0, 6), kv_cache_bytes=1 << 20)
        async with small.client() as client:
            first = client.generate(ask(small, max_tokens=200))
            async with first:
                async for event in first:
                    if isinstance(event, Token):
                        break
                small.nodes[0].node.sessions.reserved_bytes += 1 << 20  # no room for a second
                with pytest.raises(PeerBusy):
                    await whole(client.generate(ask(small, wait_s=0.3, room_wait_s=0.3)))
                small.nodes[0].node.sessions.reserved_bytes -= 1 << 20
            again = await whole(client.generate(ask(small)))

    assert len(again.token_ids) == N


async def test_a_priced_session_pays_as_it_goes_within_its_window(model, tmp_path, network):
    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    rates = Rates(prefill_tl=1_000_000_000, decode_tl=5_000_000_000)  # 5,000 ncr a token-block
    async with swarm(model, tmp_path, over_memory) as priced:
        await priced.start((0, 3), (3, 6), rates=rates)
        async with priced.client() as client:
            result = await whole(client.generate(ask(priced, max_tokens=100)))

    assert len(result.token_ids) == 100
    for party in ("client", "node-0", "node-1"):
        report = verify_ledger(tmp_path / party)
        assert report.holds, report.failures


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_a_priced_chain_that_loses_a_hop_still_balances(model, tmp_path, network, hop):
    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    rates = Rates(prefill_tl=1_000_000_000, decode_tl=5_000_000_000)
    async with swarm(model, tmp_path, over_memory) as priced:
        await priced.start(*SPANS, *SPANS, rates=rates)
        result = await killed_at(priced, network, hop, token=9)

    for local in priced.nodes:
        report = verify_ledger(local.home)
        assert report.holds, report.failures
    client = tmp_path / f"killer-{hop}-9"
    report = verify_ledger(client)
    assert report.holds, report.failures
    assert len(result.receipts) == 4


async def test_ids_outside_the_vocabulary_are_the_callers_fault_and_harm_nobody(pair):
    async with pair.client() as client:
        with pytest.raises(UsageError, match="token ids"):
            await whole(client.generate(pair.request([5, 9999], max_tokens=4)))
        fine = await whole(client.generate(ask(pair)))

    assert len(fine.token_ids) == N


async def test_another_model_is_refused_by_name(pair):
    async with pair.client() as client:
        request = ask(pair, wait_s=0.3)
        object.__setattr__(request, "manifest", b"x" * 32)
        with pytest.raises((SwarmIncomplete, PeerRefused)):
            await whole(client.generate(request))

"""A hop leaves properly: who takes its place gets what it has run, and the text stands."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ledger.meter import Rates
from ledger.reader import LedgerReader
from ledger.receipts import open_receipt
from ledger.verify import verify_ledger
from protocol.errors import ManyhandsError, PeerMisbehaved, PeerRefused
from protocol.handover import Note, Part, request_bytes
from protocol.identity import Identity, peer_id_from_public_key
from protocol.measured import State
from protocol.messages import SessionId, Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Finished, GenerationResult, HiddenSession, Routed, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole
from tests.test_client_ends import HIDDEN, ROW, lane
from tests.test_failover import ask

SPANS = [(0, 2), (2, 5), (5, 6)]
N = 64
DELAY = Faults(delay_s=(0.01, 0.01))  # so that an answer is not over before anybody could leave


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


def over(network: MemoryNetwork):
    return lambda identity: network.transport(identity, OPEN_SWARM_ID)


def node_of(swarm: Swarm, peer: str) -> LocalNode:
    return next(n for n in swarm.nodes if n.node.identity.peer_id == peer)


async def answer(swarm: Swarm) -> GenerationResult:
    async with swarm.client("undisturbed") as client:
        return await whole(client.generate(ask(swarm, max_tokens=N, reuse_prefix=False)))


async def left_at(
    swarm: Swarm,
    hop: int,
    token: int = 9,
    before: Callable[[LocalNode], Awaitable[object]] | None = None,
    **what: object,
) -> GenerationResult:
    """The answer when the hop at this place begins to leave as this token arrives.

    before: done first, with the leaver; the node is gone before the answer is over.
    """
    leaving: list[asyncio.Task[None]] = []
    async with swarm.client(f"leaver-{hop}-{token}") as client:
        asked = ask(swarm, max_tokens=N, reuse_prefix=False, **what)
        async with client.generate(asked) as run:
            route, events = None, []
            async for event in run:
                events.append(event)
                if isinstance(event, Routed):
                    route = event.route
                if isinstance(event, Token) and event.index == token:
                    assert route is not None
                    leaver = node_of(swarm, route[hop].peer)
                    if before is not None:
                        await before(leaver)
                    leaving.append(asyncio.create_task(swarm.stop(leaver)))
                if isinstance(event, Token) and event.index == N - 1:
                    assert leaving[0].done(), "with its last session it has nothing left to do"
        await asyncio.gather(*leaving)
    assert isinstance(events[-1], Finished)
    indices = [event.index for event in events if isinstance(event, Token)]
    assert indices == list(range(N)), "no token lost, none repeated"
    return events[-1].result


@pytest.mark.parametrize("hop", [0, pytest.param(1, marks=pytest.mark.slow), 2])
async def test_the_heir_of_a_hop_that_leaves_runs_nothing_of_it_again(
    model, tmp_path, network, hop
):
    async with swarm(model, tmp_path, over(network)) as built:
        await built.start(*SPANS, *SPANS, drain_s=20.0)
        undisturbed = await answer(built)
        network.set_faults(DELAY)
        before = {n.node.identity.peer_id: n.node.batcher.load.rows for n in built.nodes}

        result = await left_at(built, hop)

        assert result.token_ids == undisturbed.token_ids
        assert (result.failovers, result.handovers) == (0, 1)
        heir = node_of(built, result.route[hop].peer)
        rows = heir.node.batcher.load.rows - before[result.route[hop].peer]
        assert rows <= N - 9, "neither the prompt nor the tokens before it left"


async def test_several_heirs_take_each_their_part_from_inside_their_own_spans(
    model, tmp_path, network
):
    async with swarm(model, tmp_path, over(network)) as built:
        await built.start(*SPANS, drain_s=20.0)
        undisturbed = await answer(built)
        network.set_faults(DELAY)

        result = await left_at(built, 1, before=lambda _: built.start((1, 4), (4, 6)))

        assert result.token_ids == undisturbed.token_ids
        assert (result.failovers, result.handovers) == (0, 1)
        assert [(s.span.start, s.span.stop) for s in result.route[1:3]] == [(2, 4), (4, 5)]
        for heir in built.nodes[3:]:
            assert 0 < heir.node.batcher.load.rows <= N - 9


async def test_an_heir_is_paid_for_what_it_runs_and_the_leaver_for_the_rest(
    model, tmp_path, network
):
    rates = Rates(prefill_tl=1_000_000_000, decode_tl=5_000_000_000, cached_tl=1_000_000_000)
    async with swarm(model, tmp_path, over(network)) as built:
        await built.start(*SPANS, rates=rates, drain_s=20.0)
        network.set_faults(DELAY)

        result = await left_at(built, 1, before=lambda _: built.start((2, 5), rates=rates))

    assert len(result.receipts) == 4
    client = tmp_path / "leaver-1-9"
    meters = {}
    for party in (*(local.home for local in built.nodes), client):
        report = verify_ledger(party)
        assert report.holds, report.failures
    with LedgerReader.read(client) as log:
        for id_ in result.receipts:
            tab = open_receipt(log.receipt(bytes.fromhex(id_)), OPEN_SWARM_ID)
            assert tab.voucher is not None
            meters[peer_id_from_public_key(tab.terms.payee)] = tab.voucher.meter
    leaver, heir = (meters[built.nodes[place].node.identity.peer_id] for place in (1, 3))
    assert heir.cached_tl == 0, "rows that were handed over are the leaver's"
    run_twice = leaver.prefill_tl + leaver.decode_tl + heir.prefill_tl + heir.decode_tl
    assert run_twice <= (result.n_prompt + N - 1 + 3) * 3, "but what was in flight"


@pytest.mark.slow
async def test_an_answer_that_has_most_of_a_nodes_room_is_handed_over_as_well(tmp_path, network):
    model = add_byte_tokenizer(write_checkpoint(tmp_path / "model", head_dim=128))
    async with swarm(model, tmp_path, over(network)) as built:
        await built.start(*SPANS, drain_s=20.0)
        network.set_faults(DELAY)

        async def with_little_room(leaver: LocalNode) -> None:
            [hop] = leaver.node.sessions._hops.values()
            takes = leaver.node.sessions.cost_bytes(hop.session.reserve)
            await built.start((2, 5), kv_cache_bytes=max(1 << 20, takes * 3 // 2))
            assert takes > (1 << 20) // 4

        result = await left_at(built, 1, before=with_little_room)

    assert (result.failovers, result.handovers) == (0, 1)


async def test_an_heir_that_is_busy_is_asked_again_while_the_leaver_stays(model, tmp_path, network):
    async with swarm(model, tmp_path, over(network)) as built:
        await built.start(*SPANS, drain_s=20.0)
        network.set_faults(Faults(delay_s=(0.02, 0.02)))

        async def with_a_busy_heir(leaver: LocalNode) -> None:
            [heir] = await built.start((2, 5))
            heir.node.sessions.draining = True
            asyncio.get_running_loop().call_later(0.5, heir.node.become, State.SERVING)

        result = await left_at(built, 1, before=with_a_busy_heir)

    assert (result.failovers, result.handovers) == (0, 1)


async def test_only_who_has_the_clients_note_is_given_anything(model, tmp_path, network):
    async with swarm(model, tmp_path, over(network), (0, 3), (3, 6)) as built:
        local, stranger = built.nodes[0], built.nodes[1].node.identity
        node = local.node
        refusals: list[tuple[str, ManyhandsError]] = []

        async def asked(what: str, client: Identity, start: int = 0, **other: object) -> None:
            [hop] = node.sessions._hops.values()
            note = Note(
                session=hop.session.id,
                epoch=hop.session.epoch + 1,
                giver=node.identity.public_key,
                taker=stranger.public_key,
                span=Span(0, 2),
            )
            sealed = replace(note, **other).seal(OPEN_SWARM_ID, client.key)
            try:
                data = await node.serving.giving.handle(
                    stranger.peer_id, request_bytes(sealed, start)
                )
            except ManyhandsError as error:
                refusals.append((what, error))
            else:
                part = Part.decode(data)
                assert what == "all is well"
                assert (part.start, len(part.blocks), part.journal_row_bytes) == (start, 2, 0)

        async with built.client() as client, client.generate(ask(built, max_tokens=200)) as run:
            async for event in run:
                if isinstance(event, Token) and event.index == 3:
                    await asked("it does not leave", client.identity)
                    node.sessions.draining = True
                    await asked("all is well", client.identity)
                    await asked("all is well", client.identity, 5)
                    await asked("another client", stranger)
                    await asked("another taker", client.identity, taker=node.identity.public_key)
                    await asked("another giver", client.identity, giver=stranger.public_key)
                    await asked("other blocks", client.identity, span=Span(2, 4))
                    await asked("an old note", client.identity, epoch=0)
                    await asked("rows to come", client.identity, 10_000)
                    await asked("another session", client.identity, session=SessionId(bytes(16)))
                    node.sessions.draining = False
                    break

    assert [what for what, _ in refusals] == [
        *("it does not leave", "another client", "another taker", "another giver"),
        *("other blocks", "an old note", "rows to come", "another session"),
    ]
    assert all(isinstance(error, PeerRefused | PeerMisbehaved) for _, error in refusals)


async def test_a_client_that_holds_the_ends_has_heirs_too(model, tmp_path, network):
    """Forwards of one row each; a hop leaves between two of them."""
    rows = torch.randn(24, HIDDEN, generator=torch.Generator().manual_seed(3))
    body = rows.numpy().tobytes()

    async def forwards(session: HiddenSession, leave: Callable[[], None]) -> list[bytes]:
        out = [await session.forward(0, body[: 8 * ROW])]
        for at in range(8, 24):
            if at == 12:
                leave()
            out.append(await session.forward(at, body[at * ROW : (at + 1) * ROW]))
            await asyncio.sleep(0.1)
        return out

    async with swarm(model, tmp_path, over(network)) as built:
        await built.start(*SPANS, *SPANS, drain_s=20.0)
        async with built.client() as client:
            session, undisturbed = lane(built, client), lane(built, client)
            leaving: list[asyncio.Task[None]] = []

            def leave() -> None:
                leaver = node_of(built, session.rules.hops[1].peer)
                leaving.append(asyncio.create_task(built.stop(leaver)))

            expected = await forwards(undisturbed, lambda: None)
            await undisturbed.aclose()
            got = await forwards(session, leave)
            assert leaving[0].done()
            await session.aclose()

    assert got == expected
    assert (session.failovers, session.rules.handovers) == (0, 1)

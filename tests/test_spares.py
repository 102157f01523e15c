"""What a hop has run is held by the peer that will replace it, and its death costs little."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.meter import Rates
from ledger.reader import LedgerReader
from ledger.receipts import open_receipt
from ledger.verify import verify_ledger
from protocol.asking import Handover, PrefixNames
from protocol.codec import to_hop_bytes
from protocol.errors import ManyhandsError, PeerMisbehaved, PeerRefused
from protocol.handover import Part, request_bytes
from protocol.identity import Identity, peer_id_from_public_key
from protocol.messages import SessionId, Span
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.spare import SpareNote, read_held
from protocol.transport.grpc import GrpcTransport
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Finished, GenerationResult, Token
from scheduler.session import Session
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole

SPANS = [(0, 2), (2, 5), (5, 6)]
PROMPT = [(7 * i) % 250 for i in range(150)]
N, LONG = 40, 100
WANDERING = SamplingParams(temperature=1.0, seed=7)
DELAY = Faults(delay_s=(0.01, 0.01))  # so that an answer is not over before it was copied


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


def over(network: MemoryNetwork):
    return lambda identity: network.transport(identity, OPEN_SWARM_ID)


def ask(swarm: Swarm, prompt: list[int] = PROMPT, **what: object):
    fixed = {"max_tokens": N, "ignore_eos": True, "reuse_prefix": False, "wait_s": 30.0}
    return swarm.request(prompt, **(fixed | what))


def node_of(swarm: Swarm, peer: str) -> LocalNode:
    return next(n for n in swarm.nodes if n.node.identity.peer_id == peer)


async def undisturbed(swarm: Swarm, **what: object) -> GenerationResult:
    async with swarm.client("undisturbed") as client:
        return await whole(client.generate(ask(swarm, spares=False, **what)))


def are_copied(session: Session) -> bool:
    """Whether each hop's rows are held by somebody."""
    held = session._copies.held()
    made = [copy.n_held for copy in session._copies._copies.values()]
    return len(held) == len(session.rules.hops) and min(made, default=0) >= len(PROMPT)


async def killed(
    swarm: Swarm,
    kill: Callable[[Session, int], None],
    *,
    when: Callable[[Session], bool] = are_copied,
    name: str = "client",
    **what: object,
) -> tuple[GenerationResult, int]:
    """The answer, and how many tokens there were when `when` held and this befell the swarm."""
    struck = 0
    async with swarm.client(name) as client, client.generate(ask(swarm, **what)) as run:
        tokens = []
        async for event in run:
            if isinstance(event, Token):
                tokens.append(event.index)
                if not struck and when(run.session):
                    struck = len(tokens)
                    kill(run.session, struck)
            elif isinstance(event, Finished):
                result = event.result
        assert tokens == list(range(what.get("max_tokens", N))), "no token lost, none repeated"
        assert struck, "nothing befell it"
    return result, struck


def rows_run(swarm: Swarm) -> dict[str, int]:
    return {n.node.identity.peer_id: n.node.batcher.load.rows for n in swarm.nodes}


def kills(network: MemoryNetwork, hop: int) -> Callable[[Session, int], None]:
    return lambda session, _: network.kill(session.rules.hops[hop].peer)


@pytest.mark.parametrize(
    ("hop", "sampling"),
    [
        (0, WANDERING),
        pytest.param(1, SamplingParams(), marks=pytest.mark.slow),
        pytest.param(1, WANDERING, marks=pytest.mark.slow),
        pytest.param(2, SamplingParams(), marks=pytest.mark.slow),
    ],
)
async def test_a_replacement_begins_with_what_the_lost_hop_had_run(
    model, tmp_path, network, hop, sampling
):
    async with swarm(model, tmp_path, over(network), *SPANS, *SPANS) as built:
        expected = await undisturbed(built, sampling=sampling)
        network.set_faults(DELAY)
        before = rows_run(built)

        result, _ = await killed(built, kills(network, hop), sampling=sampling)

        new = result.route[hop].peer
        assert (result.token_ids, result.text) == (expected.token_ids, expected.text)
        assert result.failovers == 1
        assert rows_run(built)[new] - before[new] <= N, "nothing of the prompt was run again"
        await until_nobody_holds_anything(built, but=network._dead)


async def until_nobody_holds_anything(built: Swarm, but: Collection[str] = ()) -> None:
    async with asyncio.timeout(10):
        for local in built.nodes:
            if local.node.identity.peer_id not in but:
                while local.node.sessions.prefixes.n_kept:  # noqa: ASYNC110 (it has no event)
                    await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_over_sockets_the_spare_is_the_first_to_be_asked_and_paid_for_cached_rows(
    model, tmp_path
):
    """Three hosts for the lost blocks, so that somebody else could be drawn. Nothing holds up the
    rows here, so the answer is long: it must not be over before it was copied."""
    rates = Rates(prefill_tl=1_000_000, decode_tl=5_000_000, cached_tl=1_000_000)
    async with swarm(model, tmp_path, lambda i: GrpcTransport(i, OPEN_SWARM_ID)) as built:
        await built.start(*SPANS, *SPANS, (2, 5), rates=rates)
        expected = await undisturbed(built, sampling=WANDERING, max_tokens=LONG)
        held: list[tuple[str, int]] = []
        closing: list[asyncio.Task[None]] = []

        def vanish(session: Session, _: int) -> None:
            lost = session.rules.hops[1].seat
            spare, n_rows = session._copies.held()[lost.span]
            held.append((spare.peer, n_rows))
            listener = node_of(built, lost.peer).node._listener
            assert listener is not None
            closing.append(asyncio.create_task(listener.aclose(0)))

        result, struck = await killed(built, vanish, sampling=WANDERING, max_tokens=LONG)
        await asyncio.gather(*closing)

    [(spare, n_held)] = held
    assert result.token_ids == expected.token_ids
    assert result.route[1].peer == spare
    with LedgerReader.read(tmp_path / "client") as books:
        tabs = [
            open_receipt(books.receipt(bytes.fromhex(id_)), OPEN_SWARM_ID)
            for id_ in result.receipts
        ]
    [tab] = [tab for tab in tabs if peer_id_from_public_key(tab.terms.payee) == spare]
    assert tab.voucher is not None
    assert tab.statement is not None
    meter = tab.voucher.meter
    assert meter == tab.statement.meter, "both sides count alike"
    assert meter.cached_tl == n_held * 3 >= len(PROMPT) * 3
    assert meter.prefill_tl <= (struck + 3) * 3, "what was run since the copy, and in flight"
    for party in ("client", *(local.home.name for local in built.nodes)):
        report = verify_ledger(tmp_path / party)
        assert report.holds, report.failures


@pytest.mark.slow
async def test_without_a_spare_or_with_none_wanted_rows_are_run_again(model, tmp_path, network):
    async with swarm(model, tmp_path, over(network), *SPANS, *SPANS) as built:
        expected = await undisturbed(built)
        network.set_faults(DELAY)
        before = rows_run(built)

        result, _ = await killed(
            built, kills(network, 1), when=lambda s: len(s.rules.ids) > 155, spares=False
        )

        new = result.route[1].peer
        assert result.token_ids == expected.token_ids
        assert rows_run(built)[new] - before[new] > len(PROMPT)
        assert not any(n.node.status()["spare_bytes_given"] for n in built.nodes)


def slowly(swarm: Swarm, bytes_per_s: int) -> None:
    """Copies come in small parts, and take their time."""
    for local in swarm.nodes:
        giving = local.node.serving.giving
        giving.spare_part_bytes = 8 << 10
        giving.up_bytes_per_s = lambda: 10 * bytes_per_s


def is_half_copied(swarm: Swarm, span: tuple[int, int]) -> Callable[[Session], bool]:
    def when(session: Session) -> bool:
        copies = [
            rows
            for local in swarm.nodes
            for rows in local.node.sessions.prefixes._copies
            if rows.reserve.span == Span(*span)
        ]
        return any(64 <= rows.length < len(PROMPT) - 20 for rows in copies)

    return when


async def test_a_giver_that_dies_in_the_middle_of_a_copy_leaves_the_first_part(
    model, tmp_path, network
):
    async with swarm(model, tmp_path, over(network), *SPANS, *SPANS) as built:
        expected = await undisturbed(built)
        slowly(built, 300_000)
        network.set_faults(DELAY)
        before = rows_run(built)

        when = is_half_copied(built, (2, 5))
        result, struck = await killed(built, kills(network, 1), when=when)

        new = result.route[1].peer
        assert result.token_ids == expected.token_ids
        rows = rows_run(built)[new] - before[new]
        assert rows < len(PROMPT) + N - struck, "some of the prompt was there"


@pytest.mark.parametrize(
    "what",
    [
        "dies",
        pytest.param("needs the room", marks=pytest.mark.slow),
        pytest.param("takes nobody", marks=pytest.mark.slow),
    ],
)
async def test_a_copy_that_is_lost_costs_nothing_but_its_use(model, tmp_path, network, what):
    """The spare dies first, gives the rows up, or leaves: the session goes on as ever."""
    async with swarm(model, tmp_path, over(network), *SPANS, *SPANS, *SPANS) as built:
        expected = await undisturbed(built)
        network.set_faults(DELAY)
        before = rows_run(built)

        spares: list[str] = []

        def lose(session: Session, _: int) -> None:
            lost = session.rules.hops[1].seat
            spare, _ = session._copies.held()[lost.span]
            spares.append(spare.peer)
            node = node_of(built, spare.peer).node
            if what == "dies":
                network.kill(spare.peer)
            elif what == "needs the room":
                node.sessions.prefixes.clear()
            else:
                node.sessions.draining = True
            network.kill(lost.peer)

        result, _ = await killed(built, lose)

    new = result.route[1].peer
    assert result.token_ids == expected.token_ids
    assert result.failovers == 1
    assert rows_run(built)[new] - before[new] > len(PROMPT), "all of them were run again"
    assert new != spares[0] or what == "needs the room"


@pytest.mark.slow
async def test_copies_go_on_with_the_next_hop_after_a_loss(model, tmp_path, network):
    """Two losses of the same blocks: the second replacement has the rows from the first one."""
    async with swarm(model, tmp_path, over(network), *SPANS, *SPANS, (2, 5)) as built:
        expected = await undisturbed(built)
        network.set_faults(DELAY)
        lost: list[str] = []

        def kill(session: Session, _: int) -> None:
            [copy] = [c for span, c in session._copies._copies.items() if span == Span(2, 5)]
            lost.append(session.rules.hops[1].peer)
            network.kill(lost[-1])
            copy.asked_s = float("-inf")  # as if it were long ago

        async with built.client() as client, client.generate(ask(built)) as run:
            at = 0
            async for event in run:
                if isinstance(event, Token):
                    session, at = run.session, event.index
                    is_new = session.rules.hops[1].peer not in lost
                    if len(lost) < 2 and is_new and are_copied(session):
                        kill(session, at)
                elif isinstance(event, Finished):
                    result = event.result

    assert result.token_ids == expected.token_ids
    assert result.failovers == 2
    assert len({*lost, result.route[1].peer}) == 3


async def test_only_who_the_client_names_copies_and_only_its_rows(model, tmp_path, network):
    async with swarm(model, tmp_path, over(network), *SPANS, *SPANS) as built:
        network.set_faults(DELAY)
        refusals: list[tuple[str, ManyhandsError]] = []
        giver, spare = built.nodes[0].node, built.nodes[3].node
        stranger = built.nodes[4].node.identity

        async def asked(what: str, client: Identity, **other: object) -> int:
            """The spare is asked, by this client, with this in the note."""
            if not giver.sessions._hops:
                giver_, spare_ = spare, giver
            else:
                giver_, spare_ = giver, spare
            [hop] = giver_.sessions._hops.values()
            note = SpareNote(
                session=hop.session.id,
                epoch=hop.session.epoch,
                giver=giver_.identity.public_key,
                taker=spare_.identity.public_key,
                span=Span(0, 2),
                stop=100,
            )
            changes, signer = dict(other), client
            inside = {k: changes.pop(k) for k in list(changes) if k in SpareNote.__slots__}
            if "signer" in changes:
                signer = changes.pop("signer")
            reserve = replace(
                hop.session.reserve,
                epoch=hop.session.epoch,
                prefixes=PrefixNames(positions=(100,), digests=bytes(16)),
                handover=Handover(
                    peer=giver_.identity.peer_id,
                    addresses=tuple(map(str, giver_.addresses)),
                    note=replace(note, **inside).seal(OPEN_SWARM_ID, signer.key),
                ),
            )
            request = to_hop_bytes(replace(reserve, **changes))
            try:
                return read_held(await spare_.serving.sparing.handle(client.peer_id, request))
            except ManyhandsError as error:
                refusals.append((what, error))
                return -1

        held = {}
        async with (
            built.client() as client,
            client.generate(ask(built, max_tokens=90, spares=False)) as run,
        ):
            async for event in run:
                if isinstance(event, Token) and event.index == 3:
                    ours = client.identity
                    await asked("forged", ours, signer=stranger)
                    await asked("another taker", ours, taker=stranger.public_key)
                    await asked("another giver", ours, giver=stranger.public_key)
                    await asked("another epoch in the note", ours, epoch=5)
                    await asked("other blocks", ours, span=Span(0, 1))
                    await asked("another session", ours, session=SessionId(bytes(16)))
                    await asked("beyond its room", ours, stop=100_000)
                    shared = PrefixNames(positions=(100,), digests=bytes(16), shared=True)
                    await asked("shared", ours, prefixes=shared)
                    await asked("another model", ours, manifest=bytes(32))
                    await asked("another size", ours, n_blocks=7)
                    held["a foreign client"] = await asked("", stranger)
                    held["all is well"] = await asked("", ours)
                    held["again"] = await asked("", ours)
                    held["less than the note says"] = await asked("", ours, stop=110)
                    held["nothing"] = await asked("", ours, handover=Handover())
                    break

    assert [what for what, _ in refusals] == [
        *("forged", "another taker", "another giver", "another epoch in the note"),
        *("other blocks", "another session", "beyond its room", "shared"),
        *("another model", "another size"),
    ]
    assert held == {
        "a foreign client": 0,
        "all is well": 100,
        "again": 100,
        "less than the note says": 110,
        "nothing": 0,
    }


async def test_a_note_of_an_epoch_that_is_over_gets_nothing(model, tmp_path, network):
    async with swarm(model, tmp_path, over(network), *SPANS, *SPANS) as built:
        network.set_faults(DELAY)
        async with (
            built.client() as client,
            client.generate(ask(built, max_tokens=60, spares=False)) as run,
        ):
            async for event in run:
                if isinstance(event, Token) and event.index == 3:
                    seat = run.session.rules.hops[0].seat
                    giver, taker = node_of(built, seat.peer).node, built.nodes[4].node.identity
                    [hop] = giver.sessions._hops.values()
                    note = SpareNote(
                        session=hop.session.id,
                        epoch=hop.session.epoch,
                        giver=giver.identity.public_key,
                        taker=taker.public_key,
                        span=seat.span,
                        stop=100,
                    )
                    request = request_bytes(note.seal(OPEN_SWARM_ID, client.identity.key), 0)
                    first = await giver.serving.giving.handle(taker.peer_id, request)
                    assert Part.decode(first).stop == 100 == Part.decode(first).length
                    network.kill(run.session.rules.hops[1].peer)
                if isinstance(event, Token) and event.index == 9:
                    with pytest.raises(PeerRefused, match="another epoch"):
                        await giver.serving.giving.handle(taker.peer_id, request)
                    with pytest.raises(PeerMisbehaved):
                        await giver.serving.giving.handle(client.identity.peer_id, request)
                    break


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma2", "qwen3_next"])
async def test_other_families_are_copied_or_run_again(family, tmp_path_factory, tmp_path, network):
    """Sliding windows that forgot the beginning are copied; recurrent states cannot be."""
    directory = tmp_path_factory.mktemp(family)
    write_checkpoint(directory, family, max_position_embeddings=1024)
    prompt = PROMPT * 4
    async with swarm(add_byte_tokenizer(directory), tmp_path, over(network)) as built:
        await built.start((0, 3), (3, 6), (0, 3), (3, 6))
        expected = await undisturbed(built, prompt=prompt)
        network.set_faults(DELAY)
        before = rows_run(built)
        when = are_copied if family == "gemma2" else lambda s: len(s.rules.ids) > 615

        result, _ = await killed(built, kills(network, 0), when=when, prompt=prompt)

        new = result.route[0].peer
        rows = rows_run(built)[new] - before[new]
    assert result.token_ids == expected.token_ids
    assert (rows > 600) == (family == "qwen3_next")

"""What a client asks of its hops is kept by every hop: real nodes that refuse what is outside."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.reader import LedgerReader
from ledger.receipts import open_receipt
from ledger.verify import verify_ledger
from protocol.asking import Handover, PrefixNames
from protocol.chain_actions import Seat
from protocol.clock import wall_ms
from protocol.constraints import Constraints, Group
from protocol.errors import (
    ConstraintBroken,
    IntegrityError,
    ManyhandsError,
    SwarmIncomplete,
    VersionMismatch,
)
from protocol.handover import METHOD as HANDOVER
from protocol.handover import request_bytes
from protocol.identity import Identity, PeerId, public_key_from_peer_id
from protocol.membership.certificates import Certificate
from protocol.membership.gate import Membership
from protocol.membership.state import SwarmState
from protocol.messages import Reserve, SessionId
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.spare import SpareNote
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Client, Finished, Generation, GenerationResult, Routed, Token
from scheduler.client_tab import ClientTab
from scheduler.finder import RouteFinder
from scheduler.session import Session
from scheduler.settlement import Settlement
from scheduler.wanted import Limits
from tests.announcing import key_of
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole
from tests.membership import FOUNDER, HOUR_MS, WORKS, found
from tests.test_failover import ask
from tests.test_private_swarm import private

EU = Limits(regions=("eu",))
N = 16
DELAY = Faults(delay_s=(0.005, 0.005))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


@asynccontextmanager
async def of_two_regions(model: Path, home: Path, network: MemoryNetwork) -> AsyncIterator[Swarm]:
    """Blocks 0:3 in Europe; 3:6 in Europe twice, and across the sea."""
    async with swarm(model, home, lambda who: network.transport(who, OPEN_SWARM_ID)) as built:
        await built.start((0, 3), (3, 6), (3, 6), region="eu-west")
        await built.start((3, 6), region="us")
        yield built


def peer_of(local: LocalNode) -> PeerId:
    return local.node.identity.peer_id


def rows_at(local: LocalNode) -> int:
    return local.node.batcher.load.rows


async def answered(client: Client, built: Swarm, **what: object) -> GenerationResult:
    return await whole(client.generate(ask(built, max_tokens=N, **what)))


def asked_in(home: Path) -> list[Constraints]:
    """What the terms in a ledger say, tab by tab."""
    assert verify_ledger(home).holds
    with LedgerReader.read(home) as reader:
        receipts = [reader.receipt(entry.receipt_id) for entry in reader.entries()]
        tabs = [open_receipt(receipt, reader.swarm_id) for receipt in receipts]
    return [Constraints.decode(tab.terms.constraints) for tab in tabs]


async def test_an_answer_within_constraints_says_them_in_the_terms_of_both_sides(
    model, tmp_path, network
):
    async with of_two_regions(model, tmp_path, network) as built:
        async with built.client() as client:
            result = await answered(client, built, limits=EU)

        outside = peer_of(built.nodes[3])
        assert outside not in {step.peer for step in result.route}
        assert asked_in(tmp_path / "client") == [Constraints(regions=("eu",))] * 2
        first = next(local for local in built.nodes if peer_of(local) == result.route[0].peer)
        assert asked_in(first.home) == [Constraints(regions=("eu",))]


async def test_constraints_are_kept_when_a_hop_dies_and_another_takes_its_place(
    model, tmp_path, network
):
    async with of_two_regions(model, tmp_path, network) as built:
        network.set_faults(DELAY)
        routes: list[list[str]] = []
        asked = ask(built, max_tokens=N, limits=EU, wait_s=0.5)
        async with built.client() as client, client.generate(asked) as run:
            with pytest.raises(SwarmIncomplete, match="nobody in region eu serves blocks 3:6"):
                await _killing_second_hops(run, network, routes)

        inside = {peer_of(local) for local in built.nodes[1:3]}
        assert {route[1] for route in routes} == inside, "one after the other"
        assert rows_at(built.nodes[3]) == 0, "whoever is outside has seen no row"


async def _killing_second_hops(
    run: Generation, network: MemoryNetwork, routes: list[list[str]]
) -> None:
    async for event in run:
        if isinstance(event, Routed):
            routes.append([step.peer for step in event.route])
        if isinstance(event, Token) and event.index in (3, 9):
            network.kill(routes[-1][1])


# --- a client that does not say the same to everybody ---------------------------------------------


class TwoTongued(Session):
    """It asks something of its hops, and tells those it has chosen against that nothing of it."""

    spared: frozenset[str] = frozenset()

    def _asking(self, seat: Seat, epoch: int, prefixes: PrefixNames, handover: Handover) -> Reserve:
        reserve = super()._asking(seat, epoch, prefixes, handover)
        return replace(reserve, constraints=b"") if seat.peer in self.spared else reserve


class TwoBooks(Settlement):
    """Its tabs are as `TwoTongued` speaks."""

    def open(self, peer: str, reserve: Reserve) -> ClientTab:
        tab = super().open(peer, reserve)
        tab._constraints = self._asked if reserve.constraints else b""
        return tab


def two_tongued(
    client: Client, built: Swarm, constraints: Constraints, spared: set[str], **what: object
) -> Generation:
    """An answer over any route, asked for with these constraints."""
    session_id = SessionId(bytes(range(16)))
    request = ask(built, max_tokens=N, reuse_prefix=False, spares=False, wait_s=0.5, **what)
    settlement = TwoBooks(
        session_id, client.identity, client.swarm_id, client._books, constraints=constraints
    )
    prefixes = client._prefixes.session(session_id, request)
    finder = RouteFinder(
        request, client.transport, client._directory, client._join, client._rng, records=None
    )
    session = TwoTongued(
        request, finder, client._connections, client.identity, settlement, prefixes
    )
    session.spared = frozenset(spared)
    return Generation(session, settlement)


@pytest.mark.parametrize("constraint", ["region", "avoid", "group", "require"])
async def test_a_hop_pushes_nothing_to_a_next_hop_outside_and_says_why(
    model, tmp_path, network, constraint
):
    async with of_two_regions(model, tmp_path, network) as built:
        first, *_, outside = built.nodes
        wanted = {
            "region": Constraints(regions=("eu",)),
            "avoid": Constraints(avoid=(peer_of(outside),)),
            "group": Constraints(groups=(Group("mine", (peer_of(first),)),)),
            "require": Constraints(require=(peer_of(built.nodes[1]),)),
        }[constraint]
        chain = Limits(require=(peer_of(first), peer_of(outside)))

        async with built.client() as client:
            await client.directory()
            told = two_tongued(client, built, wanted, {peer_of(outside)}, limits=chain)
            with pytest.raises(ManyhandsError) as refused:
                await whole(told)

        error = refused.value
        assert isinstance(error, ConstraintBroken), error
        assert error.constraint == constraint
        about = built.nodes[1] if constraint == "require" else outside
        assert error.peer_id == peer_of(about)
        assert rows_at(first) == rows_at(outside) == 0, "not a single row was run or sent"


async def test_a_hop_that_is_outside_itself_refuses_before_it_has_room(model, tmp_path, network):
    async with of_two_regions(model, tmp_path, network) as built:
        outside = built.nodes[3]
        chain = Limits(require=(peer_of(outside),))

        async with built.client() as client:
            await client.directory()
            run = two_tongued(client, built, Constraints(regions=("eu",)), set(), limits=chain)
            with pytest.raises(ConstraintBroken, match="it is in region us") as refused:
                await whole(run)

        assert refused.value.peer_id == peer_of(outside)
        assert outside.node.sessions.refused == 1


async def test_constraints_that_the_client_did_not_sign_are_refused(model, tmp_path, network):
    async with of_two_regions(model, tmp_path, network) as built, built.client() as client:
        await client.directory()
        run = two_tongued(client, built, Constraints(regions=("eu",)), set())
        session = run.session
        stranger = SigningKey.generate()
        forged = Constraints(regions=("us",)).seal(session.id, OPEN_SWARM_ID, stranger)
        session._settlement.constraints = forged

        with pytest.raises(IntegrityError, match="signed by exactly"):
            await whole(run)

        assert all(rows_at(local) == 0 for local in built.nodes)


async def test_a_hop_that_leaves_them_out_of_its_terms_is_not_paid_nor_used(
    model, tmp_path, network
):
    """As one does that does not know constraints: it passes the field over."""
    async with of_two_regions(model, tmp_path, network) as built, built.client() as client:
        await client.directory()
        run = two_tongued(client, built, Constraints(regions=("eu",)), set(), limits=EU)
        session = run.session
        assert isinstance(session, TwoTongued)
        session.spared = frozenset(map(peer_of, built.nodes))  # nobody hears of them
        session._settlement.open = lambda peer, reserve: Settlement.open(  # but all must say them
            session._settlement, peer, reserve
        )

        with pytest.raises(IntegrityError, match="leave out or alter"):
            await whole(run)

        assert all(rows_at(local) == 0 for local in built.nodes)


async def test_a_hop_of_a_version_before_constraints_serves_who_asks_for_none(
    model, tmp_path, network
):
    plain = frozenset[str]()
    async with swarm(
        model, tmp_path, lambda who: network.transport(who, OPEN_SWARM_ID, features=plain)
    ) as built:
        await built.start((0, 3), (3, 6), region="eu")
        built.transport_of = lambda who: network.transport(who, OPEN_SWARM_ID)
        async with built.client() as client:
            assert len((await answered(client, built)).token_ids) == N
            with pytest.raises(VersionMismatch, match="does not know constraints"):
                await answered(client, built, limits=EU, wait_s=0.2)
        assert all(local.node.sessions.refused == 0 for local in built.nodes), "nobody asked them"


# --- while it runs --------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_neighbour_that_moves_away_in_the_middle_of_an_answer_is_left(
    model, tmp_path, network
):
    async with of_two_regions(model, tmp_path, network) as built:
        network.set_faults(Faults(delay_s=(0.05, 0.05)))
        moved: list[str] = []
        asked = ask(built, max_tokens=64, limits=EU, spares=False)
        async with built.client() as client, client.generate(asked) as run:
            async for event in run:
                if isinstance(event, Routed):
                    route = [step.peer for step in event.route]
                if isinstance(event, Token) and event.index == 3:
                    local = next(one for one in built.nodes if peer_of(one) == route[1])
                    local.node.settings = replace(local.node.settings, region="us")
                    local.node.gossip.announce()
                    moved.append(route[1])
                if isinstance(event, Finished):
                    result = event.result

        assert len(result.token_ids) == 64
        assert result.failovers >= 1
        assert moved[0] not in {step.peer for step in result.route}


async def test_rows_are_handed_to_nobody_outside_whatever_note_the_client_signed(
    model, tmp_path, network
):
    async with of_two_regions(model, tmp_path, network) as built:
        giver, outside = built.nodes[1], built.nodes[3]
        network.set_faults(DELAY)
        chain = replace(EU, require=(peer_of(giver),))
        asked = ask(built, max_tokens=N, limits=chain, spares=False)
        refused: list[ManyhandsError] = []
        async with built.client() as client, client.generate(asked) as run:
            async for event in run:
                if isinstance(event, Token) and event.index == 5:
                    session = run.session
                    note = SpareNote(
                        session=session.id,
                        epoch=session.rules.epoch,
                        giver=public_key_from_peer_id(peer_of(giver)),
                        taker=public_key_from_peer_id(peer_of(outside)),
                        span=session.rules.hops[1].seat.span,
                        stop=4,
                    )
                    sealed = session._settlement.sealed(note)
                    transport = outside.node._transport
                    connection = await transport.dial(giver.address)
                    with pytest.raises(ConstraintBroken) as error:
                        await connection.call(HANDOVER, request_bytes(sealed, 0), timeout_s=5)
                    refused.append(error.value)
                    await connection.aclose()

        assert isinstance(refused[0], ConstraintBroken)
        assert (refused[0].constraint, refused[0].peer_id) == ("region", peer_of(outside))
        assert giver.node.serving.giving.spare_bytes_given == 0


# --- trust groups of a swarm with members ---------------------------------------------------------


class Certifying:
    """A founder who puts every other peer that asks into the group `lab`."""

    def __init__(self, groups: list[set[str]]) -> None:
        self.state = SwarmState(found())
        self.groups = groups

    def membership_of(self, identity: Identity) -> Membership:
        now_ms = wall_ms()
        certificate = Certificate(
            peer=identity.public_key,
            roles=WORKS,
            issued_ms=now_ms,
            expires_ms=now_ms + HOUR_MS,
            groups=frozenset(self.groups.pop(0)),
        )
        credential = certificate.seal(self.state.swarm_id, key_of(FOUNDER)).encode()
        return Membership(SwarmState(self.state.founding), credential)


async def test_a_trust_group_is_who_the_swarm_certifies_whatever_anybody_announces(model, tmp_path):
    society = Certifying([{"lab"}, {"lab", "night"}, set(), set()])
    async with private(model, tmp_path, society, (0, 3), (3, 6)) as built:  # type: ignore[arg-type]
        await built.start((3, 6), group="lab")  # which says so, and shows nothing
        lab = Limits(groups=(Group("lab"),))
        async with built.client() as client:
            result = await answered(client, built, limits=lab)
            assert [step.peer for step in result.route] == [peer_of(n) for n in built.nodes[:2]]

            said = built.nodes[2]
            chain = two_tongued(
                client,
                built,
                Constraints(groups=(Group("lab"),)),
                {peer_of(said)},
                limits=Limits(
                    groups=(Group("lab", (peer_of(built.nodes[0]), peer_of(said))),),
                ),
            )
            with pytest.raises(ConstraintBroken, match="nothing shows that it is in group lab"):
                await whole(chain)
        assert rows_at(said) == 0

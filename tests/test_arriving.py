"""Nodes that load are counted by those that choose blocks meanwhile, and by nobody else."""

import asyncio
from pathlib import Path

import pytest

from manyhands.arriving import Arrival, arriving
from manyhands.coverage import hosts_per_block
from manyhands.home import Home
from manyhands.local import free_ports
from manyhands.models import find_model
from manyhands.party import Party, open_party
from manyhands.placing import Placing, Servable
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import BadModel, PeerBusy
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from tests import gossiping
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm

SETTLE_S = 0.3
ANYWHERE = ("127.0.0.1", 0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def built(directory: Path, tmp_path: Path):
    """A node with blocks 0:2 of 6, over real sockets."""

    def over_sockets(identity):
        return GrpcTransport(identity, OPEN_SWARM_ID)

    async with swarm(directory, tmp_path, over_sockets, (0, 2)) as made:
        yield made


def alike(built: Swarm, home: Path) -> list[tuple[Party, Placing]]:
    """Two newcomers for 2 blocks each that would choose the same ones: of three, two must."""
    servable = Servable(model=find_model(str(built.directory)), capacity_blocks=2)
    live = built.nodes[0].node.announcements()
    by_span: dict[Span, list[tuple[Party, Placing]]] = {}
    for n in range(9):
        party = open_party(Home.at(home / f"home-{n}"), "node")
        placing = Placing(choices=(servable,), peer_id=party.peer_id, region="")
        pair = by_span.setdefault(placing.first(live)[1], [])
        pair.append((party, placing))
        if len(pair) == 2:
            return pair
    raise AssertionError("newcomers choose at random")


def loading(built: Swarm) -> dict[str, Span | None]:
    table = built.nodes[0].node.gossip.table
    return {one.peer_id: one.loading for one in table.loading(wall_ms())}


async def test_two_that_choose_at_once_take_different_blocks(built: Swarm, tmp_path: Path):
    pair = alike(built, tmp_path)
    join = (built.nodes[0].address,)

    chosen = await asyncio.gather(
        *(Arrival(party, join, settle_s=SETTLE_S).choose(placing) for party, placing in pair)
    )

    spans = [span for _, span in chosen]
    assert sorted(spans) == [Span(2, 4), Span(4, 6)]
    assert loading(built) == {
        party.peer_id: span for (party, _), span in zip(pair, spans, strict=True)
    }
    first = built.nodes[0].node
    assert [one.peer_id for one in first.announcements()] == [first.peer_id], "none serves yet"


async def test_one_that_comes_while_another_loads_takes_other_blocks(built: Swarm, tmp_path: Path):
    (early, late), join = alike(built, tmp_path), (built.nodes[0].address,)
    _, taken = await Arrival(early[0], join, settle_s=SETTLE_S).choose(early[1])

    _, span = await Arrival(late[0], join, settle_s=SETTLE_S).choose(late[1])

    assert {taken, span} == {Span(2, 4), Span(4, 6)}


async def test_who_was_told_what_to_serve_gives_way_to_nobody(built: Swarm, tmp_path: Path):
    (auto, placing), (told, _) = alike(built, tmp_path)
    join, chosen = (built.nodes[0].address,), placing.choices[0]
    _, wanted = placing.first(built.nodes[0].node.announcements())

    async def comes_later() -> None:
        await asyncio.sleep(0.1)
        await Arrival(told, join).tell(chosen, wanted, "")

    (_, span), _ = await asyncio.gather(
        Arrival(auto, join, settle_s=4 * SETTLE_S).choose(placing), comes_later()
    )

    assert {wanted, span} == {Span(2, 4), Span(4, 6)}


async def test_what_cannot_be_loaded_is_taken_back(built: Swarm, tmp_path: Path):
    party, placing = alike(built, tmp_path)[0]
    loop, seen = asyncio.get_running_loop(), []

    async def heard() -> None:
        await gossiping.until(lambda: bool(loading(built)), timeout_s=5)
        seen.extend(loading(built).values())

    def fail() -> None:
        with arriving(party, (built.nodes[0].address,), ANYWHERE) as arrival:
            arrival.tell(placing.choices[0], Span(2, 4), "")
            asyncio.run_coroutine_threadsafe(heard(), loop).result()
            raise BadModel("its weights are damaged")

    with pytest.raises(BadModel):
        await asyncio.to_thread(fail)

    assert seen == [Span(2, 4)]
    await gossiping.until(lambda: not loading(built), timeout_s=5)


async def test_a_newcomer_that_nobody_answers_chooses_all_the_same(built: Swarm, tmp_path: Path):
    party, placing = alike(built, tmp_path)[0]
    await built.stop(built.nodes[0])

    arrival = Arrival(party, (built.nodes[0].address,), settle_s=0.01, patience_s=0.01)
    _, span = await arrival.choose(placing)

    assert len(span) == 2


@pytest.mark.parametrize("first_s", [0.0, 0.7])
async def test_the_first_nodes_of_a_swarm_take_different_blocks(
    directory: Path, tmp_path: Path, first_s: float
):
    """Seven at once, who know where one of them will listen, which may come later; of 6 blocks
    each takes 2."""
    servable = Servable(model=find_model(str(directory)), capacity_blocks=2)
    parties = [open_party(Home.at(tmp_path / f"home-{n}"), "node") for n in range(7)]
    [port] = free_ports(1)
    join = (Address("127.0.0.1", port, parties[0].peer_id),)

    async def arrive(party: Party) -> Span:
        is_first = party is parties[0]
        await asyncio.sleep(first_s if is_first else 0.0)
        arrival = Arrival(party, () if is_first else join, settle_s=2 * SETTLE_S)
        placing = Placing(choices=(servable,), peer_id=party.peer_id, region="")
        async with arrival.listening("127.0.0.1", port if is_first else 0):
            _, span = await arrival.choose(placing)
            await done.wait()
        return span

    done = asyncio.Barrier(7)
    spans = await asyncio.gather(*map(arrive, parties))

    hosts = hosts_per_block(spans, 6)
    assert (min(hosts), max(hosts)) == (2, 3), spans


async def test_a_node_that_arrives_gossips_and_tells_all_other_callers_to_come_again(
    tmp_path: Path,
):
    party, caller = (open_party(Home.at(tmp_path / name), "node") for name in ("late", "other"))
    [port] = free_ports(1)
    transport = caller.transport()

    async with Arrival(party, ()).listening("127.0.0.1", port):
        connection = await transport.dial(Address("127.0.0.1", port, party.peer_id))
        await connection.call("ping", b"", timeout_s=5)
        with pytest.raises(PeerBusy, match="starting"):
            await connection.call("status", b"", timeout_s=5)
        with pytest.raises(PeerBusy, match="starting"):
            await (await connection.open("control", timeout_s=5)).receive()
        await connection.aclose()

"""A price is what was signed: whatever a node's offer becomes, or was, when a session begins."""

from dataclasses import replace
from pathlib import Path

import pytest

from ledger.meter import Rates
from ledger.reader import LedgerReader
from ledger.receipts import open_receipt
from ledger.verify import verify_ledger
from node.settings import NodeSettings
from protocol.clock import wall_ms
from protocol.errors import ConfigError
from protocol.transport.memory import MemoryNetwork
from scheduler import Token
from tests.local_swarm import LocalNode, swarm, whole
from tests.test_max_cost import AT_CHEAP, CHEAP, DEAR, asking, model, network, over

__all__ = ["model", "network"]  # fixtures
DAY_MS = 86_400_000


def reprice(node: LocalNode, rates: Rates) -> None:
    """As a node that makes its next offer at another price."""
    offers = node.node.serving.offer
    offers._terms = replace(offers._terms, rates=rates)
    offers._current = None


async def test_40_a_session_goes_on_at_the_price_it_began_with(
    model: Path, network: MemoryNetwork, tmp_path: Path
):
    async with swarm(model, tmp_path, over(network)) as built:
        [node] = await built.start((0, 6), rates=CHEAP)
        async with built.client() as client:
            async with client.generate(asking(built)) as running:
                async for event in running:
                    if isinstance(event, Token) and event.index == 2:
                        reprice(node, DEAR)
            cost = running.cost_ncr
        cheap = [cost]

    with LedgerReader.read(tmp_path / "client") as reader:
        [entry] = reader.entries()
        tab = open_receipt(reader.receipt(entry.receipt_id), reader.swarm_id)
    assert tab.offer.rates == CHEAP
    assert 0 < cheap[0] == tab.amount <= AT_CHEAP
    assert verify_ledger(tmp_path / "client", None).holds


async def test_who_asks_more_than_it_announced_is_left_and_remembered(
    model: Path, network: MemoryNetwork, tmp_path: Path
):
    """Bait and switch: announced at one price, its terms at another."""
    async with swarm(model, tmp_path, over(network)) as built:
        bait, honest = await built.start((0, 6), (0, 6), rates=CHEAP)
        serving = bait.node.serving
        told = serving.offer()
        reprice(bait, DEAR)
        serving.offer = lambda: told  # what it tells everybody; its terms cite the other one
        built.nodes.reverse()  # clients ask the honest one for the table first
        results, believed = [], {}
        for n in range(30):  # whom a client that knows nobody tries first is drawn
            async with built.client(f"client-{n}") as client:
                results.append(await whole(client.generate(asking(built))))
                live = (await client.directory()).live()
                believed = client.records.risk_ms(live, wall_ms() / 1000)
            if bait.node.identity.peer_id in believed:
                break

    honest_id, bait_id = (n.node.identity.peer_id for n in (honest, bait))
    assert {step.peer for result in results for step in result.route} == {honest_id}
    assert all(result.cost_ncr <= AT_CHEAP for result in results)
    assert believed.get(bait_id, 0.0) > believed.get(honest_id, 0.0)


@pytest.mark.parametrize("days", [-2, 2])
async def test_40_offers_of_another_day_are_agreed_to_by_nobody(
    model: Path, network: MemoryNetwork, tmp_path: Path, days: int
):
    async with swarm(model, tmp_path, over(network)) as built:
        odd, right = await built.start((0, 6), (0, 6), rates=CHEAP)
        odd.node.serving.offer._now_ms = lambda: wall_ms() + days * DAY_MS
        odd.node.serving.offer._current = None
        async with built.client() as client:
            results = [await whole(client.generate(asking(built))) for _ in range(4)]

    peers = {step.peer for result in results for step in result.route}
    assert peers == {right.node.identity.peer_id}


def test_an_offer_holds_ten_minutes_whenever_it_is_read():
    with pytest.raises(ConfigError, match="too few sessions"):
        NodeSettings(offer_lifetime_s=1199)

"""A provider that counts what it did not do, and a client that stops paying: over real sockets,
neither costs the other more than the window, and both find it in their books."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ledger.disputes import Dispute, disputes
from ledger.meter import Meter, Rates
from ledger.reader import LedgerReader
from ledger.statements import EVERYTHING
from node.metering import SessionMeter
from protocol.errors import PeerMisbehaved
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from tests.checkpoints import write_checkpoint
from tests.gossiping import until
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm, whole
from tests.node.test_unpaid import PROMPT, opened, until_unpaid

RATES = Rates(decode_tl=5_000_000_000)  # a window of 100,000 ncr is three tokens
NCR = 5_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def priced(model: Path, tmp_path: Path) -> AsyncIterator[Swarm]:
    async with swarm(
        model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID)
    ) as built:
        await built.start((0, 6), rates=RATES)
        yield built


class Liar(SessionMeter):
    """States `more` than it ran, from the first statement on, and believes it."""

    more = Meter()
    states = False

    @property
    def usage(self):
        honest = super().usage
        return Padded(honest, self.more) if self.states else honest

    def statement(self) -> bytes:
        self.states = True
        try:
            return super().statement()
        finally:
            self.states = False


class Padded:
    def __init__(self, usage, more: Meter) -> None:
        self._usage, self._more = usage, more

    def meter(self) -> Meter:
        return self._usage.meter() + self._more


async def found(books) -> list[Dispute]:
    return books.ask(lambda ledger: list(disputes(ledger, EVERYTHING))).result()


async def test_34_a_meter_inflated_by_one_is_not_signed_and_stands_in_both_books(
    priced, monkeypatch
):
    monkeypatch.setattr(Liar, "more", Meter(decode_tl=1))
    monkeypatch.setattr("node.sessions.SessionMeter", Liar)
    (node,) = priced.nodes
    async with priced.client() as client:
        request = priced.request(PROMPT, max_tokens=8, ignore_eos=True)
        result = await whole(client.generate(request))
        await until(lambda: node.books.ask(len).result() == 1, timeout_s=5)

        (ours,), (theirs,) = await found(client._books), await found(node.books)

    assert len(result.token_ids) == 8
    assert (ours.is_ours, theirs.is_ours) == (False, True)
    for dispute in (ours, theirs):
        assert (dispute.signed, dispute.claimed) == (7 * 6 * NCR, (7 * 6 + 1) * NCR)
        assert dispute.more == Meter(decode_tl=1)


async def test_34_a_claim_beyond_the_window_ends_the_hop_at_its_first_statement(
    priced, monkeypatch
):
    monkeypatch.setattr(Liar, "more", Meter(decode_tl=6 * 10))
    monkeypatch.setattr("node.sessions.SessionMeter", Liar)
    async with priced.client() as client:
        request = priced.request(PROMPT, max_tokens=60, ignore_eos=True, wait_s=0.1)
        with pytest.raises(PeerMisbehaved, match="for work that we saw"):
            await whole(client.generate(request))
        mine = await found(client._books)
        assert mine
        assert all(each.claimed - each.signed > each.tab.terms.credit_window for each in mine)
        assert all(each.signed <= 3 * 6 * NCR for each in mine), "it was found within a window"
        assert client.records.n_misbehaved >= 1


async def test_32_a_client_that_stops_paying_costs_a_window_and_is_in_the_providers_books(priced):
    (node,) = priced.nodes
    async with priced.client() as client:
        stream, _ = await opened(priced, client)
        await until_unpaid(stream)
        await priced.stop(node)  # else it waits ten seconds for a voucher

    with LedgerReader.read(node.home) as reader:
        (dispute,) = disputes(reader, EVERYTHING)
    assert (dispute.is_ours, dispute.signed) == (True, 0)
    assert 0 < dispute.claimed <= dispute.tab.terms.credit_window == 100_000

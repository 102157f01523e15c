"""24 and 25: what a client promised elsewhere pays for nothing here. Over real sockets, a client
shows a node vouchers of another tab, swarm and type, and an older one after a newer one."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.meter import Rates
from ledger.objects import Voucher
from ledger.reader import LedgerReader
from ledger.receipts import open_receipt
from protocol.canonical import decode
from protocol.chain_actions import Stretch
from protocol.codec import to_client_message, to_hop_bytes
from protocol.messages import Account, Failure, Pay, TokenEvent
from protocol.signing import OPEN_SWARM_ID, Envelope
from protocol.transport import Stream
from protocol.transport.grpc import GrpcTransport
from scheduler import Client
from scheduler.client_tab import ClientTab
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm
from tests.node.test_unpaid import PROMPT, opened, until_progress, until_unpaid

NCR_A_TOKEN = 6 * 5_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def priced(model: Path, tmp_path: Path) -> AsyncIterator[Swarm]:
    async with swarm(
        model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID)
    ) as built:
        await built.start((0, 6), rates=Rates(decode_tl=5_000_000_000))
        yield built


@dataclass
class Unpaid:
    """A session that waits for its first voucher, and the one that would pay for all it ran."""

    stream: Stream
    tab: ClientTab
    n_tokens: int
    due: Envelope

    @classmethod
    async def begin(cls, priced: Swarm, client: Client) -> "Unpaid":
        stream, tab = await opened(priced, client)
        heard = await until_unpaid(stream) + await until_progress(stream, 1)
        tab.hear([each for each in heard if isinstance(each, Account)][-1].statement)
        n_tokens = sum(isinstance(each, TokenEvent) for each in heard)
        voucher = tab.voucher([Stretch(0, len(PROMPT) + n_tokens - 1, len(PROMPT))], now=True)
        assert voucher is not None
        return cls(stream, tab, n_tokens, Envelope.decode(voucher))

    def show(self, voucher: Envelope) -> None:
        self.stream.send(to_hop_bytes(Pay(voucher=voucher.encode())))

    async def rest(self) -> list[object]:
        """All that the hop says until its last statement: what it ran unpaid."""
        heard: list[object] = []
        while not (heard and isinstance(heard[-1], Account) and heard[-1].final):
            heard.append(to_client_message(await self.stream.receive()))
        return heard


def elsewhere(due: Envelope, client: Client) -> Envelope:
    """The same promise, signed for another swarm."""
    return Voucher.from_fields(decode(due.payload)).seal(bytes(31) + b"\x01", client.identity.key)


def otherwise(due: Envelope, client: Client) -> Envelope:
    """The same bytes, called something else."""
    return Envelope("mh/statement/1", due.payload, due.signatures)


@pytest.mark.parametrize("forge", [elsewhere, otherwise])
async def test_24_a_voucher_for_another_swarm_or_of_another_type_pays_for_nothing(priced, forge):
    (node,) = priced.nodes
    async with priced.client() as client:
        session = await Unpaid.begin(priced, client)
        session.show(forge(session.due, client))

        heard = await session.rest()

    assert isinstance(heard[0], Failure)
    assert not any(isinstance(each, TokenEvent) for each in heard)
    await priced.stop(node)
    assert promised(node.home) == [0]


async def test_24_a_voucher_of_another_tab_of_the_same_two_pays_for_nothing(priced):
    (node,) = priced.nodes
    async with priced.client() as client:
        first, second = [await Unpaid.begin(priced, client) for _ in range(2)]
        second.show(first.due)

        heard = await second.rest()

    assert isinstance(heard[0], Failure)
    assert not any(isinstance(each, TokenEvent) for each in heard)
    await priced.stop(node)
    assert promised(node.home) == [0, 0]


async def test_25_an_older_voucher_after_a_newer_one_lowers_nothing(priced):
    (node,) = priced.nodes
    async with priced.client() as client:
        session = await Unpaid.begin(priced, client)
        session.show(session.due)
        more = await until_unpaid(session.stream) + await until_progress(session.stream, 1)
        n_tokens = session.n_tokens + sum(isinstance(each, TokenEvent) for each in more)
        session.tab.hear([each for each in more if isinstance(each, Account)][-1].statement)
        whole = [Stretch(0, len(PROMPT) + n_tokens - 1, len(PROMPT))]
        newer = session.tab.voucher(whole, now=True)
        assert newer is not None
        session.show(Envelope.decode(newer))
        for _ in range(3):
            session.show(session.due)
        await until_unpaid(session.stream)  # it went on by the newer one, and runs up to its window

    await priced.stop(node)
    assert promised(node.home) == [(n_tokens - 1) * NCR_A_TOKEN]


def promised(home: Path) -> list[int]:
    """What the node has of each tab, and that it holds."""
    with LedgerReader.read(home) as reader:
        receipts = [reader.receipt(entry.receipt_id) for entry in reader.entries()]
        return [open_receipt(each, reader.swarm_id).amount for each in receipts]

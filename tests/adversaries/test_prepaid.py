"""Nodes that ask for something ahead, over real sockets: who allows it is served and risks no more
than that; a provider that takes it and vanishes keeps that and nothing else (test 33)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ledger.meter import Rates
from ledger.receipts import open_receipt
from protocol.errors import ManyhandsError, SwarmIncomplete
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from scheduler.wanted import Limits
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm, whole

NCR = 1_000
RATES = Rates(prefill_tl=NCR * 1_000_000, decode_tl=NCR * 1_000_000)
AHEAD = 90 * NCR


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def priced(model: Path, tmp_path: Path) -> AsyncIterator[Swarm]:
    async with swarm(
        model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID)
    ) as built:
        await built.start((0, 6), rates=RATES, prepaid_ncr=AHEAD)
        yield built


def asking(priced: Swarm, n_tokens: int, ahead: int = AHEAD, **more: object):
    limits = Limits(max_prepaid=ahead)
    return priced.request([1, 2, 3], max_tokens=n_tokens, ignore_eos=True, limits=limits, **more)


def spent(client) -> list[int]:
    """What each tab in its log came to, signatures and all."""

    def read(ledger) -> list[int]:
        receipts = [ledger.receipt(entry.receipt_id) for entry in ledger.entries()]
        return [open_receipt(receipt, OPEN_SWARM_ID).amount for receipt in receipts]

    return client._books.ask(read).result()


async def test_who_allows_it_is_served_and_pays_that_at_least(priced):
    async with priced.client() as client:
        short = await whole(client.generate(asking(priced, 2)))
        long = await whole(client.generate(asking(priced, 40)))

        assert (len(short.token_ids), len(long.token_ids)) == (2, 40)
        least, most = spent(client)
        assert least == AHEAD
        assert 42 * 6 * NCR <= most <= 42 * 6 * NCR + AHEAD


async def test_who_does_not_allow_it_is_told_what_is_asked_and_pays_nothing(priced):
    async with priced.client() as client:
        with pytest.raises(SwarmIncomplete, match="ncr ahead or less") as refused:
            await whole(client.generate(asking(priced, 2, ahead=AHEAD - 1, wait_s=0.1)))

        assert f"asks {AHEAD}: --max-prepaid" in refused.value.hint
        assert spent(client) == []


async def test_33_a_provider_that_takes_it_and_vanishes_has_that_and_no_more(priced, monkeypatch):
    monkeypatch.setattr("node.metering.SessionMeter.may_run", lambda *_: False)
    async with priced.client() as client:
        with pytest.raises(ManyhandsError):
            await whole(client.generate(asking(priced, 5, timeout_s=2.0)))

        assert spent(client) == [AHEAD]

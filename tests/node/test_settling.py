"""A node that waits for witnesses goes on answering those who come to settle."""

import asyncio

import pytest

from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Cosigned
from ledger.errors import DamagedLedger
from ledger.merkle import EMPTY_ROOT
from ledger.settle_desk import SettleDesk
from ledger.settle_words import TABS, Asked, Page
from ledger.spend_books import SpendBooks
from node.settling import Settling
from protocol.errors import PeerBusy
from protocol.identity import peer_id_from_public_key
from tests.ledger.spenders import ANN, ASSET, BEN, SWARM, credit_note
from tests.ledger.test_funding import POLICY
from tests.ledger.test_settle_visit import Side

NOW_S = 1_790_000_000


class HangingCosigners:
    def __init__(self):
        self.asked = asyncio.Event()

    async def check(self, log):
        pass

    async def cosign(self, log):
        self.asked.set()
        await asyncio.Event().wait()


class NoDesk(SettleDesk):
    def __init__(self, error):
        self._error = error

    def answer(self, payer, request):
        raise self._error


@pytest.mark.parametrize("error", [DamagedLedger("torn"), PeerBusy("", "it grew meanwhile")])
async def test_a_disk_of_ours_that_breaks_is_held_against_nobody_who_settles(tmp_path, error):
    with SpendBooks.open(tmp_path, SWARM, POLICY.quorum()) as books:
        node = Settling(NoDesk(error), books, POLICY, None, clock=lambda: 0)

        with pytest.raises(type(error)):
            await node.calls["settle"](peer_id_from_public_key(ANN.public_key), b"any")


async def test_payers_are_answered_while_witnesses_are_waited_for(tmp_path):
    Side(tmp_path, BEN)
    epoch = POLICY.epoch_of(NOW_S * 1000)
    desk = SettleDesk(tmp_path, BEN, SWARM, POLICY, lambda: epoch, lambda receipt: None)
    desk.spend_log().append(credit_note(BEN, bytes(16), 1))  # an entry, to be cosigned
    head = Checkpoint(origin(SWARM, BEN.public_key, "spend"), 0, EMPTY_ROOT)
    witnesses = HangingCosigners()
    with SpendBooks.open(tmp_path, SWARM, POLICY.quorum()) as books:
        books.hear_time(Cosigned(head, (NOW_S,), True))
        node = Settling(desk, books, POLICY, witnesses, clock=lambda: NOW_S * 1000)
        running = asyncio.create_task(node.run())
        await asyncio.wait_for(witnesses.asked.wait(), 10)

        peer = peer_id_from_public_key(ANN.public_key)
        asked = node.calls["settle"](peer, Asked(TABS, epoch, ASSET).encode())
        told = await asyncio.wait_for(asked, 5)

        assert Page.decode(told) == Page((), True)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    desk.close()

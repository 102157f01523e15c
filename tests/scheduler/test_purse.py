"""A client's purse, when many sessions want parts of allotments at once."""

import asyncio
import threading
import time

from ledger.wallet import Wallet
from scheduler.purse import ClientPurse
from tests.ledger.conftest import books, memory_path
from tests.ledger.spenders import ANN, ASSET, BEN, CY, SWARM
from tests.ledger.test_funding import POLICY
from tests.ledger.test_spend_log import ask
from tests.ledger.test_wallet import granted

__all__ = ["books", "memory_path"]
WANTS = {BEN.public_key: 10, CY.public_key: 20}


class SlowCosigners:
    """The witnesses of the tests, who take their time."""

    def __init__(self, books):
        self._books = books

    async def meanwhile(self):
        await asyncio.sleep(0.002)

    async def check(self, log):
        pass

    async def cosign(self, log):
        signed = ask(log, self._books)
        await self.meanwhile()
        return signed


async def test_sessions_that_come_at_once_all_get_their_parts(memory_path, books):
    with Wallet.open(memory_path / "ann", ANN, SWARM, POLICY) as wallet:
        granted(wallet, 10**6)
        purse = ClientPurse(wallet, POLICY, SlowCosigners(books))

        async def session(number):
            await asyncio.sleep(0.001 * (number % 7))
            return await purse.stakes(WANTS, ASSET)

        taken = await asyncio.gather(*(session(number) for number in range(40)))

        assert all(set(stakes) == {BEN.public_key, CY.public_key} for stakes in taken)
        used = {}
        for stakes in taken:
            for stake in stakes.values():
                used[stake.oid] = used.get(stake.oid, 0) + stake.amount
        amounts = {oid: made.amount for oid, made in wallet.made()}
        assert all(used[oid] <= amounts[oid] for oid in used)


async def test_parts_that_are_taken_for_a_session_that_is_cancelled_are_free_again(
    memory_path, books, monkeypatch
):
    with Wallet.open(memory_path / "ann", ANN, SWARM, POLICY) as wallet:
        granted(wallet, 10**6)
        purse = ClientPurse(wallet, POLICY, SlowCosigners(books))
        await purse.settle(dict.fromkeys((await purse.stakes(WANTS, ASSET)).values(), 0))
        take, begun = wallet.take, threading.Event()

        def slowly(*args):
            begun.set()
            time.sleep(0.05)
            return take(*args)

        monkeypatch.setattr(wallet, "take", slowly)
        session = asyncio.create_task(purse.stakes(WANTS, ASSET))
        await asyncio.to_thread(begun.wait)
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)

        assert session.cancelled()
        assert wallet._store.execute("SELECT count(*) FROM stake") == [(0,)]

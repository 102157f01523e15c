"""A client's purse, when many sessions want parts of allotments at once."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from ledger.epochs import epoch_now
from ledger.wallet import AHEAD_EPOCHS, Wallet
from protocol.errors import NoQuorum
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
            time.sleep(0.05)  # a disk that takes its time, in a thread of its own
            return take(*args)

        monkeypatch.setattr(wallet, "take", slowly)
        session = asyncio.create_task(purse.stakes(WANTS, ASSET))
        await asyncio.to_thread(begun.wait)
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)

        assert session.cancelled()
        assert wallet._store.execute("SELECT count(*) FROM stake") == [(0,)]


class TimedCosigners(SlowCosigners):
    """Witnesses that also say what time it is, or do not answer."""

    def __init__(self, books, epoch):
        super().__init__(books)
        self.epoch, self.n_asked = epoch, 0

    async def cosign(self, log):
        self.n_asked += 1
        if self.epoch is None:
            raise NoQuorum("", "nobody answers")
        times = (self.epoch * POLICY.epoch_s + 5,) * 3
        return replace(await super().cosign(log), times_s=times)


@pytest.mark.parametrize("off_epochs", [-3, 3])
async def test_41_by_a_clock_that_is_off_witnesses_are_asked_and_they_alone_are_believed(
    memory_path, books, off_epochs
):
    with Wallet.open(memory_path / "ann", ANN, SWARM, POLICY) as wallet:
        granted(wallet, 10**6)
        now = epoch_now(POLICY, wallet.books, 0)
        witnesses = TimedCosigners(books, now + 1)
        wrong_ms = (now + 1 + off_epochs) * POLICY.epoch_s * 1000
        purse = ClientPurse(wallet, POLICY, witnesses, clock=lambda: wrong_ms)

        await purse.settle(dict.fromkeys((await purse.stakes(WANTS, ASSET)).values(), 0))
        told = witnesses.n_asked
        await purse.stakes(WANTS, ASSET)

        assert witnesses.n_asked == told  # not at each session
        heard = now + 1 if off_epochs > 0 else now
        assert {made.expires_epoch for _, made in wallet.made()} == {heard + AHEAD_EPOCHS}


async def test_without_a_witness_what_was_set_aside_is_shown_on(memory_path, books):
    with Wallet.open(memory_path / "ann", ANN, SWARM, POLICY) as wallet:
        granted(wallet, 10**6)
        now = epoch_now(POLICY, wallet.books, 0)
        witnesses = TimedCosigners(books, now)
        clock = [now * POLICY.epoch_s * 1000]
        purse = ClientPurse(wallet, POLICY, witnesses, clock=lambda: clock[0])
        await purse.settle(dict.fromkeys((await purse.stakes(WANTS, ASSET)).values(), 0))
        witnesses.epoch, clock[0] = None, clock[0] + 9 * POLICY.epoch_s * 1000

        taken = await purse.stakes(WANTS, ASSET)

        assert set(taken) == set(WANTS)
        assert len(wallet.made()) == 2  # none anew: the payees say whether these are over

"""Where an account writes its spend log: what is known before an entry is made."""

from types import SimpleNamespace

from ledger.epochs import epoch_now
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from ledger.spending import Allotment
from manyhands.crediting.desk import Desk
from tests.ledger.conftest import books, memory_path
from tests.ledger.spenders import ANN, ASSET, BEN, SWARM
from tests.ledger.test_funding import POLICY
from tests.scheduler.test_purse import TimedCosigners

__all__ = ["books", "memory_path"]


class Met:
    """A swarm of witnesses alone."""

    def __init__(self, cosigners):
        self._cosigners = cosigners

    def panel(self):
        return self._cosigners

    async def hear(self, books):
        pass

    async def publish(self, log):
        return {}


async def test_41_an_account_hears_what_time_it_is_before_it_dates_its_first_entry(
    memory_path, books
):
    party = SimpleNamespace(policy=POLICY, swarm_id=SWARM, identity=SimpleNamespace(key=ANN))
    with (
        SpendLog.open(memory_path / "ann", ANN, SWARM) as log,
        SpendBooks.open(memory_path / "ann", SWARM, POLICY.quorum()) as known,
    ):
        desk = Desk(party, log, known, Met(TimedCosigners(books, 700_000)))

        def make(number):
            return Allotment(
                payer=ANN.public_key,
                asset=ASSET,
                payee=BEN.public_key,
                allot_no=number,
                amount=5,
                expires_epoch=epoch_now(POLICY, known, 0),
            )

        written = await desk.write(make)

        assert log.holds(written.oid)
        assert epoch_now(POLICY, known, 0) == 700_000
        sealed = make(0).seal(SWARM, ANN)
        assert sealed.object_id(SWARM) == written.oid

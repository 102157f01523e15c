"""A key that pays for an account whose owner is elsewhere, within its scope, its days, its exposure
(test 49 of the design). Real nodes and clients over real sockets; see `tests/granted.py`.
"""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ledger.collecting import collections, open_collection
from ledger.key_events import DELEGATE, REVOKE, Delegation, KeyEvent, incept
from ledger.key_state import fold
from ledger.log import Ledger
from ledger.meter import Rates
from ledger.policy import OPEN_POLICY
from ledger.receipts import open_receipt
from ledger.spend_log import SpendLog
from ledger.spending import Allotment
from ledger.verify import verify_ledger
from manyhands.crediting.settle import due_of, settle_all
from manyhands.home import Home
from manyhands.party import Party
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError
from protocol.identity import Identity
from protocol.signing import SigningKey
from tests.checkpoints import write_checkpoint
from tests.granted import ISSUER, granted_swarm
from tests.local_swarm import add_byte_tokenizer, whole
from tests.test_failover import ask

PRICED = Rates(prefill_tl=1_000_000_000, decode_tl=5_000_000_000)
PLENTY = 20_000_000
OWNER, CLERK = (Identity(SigningKey.from_seed(bytes([n]) * 32)) for n in (71, 72))
NEXT = SigningKey.from_seed(bytes([73]) * 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


class Owner:
    """An account whose key lies elsewhere: it sets credit aside, and says who may promise it."""

    def __init__(self, built, home: Home, log: SpendLog) -> None:
        self.built, self.home, self.log = built, home, log
        _, first = incept(OWNER.key, NEXT.public_key, built.swarm_id)
        self.events = [first]

    async def write(self, *objects) -> None:
        self.log.append(*(each.seal(self.built.swarm_id, OWNER.key) for each in objects))
        await self.built.cosigners.cosign(self.log)

    async def lets(self, *, exposure=PLENTY, days=2, scopes=("pay",)) -> None:
        until = OPEN_POLICY.epoch_of(wall_ms()) + days
        await self.event(DELEGATE, delegate=Delegation(CLERK.public_key, scopes, until, exposure))

    async def event(self, op, **fields) -> None:
        state = fold(self.events, self.built.swarm_id)
        event = KeyEvent(
            account=state.account, seq=state.n_events, prev_oid=state.head_oid, op=op, **fields
        )
        self.events.append(event.seal(self.built.swarm_id, OWNER.key))
        fresh = [e for e in self.events if not self.log.holds(e.object_id(self.built.swarm_id))]
        self.log.append(*fresh)
        await self.built.cosigners.cosign(self.log)

    async def allot(self, amount: int) -> None:
        """Until the epoch after this one, by the witnesses' time."""
        now_ms = wall_ms() + 1000 * self.built.cosigners.ahead_s
        await self.write(
            *(
                Allotment(
                    payer=OWNER.public_key,
                    asset=ISSUER.public_key,
                    payee=local.node.identity.public_key,
                    allot_no=len(self.log) + n,
                    amount=amount,
                    expires_epoch=self.built.policy.epoch_of(now_ms) + 1,
                )
                for n, local in enumerate(self.built.nodes)
            )
        )


@asynccontextmanager
async def owned(model, place, *spans):
    """A swarm, an owner with credit that it set aside, and nobody who may promise it yet."""
    async with granted_swarm(model, place, *(spans or ((0, 6),)), rates=PRICED) as built:
        await built.grant(OWNER.key, PLENTY)
        home = Home(place / "owner")
        with SpendLog.open(home.client, OWNER.key, built.swarm_id) as log:
            owner = Owner(built, home, log)
            await owner.allot(4_000_000)
            built.pays_from[CLERK.public_key] = log
            yield built, owner


async def test_49_a_delegated_key_pays_for_its_account_and_everybody_can_check_that_it_might(
    model, tmp_path
):
    async with owned(model, tmp_path, (0, 3), (3, 6)) as (built, owner):
        await owner.lets()
        async with built.client(identity=CLERK) as client:
            answer = await whole(client.generate(ask(built, max_tokens=8)))

        assert answer.cost_ncr > 0
        for local in built.nodes:
            books = built.books[local.node.identity.public_key]
            assert books.exposed(OWNER.public_key, CLERK.public_key) > 0
            funded = [a for a in books.books().allotted.values() if a.claimed]
            assert [each.payer for each in funded] == [OWNER.public_key]
        swarm_id = built.swarm_id
    report = verify_ledger(tmp_path / "client", CLERK.public_key)
    assert report.failures == []
    assert report.n_entries == 2
    with Ledger.open(tmp_path / "client", CLERK.key, swarm_id) as ledger:
        receipts = [ledger.receipt(ledger.id_at(index)) for index in range(2)]
    tabs = [open_receipt(receipt, swarm_id) for receipt in receipts]
    assert {(tab.terms.payer, tab.terms.payer_key) for tab in tabs} == {
        (OWNER.public_key, CLERK.public_key)
    }
    assert sum(tab.amount for tab in tabs) == answer.cost_ncr
    for receipt, tab in zip(receipts, tabs, strict=True):  # a payee needs nobody to take it in
        (made,) = collections([receipt])
        (promised,) = open_collection(made, tab.terms.payee, swarm_id)
        assert (promised.payer, promised.amount) == (OWNER.public_key, tab.amount)


async def test_49_a_key_beyond_its_scope_its_days_or_its_exposure_gets_no_session(model, tmp_path):
    refused = [
        (None, "lets no other key"),
        ({"scopes": ("log",)}, "may log, not pay"),
        ({"days": -1}, "expired"),
        ({"exposure": 10}, "may promise 10 more"),
    ]
    async with owned(model, tmp_path) as (built, owner), built.client(identity=CLERK) as client:
        for lets, why in refused:
            if lets is not None:
                await owner.lets(**lets)
                built.tell(owner.log)
            with pytest.raises(ManyhandsError, match=why):
                await whole(client.generate(ask(built, max_tokens=4)))


async def test_49_a_thief_of_a_session_key_gets_no_more_than_its_exposure_and_nothing_once_revoked(
    model, tmp_path
):
    async with owned(model, tmp_path) as (built, owner), built.client(identity=CLERK) as client:
        await owner.lets(exposure=PLENTY)
        first = await whole(client.generate(ask(built, max_tokens=4)))
        (node,) = built.nodes
        books = built.books[node.node.identity.public_key]
        taken = books.exposed(OWNER.public_key, CLERK.public_key)
        assert taken == first.cost_ncr

        await owner.lets(exposure=taken + 1)
        built.tell(owner.log)
        with pytest.raises(ManyhandsError, match="may promise 1 more"):
            await whole(client.generate(ask(built, max_tokens=4)))

        await owner.lets(exposure=PLENTY)
        built.tell(owner.log)
        assert (await whole(client.generate(ask(built, max_tokens=4)))).cost_ncr

        built.cosigners.ahead_s = 2 * 86_400  # the epoch is over
        await built.grant(SigningKey.generate(), 1)
        party, place = Party(Home(tmp_path), OWNER, built._member(OWNER)), owner.home
        due = due_of(place, party, built.policy.epoch_of(wall_ms()))
        (done,) = await settle_all(place, party, [node.address], due)
        assert sum(each.n_sessions for each in done.made) == 2
        async with asyncio.timeout(20):
            while books.exposed(OWNER.public_key, CLERK.public_key):  # noqa: ASYNC110 (on disk)
                await asyncio.sleep(0.05)

        await owner.allot(4_000_000)  # the first one is over
        await owner.event(REVOKE, keys=(CLERK.public_key,))
        built.tell(owner.log)
        with pytest.raises(ManyhandsError, match="was revoked"):
            await whole(client.generate(ask(built, max_tokens=4)))

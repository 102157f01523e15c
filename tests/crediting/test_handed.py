"""What a node hands over comes in whole, once, whatever is cut off, and nothing else is signed."""

from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ledger.checkpoint import origin
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from ledger.spending import MAX_CLAIMS
from ledger.witness import WitnessBook
from manyhands.crediting.desk import Desk
from manyhands.crediting.handed import (
    Handed,
    Printed,
    handed_by,
    owner_epochs,
    set_aside,
    take_in,
)
from manyhands.crediting.handing_over import _who_is
from manyhands.home import Home, open_identity
from protocol.errors import NoQuorum, NotFunded, UsageError
from protocol.identity import Identity
from tests.ledger.conftest import memory_path
from tests.ledger.spenders import ANN, ASSET, BEN, CY, ISSUER, SWARM, WITNESSES, allot, grant
from tests.ledger.test_funding import POLICY
from tests.ledger.test_spend_log import ask

__all__ = ["memory_path"]
TO = BEN.public_key


class World:
    """Witnesses, who sign logs of up to so many entries, and what everybody was told."""

    def __init__(self, path, stack):
        self.path, self.stack, self.most = path, stack, 10**6
        self.told = {}
        keys = {origin(SWARM, k.public_key, "spend"): k.public_key for k in (ANN, BEN, ISSUER)}
        self.witnesses = [
            stack.enter_context(WitnessBook.open(path / f"w{i}", f"w{i}.example", key, keys.get))
            for i, key in enumerate(WITNESSES)
        ]

    def desk(self, key):
        directory = self.path / key.public_key.hex()
        identity = Identity(key)
        party = SimpleNamespace(
            policy=POLICY, swarm_id=SWARM, identity=identity, peer_id=identity.peer_id
        )
        log = self.stack.enter_context(SpendLog.open(directory, key, SWARM))
        books = self.stack.enter_context(SpendBooks.open(directory, SWARM, POLICY.quorum()))
        return Desk(party, log, books, self)

    def panel(self):
        return self

    async def check(self, log):
        pass

    async def cosign(self, log):
        if len(log) > self.most:
            raise NoQuorum("nobody answers")
        return ask(log, self.witnesses)

    async def hear(self, books):
        for account, (note, leaves) in self.told.items():
            books.learn(account, note, leaves)

    async def publish(self, log):
        self.told[log.account] = log.checkpoint_of(len(log)), log.leaves()
        return {}


@pytest.fixture
def world(memory_path):
    with ExitStack() as stack:
        yield World(memory_path, stack)


@pytest.fixture
async def giver(world):
    """With 1000 of credit."""
    await world.desk(ISSUER).publish([grant(ANN, 1000)])
    return world.desk(ANN)


@pytest.fixture
def printed(tmp_path):
    return Printed(tmp_path, TO, ASSET)


def lines(desk):
    return [str(each) for each in handed_by(desk, TO, ASSET)]


def read(texts):
    return [Handed.read(text) for text in texts]


async def test_all_comes_in_of_more_allotments_than_a_settlement_can_name(world, giver):
    first = [allot(ANN, BEN, 1, no=number) for number in range(20)]
    await giver.publish(first)
    early = lines(giver)
    await giver.publish([allot(ANN, BEN, 1, no=number) for number in range(20, MAX_CLAIMS + 44)])

    printed = lines(giver)

    owner = world.desk(BEN)
    assert (len(early), len(printed)) == (1, 2)
    assert await take_in(owner, read(early)) == 20
    assert await take_in(owner, read([*printed, *early])) == MAX_CLAIMS + 44 - 20
    assert await take_in(owner, read(printed)) == 0
    assert owner.books.available(TO, ASSET) == MAX_CLAIMS + 44


async def test_what_a_run_that_was_cut_off_set_aside_counts_towards_the_next_ones_amount(
    world, giver, printed
):
    await giver.publish([allot(ANN, CY, 1)])
    world.most = 1
    with pytest.raises(NoQuorum) as cut_off:
        await set_aside(giver, TO, ASSET, 200, printed)
    world.most = 10
    assert "same AMOUNT" in cut_off.value.hint
    assert len(giver.log) == 2

    await set_aside(giver, TO, ASSET, 200, printed)  # and killed before it printed the line
    await set_aside(giver, TO, ASSET, 200, printed)
    handed = handed_by(giver, TO, ASSET)
    assert sum(each.said.net for each in handed) == 200
    printed.keep(handed)

    await set_aside(giver, TO, ASSET, 200, printed)
    handed = handed_by(giver, TO, ASSET)
    assert sum(each.said.net for each in handed) == 400
    printed.keep(handed)
    assert printed.oids() == {oid for each in handed for oid, _ in each.said.claims}

    await set_aside(giver, TO, ASSET, None, printed)
    assert sum(each.said.net for each in handed_by(giver, TO, ASSET)) == 999


async def test_an_accept_that_was_cut_off_is_finished_by_the_next_and_told(world, giver, printed):
    await set_aside(giver, TO, ASSET, 300, printed)
    handed, owner = read(lines(giver)), world.desk(BEN)
    world.most = 1
    with pytest.raises(NoQuorum):
        await take_in(owner, handed)
    world.most = 2

    assert await take_in(owner, handed) == 300
    assert await take_in(owner, handed) == 0


async def test_lines_that_say_anything_else_or_are_of_elsewhere_are_not_signed(world, giver):
    await giver.publish([allot(ANN, BEN, 5)])
    owner, (one,) = world.desk(BEN), handed_by(giver, TO, ASSET)
    told = {"n_sessions": 2}, {"gross": 9, "net": 9}, {"gross": 7, "credit": 2}
    for more in told:
        said = replace(one.said, **more)
        with pytest.raises(UsageError, match="says more") as refused:
            Handed.read(str(Handed(said.seal(SWARM, ANN), said)))
        assert "--again" in refused.value.hint

    elsewhere = Handed(one.said.seal(bytes([7]) * 32, ANN), one.said)
    by_both = Handed(one.said.seal(SWARM, ANN, BEN), one.said)
    for line in (elsewhere, by_both):
        with pytest.raises(UsageError, match="not of swarm a lab") as refused:
            await take_in(owner, read([str(line)]))
        assert "--swarm" in refused.value.hint

    late = replace(one.said, epoch=10**9)
    with pytest.raises(UsageError, match="dates that line"):
        await take_in(owner, [Handed(late.seal(SWARM, ANN), late)])
    more = replace(one.said, claims=((bytes(32), 5),))
    with pytest.raises(NotFunded) as refused:
        await take_in(owner, [Handed(more.seal(SWARM, ANN), more)])
    assert "--join" in refused.value.hint
    assert len(owner.log) == 0


def test_either_party_of_a_home_accepts_what_is_for_it(tmp_path):
    place = Home(tmp_path)
    client, node = open_identity(place.client), open_identity(place.node)

    assert _who_is(place, client.public_key) == "client"
    assert _who_is(place, node.public_key) == "node"
    with pytest.raises(UsageError, match=f"here are {client.peer_id}.*{node.peer_id}"):
        _who_is(place, TO)


def test_an_owner_has_a_year_however_long_epochs_are():
    for epoch_s in (60, 3600, 86_400, 7 * 86_400):
        n_epochs = owner_epochs(replace(POLICY, epoch_s=epoch_s))
        assert 366 * 86_400 <= n_epochs * epoch_s < 366 * 86_400 + epoch_s

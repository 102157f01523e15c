"""`manyhands ledger transfer`: what a home's node has becomes its clients' to spend.

In: an amount. Out: an allotment of the node to the clients, a settlement of all of it that both
sign, for both keys lie here, and the clients' deposit: the objects that move credit between
strangers. What was killed midway is finished first the next time, and counts towards that amount.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ledger.amounts import AmountType, show_amount
from ledger.merkle import EMPTY_ROOT
from ledger.meter import Meter
from ledger.spending import MAX_CLAIMS, Deposit, Settlement
from manyhands.crediting.command import online, only_asset
from manyhands.crediting.desk import Desk, check_granted, open_desk
from manyhands.crediting.keys_command import ledger
from manyhands.home import Home, open_identity
from manyhands.loops import run
from manyhands.party import open_party
from manyhands.signals import interruptible
from manyhands.swarm import place_of
from protocol.address import Address
from protocol.errors import NotFunded
from protocol.file_lock import lock
from protocol.identity import Identity

__all__ = ["ledger"]  # with one more command

LOCK_NAME = "transfer.lock"
SCHEMA = "manyhands/ledger-transfer/v1"
Claims = tuple[tuple[bytes, int], ...]  # allotments, and how much of each


@ledger.command()
@click.argument("amount", type=AmountType(), required=False)
@online
def transfer(
    amount: int | None,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Let this home's clients spend AMOUNT of what its node earned. Default: all it has."""
    place = place_of(home, name)
    check_granted(open_party(place, "client").policy)
    with alone(place):
        moved, left = run(_transfer(place, join, amount))
    if as_json:
        view = {"schema": SCHEMA, "home": str(place.root), "moved_ncr": moved}
        click.echo(json.dumps({**view, "available_ncr": left}))
        return
    click.echo(f"{show_amount(moved)} credits moved to the clients, which have {show_amount(left)}")


@contextmanager
def alone(place: Home) -> Iterator[None]:
    """What another process has begun and not ended is not taken for what a killed one left."""
    file = os.open(place.client / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock(file)
        yield
    finally:
        os.close(file)


async def _transfer(place: Home, join: tuple[Address, ...], amount: int | None) -> tuple[int, int]:
    """What was moved, also of a transfer that was cut off, and what the clients have then."""
    giver, taker, asset = open_identity(place.node), open_identity(place.client), only_asset(place)
    with interruptible():
        async with (
            open_desk(place, "node", join) as giving,
            open_desk(place, "client", join) as taking,
        ):
            await giving.sync()  # also of what was logged, and no witness was asked to sign
            moved = await _finish(taking, giver, taker, asset)
            if amount is None or moved < amount:
                there_is = giving.books.available(giver.public_key, asset)
                more = there_is if amount is None else amount - moved
                if more or not moved:
                    await allot(giving, taker.public_key, asset, more)
                    await taking.sync()
                    moved += await _take(taking, giver, taker, asset)
            return moved, taking.books.available(taker.public_key, asset)


async def _finish(desk: Desk, giver: Identity, taker: Identity, asset: bytes) -> int:
    """Take in what a transfer that was cut off had set aside; how much that was.

    What it had logged as taken in counts too: its witnesses are asked now, and nothing is left.
    """
    before = begun(desk, giver.public_key, taker.public_key, asset)
    await desk.sync()
    left = begun(desk, giver.public_key, taker.public_key, asset)
    done = sum(amount for oid, amount in before.items() if oid not in left)
    return done + await _take(desk, giver, taker, asset)


async def allot(desk: Desk, to: bytes, asset: bytes, amount: int, epochs: int = 1) -> None:
    hint = "what a node earned it has once it is settled: manyhands ledger balance"
    if not amount:
        raise NotFunded("", f"{desk.party.peer_id} has 0 credits", hint=hint)
    await desk.write(lambda number: desk.allotment(number, to, asset, amount, epochs, hint=hint))


async def _take(desk: Desk, giver: Identity, taker: Identity, asset: bytes) -> int:
    claims = claims_of(desk, giver.public_key, taker.public_key, asset)
    if not claims:
        return 0
    said = settlement_of(desk, giver.public_key, taker.public_key, asset, claims)
    settled = said.seal(desk.party.swarm_id, giver.key, taker.key)
    oid = settled.object_id(desk.party.swarm_id)
    deposit = Deposit(settle_oid=oid, amount=said.net).seal(desk.party.swarm_id, taker.key)
    await desk.publish([settled, deposit])
    return said.net


def settlement_of(
    desk: Desk, payer: bytes, payee: bytes, asset: bytes, claims: Claims
) -> Settlement:
    """Of allotments whole, without any work."""
    moved = sum(amount for _, amount in claims)
    return Settlement(
        epoch=desk.epoch,
        payer=payer,
        payee=payee,
        asset=asset,
        claims=claims,
        n_sessions=0,
        receipts_root=EMPTY_ROOT,
        gross=moved,
        credit=0,
        net=moved,
        meter_sum=Meter(),
    )


def claims_of(
    desk: Desk, payer: bytes, payee: bytes, asset: bytes
) -> tuple[tuple[bytes, int], ...]:
    return tuple(sorted(begun(desk, payer, payee, asset).items()))[:MAX_CLAIMS]


def begun(desk: Desk, payer: bytes, payee: bytes, asset: bytes) -> dict[bytes, int]:
    """Allotments of the one to the other that were not taken in. A node pays its owner for nothing:
    these are transfers."""
    parties = (payer, payee, asset)
    return {
        oid: made.held
        for oid, made in desk.books.books().allotted.items()
        if (made.payer, made.payee, made.asset) == parties and made.held and not made.deposited
    }

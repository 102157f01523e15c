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
from manyhands.crediting.command import asset_of, asset_option, online
from manyhands.crediting.desk import Desk, open_desk
from manyhands.crediting.keys_command import ledger
from manyhands.home import Home, open_identity
from manyhands.loops import run
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
@asset_option
@online
def transfer(
    amount: int | None,
    asset: bytes | None,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Let this home's clients spend AMOUNT of what its node earned. Default: all it has."""
    place = place_of(home, name)
    asset = asset_of(place, asset)
    with alone(place):
        moved, left = run(_transfer(place, join, amount, asset))
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


async def _transfer(
    place: Home, join: tuple[Address, ...], amount: int | None, asset: bytes
) -> tuple[int, int]:
    """What was moved, also of a transfer that was cut off, and what the clients have then."""
    giver, taker = open_identity(place.node), open_identity(place.client)
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
    swarm_id, moved, objects = desk.party.swarm_id, 0, []
    for said in settlements_of(desk, giver.public_key, taker.public_key, asset):
        settled = said.seal(swarm_id, giver.key, taker.key)
        deposit = Deposit(settle_oid=settled.object_id(swarm_id), amount=said.net)
        objects += [settled, deposit.seal(swarm_id, taker.key)]
        moved += said.net
    if objects:
        await desk.publish(objects)
    return moved


def settlements_of(desk: Desk, payer: bytes, payee: bytes, asset: bytes) -> list[Settlement]:
    """Of all that the one has set aside for the other and that was not taken in: one settlement
    for each 256 allotments, which is what one can name."""
    left, epoch = sorted(begun(desk, payer, payee, asset).items()), desk.epoch
    return [
        settlement_of(epoch, payer, payee, asset, tuple(left[start : start + MAX_CLAIMS]))
        for start in range(0, len(left), MAX_CLAIMS)
    ]


def settlement_of(
    epoch: int, payer: bytes, payee: bytes, asset: bytes, claims: Claims
) -> Settlement:
    """Of allotments whole, without any work."""
    moved = sum(amount for _, amount in claims)
    return Settlement(
        epoch=epoch,
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


def begun(desk: Desk, payer: bytes, payee: bytes, asset: bytes) -> dict[bytes, int]:
    """Allotments of the one to the other that were not taken in. A node pays its owner for nothing:
    these are transfers."""
    parties = (payer, payee, asset)
    return {
        oid: made.held
        for oid, made in desk.books.books().allotted.items()
        if (made.payer, made.payee, made.asset) == parties and made.held and not made.deposited
    }

"""`manyhands ledger hand-over | accept`: what a node has becomes its owner's, with a key elsewhere.

In: an account, and an amount. Out: an allotment of the node to it, and a line: the settlement of
all that was set aside so and not taken in yet, with the node's signature alone. From then on the
node's key can have none of it. On the machine with the owner's key, whenever that is, the line gets
the second signature and a deposit follows.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

import click

from ledger.amounts import AmountType, show_amount
from ledger.lines import peer_name
from ledger.options import AccountType
from ledger.settled import read_settlement
from ledger.spending import Deposit, Settlement
from manyhands.crediting.command import online, only_asset
from manyhands.crediting.desk import Desk, check_granted, open_desk
from manyhands.crediting.transfer import allot, alone, begun, claims_of, ledger, settlement_of
from manyhands.home import Home, open_identity
from manyhands.loops import run
from manyhands.party import open_party
from manyhands.progress import say
from manyhands.signals import interruptible
from manyhands.swarm import place_of
from protocol.address import Address
from protocol.errors import IntegrityError, NotFunded, UsageError
from protocol.signing import Envelope, add_signature

__all__ = ["ledger"]  # with two more commands

OWNER_EPOCHS = 366  # that an owner may take to accept: nobody else can have it meanwhile
HANDED, ACCEPTED = "manyhands/ledger-handed-over/v1", "manyhands/ledger-accepted/v1"


@ledger.command("hand-over")
@click.argument("owner", type=AccountType())
@click.argument("amount", type=AmountType(), required=False)
@online
def hand_over(
    owner: bytes,
    amount: int | None,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Set AMOUNT of what this home's node has aside for OWNER. Default: all. Prints OWNER's part.

    It cannot be taken back. The line has all that OWNER has not taken in, also of earlier ones.
    """
    place = place_of(home, name)
    check_granted(open_party(place, "client").policy)
    with alone(place):
        set_aside, line = run(_hand_over(place, join, amount, owner))
    if as_json:
        view = {"schema": HANDED, "home": str(place.root), "to": peer_name(owner)}
        click.echo(json.dumps({**view, "set_aside_ncr": set_aside, "line": line}))
        return
    say(f"{show_amount(set_aside)} credits are set aside; where the key of that account is, run:")
    click.echo(f"manyhands ledger accept {line}")


@ledger.command()
@click.argument("line")
@online
def accept(
    line: str,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Take in what a node set aside for this home's clients: LINE is what `hand-over` printed.

    Of several lines the newest has all that the others have. One that was taken in adds nothing.
    """
    place = place_of(home, name)
    check_granted(open_party(place, "client").policy)
    try:
        signed = Envelope.decode(urlsafe_b64decode(line))
        read_settlement(signed)
    except (ValueError, IntegrityError) as error:
        hint = "copy all that `manyhands ledger hand-over` printed behind `accept`"
        raise UsageError("that is no line of a `hand-over`", hint=hint) from error
    taken, left = run(_accept(place, join, signed))
    if as_json:
        view = {"schema": ACCEPTED, "home": str(place.root), "taken_ncr": taken}
        click.echo(json.dumps({**view, "available_ncr": left}))
        return
    click.echo(f"{show_amount(taken)} credits taken in; there are {show_amount(left)} now")


async def _hand_over(
    place: Home, join: tuple[Address, ...], amount: int | None, to: bytes
) -> tuple[int, str]:
    """What is set aside for an account and not taken in yet, and the line that lets it."""
    giver, asset = open_identity(place.node), only_asset(place)
    if to == giver.public_key:
        raise UsageError("that is the node itself")
    with interruptible():
        async with open_desk(place, "node", join) as desk:
            await desk.sync()
            more = desk.books.available(giver.public_key, asset) if amount is None else amount
            if more or not begun(desk, giver.public_key, to, asset):
                await allot(desk, to, asset, more, OWNER_EPOCHS)
            claims = claims_of(desk, giver.public_key, to, asset)
            said = settlement_of(desk, giver.public_key, to, asset, claims)
            signed = said.seal(desk.party.swarm_id, giver.key)
            return said.net, urlsafe_b64encode(signed.encode()).decode()


async def _accept(place: Home, join: tuple[Address, ...], signed: Envelope) -> tuple[int, int]:
    """What that adds to what was taken in before, and what there is then."""
    with interruptible():
        async with open_desk(place, "client", join) as desk:
            swarm_id, key = desk.party.swarm_id, desk.party.identity.key
            said = read_settlement(signed)
            if said.payee != key.public_key:
                ours = peer_name(key.public_key)
                raise UsageError(f"it is for {peer_name(said.payee)}, and {ours} is here")
            Settlement.open(signed, swarm_id, said.payer)
            await desk.sync()
            for oid, ncr in said.claims:
                _check_set_aside(desk, said, oid, ncr)
            added = sum(max(0, ncr - desk.log.asked(oid)) for oid, ncr in said.claims)
            if added:
                both = add_signature(signed, swarm_id, key)
                deposit = Deposit(settle_oid=both.object_id(swarm_id), amount=added)
                await desk.publish([both, deposit.seal(swarm_id, key)])
            return added, desk.books.available(key.public_key, said.asset)


def _check_set_aside(desk: Desk, said: Settlement, oid: bytes, ncr: int) -> None:
    """Raises NotFunded: nothing stands behind it, so that our log should not build on it."""
    made = desk.books.allotted(oid)
    parties = said.payer, said.payee, said.asset
    is_so = made is not None and (made.payer, made.payee, made.asset) == parties
    if made is None or not is_so or ncr > made.amount - made.returned:
        raise NotFunded(
            "",
            f"nothing of that is set aside by {peer_name(said.payer)}, as far as is known here",
            hint="manyhands ledger sync, then again; else ask for a new line",
        )

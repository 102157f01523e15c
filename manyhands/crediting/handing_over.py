"""`manyhands ledger hand-over | accept`: what a node has becomes its owner's, with a key elsewhere.

In: an account, and an amount. Out: an allotment of the node to it, and lines (`handed.py`): all
that was set aside so and not taken in yet, with the node's signature alone. From then on the node's
key can have none of it. On the machine with the owner's key, whenever that is, the lines get the
second signature and deposits follow.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from ledger.amounts import AmountType, show_amount
from ledger.lines import peer_name
from ledger.options import OwnerType
from manyhands.crediting.command import asset_of, asset_option, online
from manyhands.crediting.desk import check_granted, open_desk
from manyhands.crediting.handed import Handed, Printed, handed_by, set_aside, take_in
from manyhands.crediting.transfer import alone, ledger
from manyhands.home import KEY_NAME, Home, open_identity
from manyhands.loops import run
from manyhands.party import Who, open_party
from manyhands.progress import say
from manyhands.signals import interruptible
from manyhands.swarm import place_of
from protocol.address import Address
from protocol.errors import UsageError

__all__ = ["ledger"]  # with two more commands

HANDED, ACCEPTED = "manyhands/ledger-handed-over/v1", "manyhands/ledger-accepted/v1"


@ledger.command("hand-over")
@click.argument("owner", type=OwnerType())
@click.argument("amount", type=AmountType(), required=False)
@click.option("--again", is_flag=True, help="Set nothing more aside: print the lines again.")
@asset_option
@online
def hand_over(
    owner: bytes,
    amount: int | None,
    again: bool,
    asset: bytes | None,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Set AMOUNT of what this home's node has aside for OWNER. Default: all. Prints OWNER's part.

    It cannot be taken back. What is printed has all that OWNER has not taken in, also of earlier
    runs: a line for each 256 of them.
    """
    if again and amount is not None:
        raise UsageError("--again sets nothing aside", hint="leave AMOUNT out, or --again")
    place = place_of(home, name)
    asset = asset_of(place, asset)
    if owner == open_identity(place.node).public_key:
        raise UsageError("that is the node itself")
    printed = Printed(place.node, owner, asset)
    with alone(place):
        lines = run(_hand_over(place, join, owner, asset, amount, None if again else printed))
        _show(lines, place, owner, as_json)
        printed.keep(lines)


@ledger.command()
@click.argument("lines", metavar="LINE...", nargs=-1, required=True)
@online
def accept(
    lines: tuple[str, ...],
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Take in what a node set aside for an account of this home: LINE is what `hand-over` printed.

    The latest lines have all that earlier ones have. One that was taken in adds nothing.
    """
    place = place_of(home, name)
    check_granted(open_party(place, "client").policy)
    handed = [Handed.read(line) for line in lines]
    if len({(each.said.payee, each.said.asset) for each in handed}) > 1:
        raise UsageError("these lines are for several accounts", hint="accept one after the other")
    account = handed[0].said.payee
    who = _who_is(place, account)
    with alone(place):
        taken, left = run(_accept(place, who, join, handed))
    if as_json:
        view = {"schema": ACCEPTED, "home": str(place.root), "peer": peer_name(account)}
        click.echo(json.dumps({**view, "taken_ncr": taken, "available_ncr": left}))
        return
    click.echo(f"{show_amount(taken)} credits taken in; there are {show_amount(left)} now")


async def _hand_over(
    place: Home,
    join: tuple[Address, ...],
    to: bytes,
    asset: bytes,
    amount: int | None,
    printed: Printed | None,
) -> list[Handed]:
    """printed: None: nothing is set aside now."""
    with interruptible():
        async with open_desk(place, "node", join) as desk:
            if printed is None:
                await desk.sync()
            else:
                await set_aside(desk, to, asset, amount, printed)
            return handed_by(desk, to, asset)


def _show(lines: Sequence[Handed], place: Home, owner: bytes, as_json: bool) -> None:
    set_aside_ncr = sum(each.said.net for each in lines)
    if as_json:
        view = {"schema": HANDED, "home": str(place.root), "to": peer_name(owner)}
        told = {"set_aside_ncr": set_aside_ncr, "lines": [str(each) for each in lines]}
        click.echo(json.dumps({**view, **told}))
        return
    sum_of_all = f"{show_amount(set_aside_ncr)} credits"
    say(f"{sum_of_all} are set aside for {peer_name(owner)}; where its key is, run:")
    for each in lines:
        click.echo(f"manyhands ledger accept {each}")


def _who_is(place: Home, account: bytes) -> Who:
    """Which of this home's parties that is.

    Raises:
        UsageError: none.
    """
    keys: dict[Who, Path] = {"client": place.client, "node": place.node}
    ours = {
        who: open_identity(directory)
        for who, directory in keys.items()
        if (directory / KEY_NAME).exists()
    }
    for who, identity in ours.items():
        if identity.public_key == account:
            return who
    names = ", ".join(f"{identity.peer_id} ({who})" for who, identity in ours.items())
    raise UsageError(
        f"it is for {peer_name(account)}, and here are {names}",
        hint="run it with the --home and --swarm whose key that is: manyhands identity --home DIR",
    )


async def _accept(
    place: Home, who: Who, join: tuple[Address, ...], handed: Sequence[Handed]
) -> tuple[int, int]:
    """What came in, and what there is then."""
    with interruptible():
        async with open_desk(place, who, join) as desk:
            taken = await take_in(desk, handed)
            return taken, desk.books.available(desk.log.account, handed[0].said.asset)

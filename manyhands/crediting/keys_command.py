"""`manyhands ledger keys publish | pay-from`: let another key pay from an account's credit.

In: the key events of this home's account, which its clients' key begins; or the account that this
home's clients pay from. Out: the events in the account's spend log, where everybody reads who may
pay for it; or a small file in `client/`, which says whose allotments sessions are paid from.
"""

import json
from pathlib import Path

import click

from ledger.keys_cli import keys, ring_of
from ledger.lines import peer_name
from ledger.options import AccountType
from manyhands.crediting.command import online
from manyhands.crediting.credit_command import ledger
from manyhands.crediting.desk import check_granted, open_desk
from manyhands.crediting.payer import read_payer, write_payer
from manyhands.crediting.shown import plural
from manyhands.home import Home
from manyhands.loops import run
from manyhands.options import base_option, json_option
from manyhands.party import open_party
from manyhands.progress import say
from manyhands.signals import interruptible
from manyhands.swarm import place_of, which_option
from protocol.address import Address
from protocol.errors import UsageError

__all__ = ["ledger"]  # with two more commands

SCHEMA = "manyhands/ledger-keys/v1"
OWN = "own"


@keys.command()
@online
def publish(home: Path | None, name: str | None, join: tuple[Address, ...], as_json: bool) -> None:
    """Tell the swarm who may pay for this home's account: what `keys delegate` and `revoke` did."""
    place = place_of(home, name)
    party, ring = open_party(place, "client"), ring_of(place.root)
    check_granted(party.policy)
    make_one = f"manyhands ledger keys begin --client --home {place.root}"
    if not ring.exists:
        raise UsageError(f"there is no account in {place.root}", hint=f"make one: {make_one}")
    state = ring.state()
    if (begun := ring.first_key()) != party.identity.public_key:
        raise UsageError(
            f"the account of this home begins with the key {peer_name(begun)}, which has no credit",
            hint="with another home: manyhands ledger keys begin --client",
        )
    n_fresh, told = run(_publish(place, join))
    if as_json:
        view = {"schema": SCHEMA, "home": str(place.root), "account": state.account.hex()}
        click.echo(json.dumps({**view, "published": n_fresh, "told": list(told)}))
        return
    click.echo(f"{plural(n_fresh, 'key event')} published, of {state.n_events}")
    say(f"told to {plural(len(told), 'node')}")


async def _publish(place: Home, join: tuple[Address, ...]) -> tuple[int, tuple[str, ...]]:
    with interruptible():
        async with open_desk(place, "client", join) as desk:
            events = ring_of(place.root).events()
            return await desk.publish(events)


@keys.command("pay-from")
@click.argument("account", metavar=f"PEER|ACCOUNT|{OWN}", required=False)
@which_option
@base_option
@json_option
def pay_from(account: str | None, home: Path | None, name: str | None, as_json: bool) -> None:
    """Pay for this home's sessions from what ACCOUNT allots (`own`: from our credit again).

    Its owner lets our clients' key do that: `ledger keys delegate`, then `publish`.
    """
    place = place_of(home, name)
    party = open_party(place, "client")
    check_granted(party.policy)
    if account is not None:
        payer = None if account == OWN else AccountType().convert(account, None, None)
        write_payer(place, None if payer == party.identity.public_key else payer)
    payer = read_payer(place)
    if as_json:
        view = {"schema": SCHEMA, "home": str(place.root), "peer": party.peer_id}
        click.echo(json.dumps({**view, "pays_from": peer_name(payer) if payer else None}))
        return
    whose = f"what {peer_name(payer)} allots" if payer else "their own credit"
    click.echo(f"clients of this home, {party.peer_id}, pay from {whose}")

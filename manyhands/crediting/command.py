"""`manyhands ledger grant | allot | release`: write the spend log of an account of this home.

In: accounts and amounts. Out: an entry that a quorum of witnesses signed and nodes know, or what
keeps it from that. What entries come to is `ledger/fold.py`'s.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from ledger.amounts import NCR, AmountType, show_amount
from ledger.fold import Allotted
from ledger.lines import peer_name
from ledger.options import AccountType, OwnerType
from ledger.spending import Grant, Release, Spending
from manyhands.crediting.desk import Desk, Written, check_granted, open_desk
from manyhands.crediting.shown import plural
from manyhands.home import Home, open_identity
from manyhands.loops import run
from manyhands.options import base_option, join_option, json_option
from manyhands.party import Who, open_party
from manyhands.progress import say
from manyhands.signals import interruptible
from manyhands.swarm import place_of, which_option
from manyhands.witnessing.command import ledger
from protocol.address import Address
from protocol.errors import UsageError

__all__ = ["ledger"]  # with more commands

Command = Callable[..., Any]
role_option = click.option(
    "--role",
    type=click.Choice(["client", "node"]),
    default="client",
    help="As which account of this home. Default: client.",
)
asset_option = click.option(
    "--asset", type=AccountType(), help="Whose credit. Default: the swarm's one issuer's."
)


def online(command: Command) -> Command:
    """The options of whatever speaks with the swarm."""
    for option in (json_option, join_option, which_option, base_option):
        command = option(command)
    return command


@ledger.command()
@click.argument("account", type=OwnerType())
@click.argument("amount", type=AmountType())
@click.option("--memo", default="", help="What for; its hash alone is logged.")
@online
def grant(
    account: bytes,
    amount: int,
    memo: str,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Give ACCOUNT (a peer id or key) AMOUNT of this home's credit: 2.5 credits, or 2500ncr."""
    place = place_of(home, name)
    who = _issuer(place)

    def make(desk: Desk, number: int) -> Spending:
        ours = desk.log.account
        memo_hash = sha256(memo.encode()).digest() if memo else None
        return Grant(
            issuer=ours,
            account=account,
            asset=ours,
            grant_no=number,
            amount=amount,
            memo_hash=memo_hash,
        )

    _write(place, who, join, as_json, "grant", make, {"to": peer_name(account)}, amount)


@ledger.command()
@click.argument("payee", type=OwnerType())
@click.argument("amount", type=AmountType())
@click.option(
    "--epochs",
    type=click.IntRange(0, 366),
    default=1,
    help="How many epochs after this one it is good for. Default: 1.",
)
@asset_option
@role_option
@online
def allot(
    payee: bytes,
    amount: int,
    epochs: int,
    asset: bytes | None,
    role: Who,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Set AMOUNT aside for the node PAYEE, which alone may claim it. Sessions do so themselves."""
    place = place_of(home, name)
    asset = asset_of(place, asset)

    def make(desk: Desk, number: int) -> Spending:
        where = "ask an issuer: manyhands ledger grant"
        hint = f"{where} {desk.party.peer_id} AMOUNT, where its key is"
        return desk.allotment(number, payee, asset, amount, epochs, hint=hint)

    _write(place, role, join, as_json, "allot", make, {"to": peer_name(payee)}, amount)


@ledger.command()
@click.argument("allotment", metavar="ALLOTMENT")
@click.option(
    "--claiming",
    type=AmountType(),
    help="What is claimed of it in all. Default: what closed sessions promised, less credit notes.",
)
@click.option(
    "--role", type=click.Choice(["client", "node"]), default="node", help="Default: node."
)
@online
def release(
    allotment: str,
    claiming: int | None,
    role: Who,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Give back what this home's node will not claim of ALLOTMENT (its id, or how it begins).

    It cannot be taken back: sessions that are open on it may go unpaid.
    """
    more: dict[str, Any] = {}

    def make(desk: Desk, number: int) -> Spending:
        oid, made = _find(desk, allotment)
        claimed = max(desk.books.owed(oid), made.deposited)
        final = claimed if claiming is None else claiming
        if final < claimed:
            raise UsageError(
                f"{show_amount(claimed)} credits of it are claimed already",
                hint="--claiming that, or more",
            )
        more.update({"allotment": oid.hex(), "to": peer_name(made.payer), "claimed_ncr": final})
        return Release(allot_oid=oid, claimed_final=final)

    _write(place_of(home, name), role, join, as_json, "release", make, more, None)


# --- within ---------------------------------------------------------------------------------------


def _write(
    place: Home,
    role: Who,
    join: tuple[Address, ...],
    as_json: bool,
    kind: str,
    make: Callable[[Desk, int], Spending],
    more: dict[str, Any],
    amount: int | None,
) -> None:
    async def write() -> tuple[Written, dict[str, Any]]:
        with interruptible():
            async with open_desk(place, role, join) as desk:
                written = await desk.write(lambda number: make(desk, number))
                assets = desk.policy.assets
                left = {peer_name(a): desk.books.available(desk.log.account, a) for a in assets}
                return written, {"peer": desk.party.peer_id, "available_ncr": left}

    written, party = run(write())
    signed, n = len(written.cosigned.times_s), written.cosigned.head.size
    if as_json:
        view: dict[str, Any] = {"schema": "manyhands/ledger-entry/v1", "kind": kind}
        view |= {"home": str(place.root), "id": written.oid.hex(), "entry": written.index}
        view |= {"amount_ncr": amount, "entries": n, "witnesses": signed, "told": written.told}
        click.echo(json.dumps({**view, **more, **party}))
        return
    shown = "" if amount is None else f"{show_amount(amount)} credit{'s' * (amount != NCR)} "
    click.echo(f"{kind} {shown}to {more['to']}")
    click.echo(f"id {written.oid.hex()}")
    who = f"{plural(signed, 'witness', 'witnesses')}, told to {plural(len(written.told), 'node')}"
    say(f"entry {written.index}, signed by {who}")


def _issuer(place: Home) -> Who:
    """Which account of this home may grant."""
    policy = open_party(place, "client").policy
    check_granted(policy)
    accounts: dict[bytes, Who] = {
        open_identity(place.node).public_key: "node",
        open_identity(place.client).public_key: "client",
    }
    found = [who for account, who in accounts.items() if account in policy.issuers]
    if not found:
        names = ", ".join(map(peer_name, policy.issuers))
        raise UsageError(
            f"this home issues no credit of swarm {policy.name}",
            hint=f"run it where an issuer's key is: {names}",
        )
    return found[-1]


def asset_of(place: Home, asset: bytes | None) -> bytes:
    """The credit that is meant. asset: whose was asked for; None: the one issuer's.

    Raises:
        UsageError: several issue credit in this swarm, and none is named; or one that does not.
    """
    policy = open_party(place, "client").policy
    check_granted(policy)
    hint = f"--asset, one of: {', '.join(map(peer_name, policy.assets))}"
    if asset is None and len(policy.assets) > 1:
        raise UsageError("several accounts issue credit here", hint=hint)
    if asset is not None and asset not in policy.assets:
        raise UsageError(f"{peer_name(asset)} issues no credit here", hint=hint)
    return asset or policy.assets[0]


def _find(desk: Desk, prefix: str) -> tuple[bytes, Allotted]:
    """The allotment to us whose id begins so."""
    ours = {
        oid: made
        for oid, made in desk.books.books().allotted.items()
        if made.payee == desk.log.account and oid.hex().startswith(prefix.lower())
    }
    if len(ours) != 1:
        which = "no funded allotment" if not ours else f"{len(ours)} allotments"
        raise UsageError(
            f"{which} to {desk.party.peer_id} begins with {prefix[:64]!r}",
            hint="the payer's `ledger allot` printed the id; manyhands ledger sync --role node",
        )
    return ours.popitem()

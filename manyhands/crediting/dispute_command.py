"""`manyhands ledger dispute`: who broke a rule, with the proof that this home has.

In: a home, or proof that another one has. Out: accounts that nobody takes new business from, and
what proves it; tabs on which more was claimed than paid.
"""

import json
from pathlib import Path
from typing import IO

import click

from ledger.credit_views import sync_views
from ledger.disputes_cli import tabs
from ledger.findings_render import faults as show_faults
from ledger.findings_view import fault_views
from ledger.handed_faults import Json, keep_faults, read_faults
from ledger.homes import ROLES
from ledger.lines import peer_name
from ledger.options import AccountType
from ledger.swarms import swarm_of
from manyhands.crediting.shown import show_forks
from manyhands.crediting.sync_command import ledger
from manyhands.home import KEY_NAME, default_home, open_identity
from manyhands.options import home_option, json_option
from manyhands.progress import say
from protocol.errors import UsageError

__all__ = ["ledger"]  # with more commands


@ledger.group()
def dispute() -> None:
    """Who broke a rule, with proof; and tabs that were not paid as claimed."""


dispute.add_command(tabs)


@dispute.command("list")
@home_option
@json_option
def dispute_list(home: Path | None, as_json: bool) -> None:
    """The accounts that nobody takes new business from, each with its proof."""
    _show_disputes(home or default_home(), None, as_json)


@dispute.command("show")
@click.argument("account", type=AccountType())
@home_option
@json_option
def dispute_show(account: bytes, home: Path | None, as_json: bool) -> None:
    """What proves it of ACCOUNT: two checkpoints that no one log can have, or signed objects."""
    _show_disputes(home or default_home(), account, as_json)


@dispute.command("open")
@click.argument("file", type=click.File("rb"))
@home_option
@json_option
def dispute_open(file: IO[bytes], home: Path | None, as_json: bool) -> None:
    """Take up what FILE proves, which `dispute show --json` printed elsewhere; - is standard input.

    Each fault in it is judged here. Those that hold are kept, so that whoever is at fault is not
    used, and are told on: by this home's node to peers that ask, and by its clients, every few
    seconds, while one is at work.
    """
    root = home or default_home()
    handed = read_faults(file.read(), swarm_of(root)[0])
    if not (keys := [each for each in _parties(root) if (each / KEY_NAME).exists()]):
        hint = "manyhands identity --home DIR makes one"
        raise UsageError(f"{root} has no key to tell it with", hint=hint)
    news = keep_faults(root, handed, open_identity(keys[0]).key)
    views = [each.view(is_new) for each, is_new in zip(handed, news, strict=True)]
    if as_json:
        view = {"schema": "manyhands/ledger-dispute-opened/v1", "home": str(root)}
        click.echo(json.dumps({**view, "opened": views}))
        return
    for each in views:
        _show_opened(each)


def _parties(root: Path) -> list[Path]:
    """A client tells what its own key told; a node tells all that it has."""
    return [root / role for role in reversed(ROLES)]


def _show_opened(view: Json) -> None:
    word = view["rests_on"]
    is_proven = isinstance(word, str)
    rests_on = word if is_proven else f"the word of {', '.join(word)}"
    click.echo(f"{view['peer']}: {view['what']}, by {rests_on}")
    if not view["is_new"]:
        say("that was known here")
    if not is_proven:
        say("to believe one of them: manyhands ledger audit trust PEER")


def _show_disputes(root: Path, account: bytes | None, as_json: bool) -> None:
    known = fault_views(root, whole=account is not None)
    faults = [each for each in known if account is None or each["accused"] == account.hex()]
    found = {
        fork["accused"]: fork
        for view in sync_views(root)
        for fork in view["forks"]
        if account is None or fork["accused"] == account.hex()
    }
    if account is not None and not found and not faults:
        raise UsageError(
            f"nothing here proves anything against {peer_name(account)}",
            hint="manyhands ledger sync hears what nodes know",
        )
    if as_json:
        view = {"schema": "manyhands/ledger-disputes/v1", "home": str(root)}
        click.echo(json.dumps({**view, "disputes": list(found.values()), "faults": faults}))
    else:
        show_forks(list(found.values()), whole=account is not None)
        show_faults(faults, whole=account is not None)
        if not found and not faults:
            say("nothing is proven here against anybody")

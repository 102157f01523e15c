"""`manyhands ledger keys begin | show | rotate | delegate | revoke`: an account above the keys.

The account is made once; its id is what others are told. Its root key signs who may act for it and
is best kept off the machine (`--keys DIR`), and the next root key with it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ledger import render
from ledger.homes import KEY_NAME, ROLES
from ledger.key_events import SCOPES, Delegation
from ledger.key_ring import ACCOUNT, KeyRing, read_chain
from ledger.key_state import KeyState, fold
from ledger.lines import peer_name
from ledger.options import home_option, json_option
from ledger.policy import OPEN_POLICY
from ledger.swarms import swarm_of
from protocol.canonical import MAX_UINT
from protocol.clock import wall_ms
from protocol.errors import ConfigError, UsageError
from protocol.identity import public_key_from_peer_id
from protocol.key_files import read_key, read_public_key
from protocol.passphrases import ask, given

Command = TypeVar("Command", bound=Callable[..., Any])

CLIENT = "client"
MAX_DAYS = 36_500

keys_option = click.option(
    "--keys",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the account's root keys are. Default: with its events, in HOME/account.",
)


@click.group("keys")
def keys() -> None:
    """An account that outlives its keys: who may act for it, until when, and for how much."""


def _kept(command: Command) -> Command:
    for option in (json_option, home_option, keys_option):
        command = option(command)
    return command


@keys.command()
@click.option(
    "--client",
    "is_client",
    is_flag=True,
    help="Begin with the key of this home's clients: keys that it lets `pay` pay from its credit.",
)
@_kept
def begin(is_client: bool, home: Path, keys: Path | None, as_json: bool) -> None:
    """Make an account: a root key, and the one that will replace it."""
    root = None
    if is_client:
        _key_of(home, CLIENT)  # there is one
        root = read_key(home / CLIENT / KEY_NAME, ask)
    _say(ring_of(home, keys).begin(root), home, as_json)


@keys.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@home_option
@json_option
def show(file: Path | None, home: Path, as_json: bool) -> None:
    """The account of this home, or of somebody's FILE of events, and the keys that act for it."""
    if file is None:
        _say(ring_of(home, None).state(), home, as_json)
        return
    try:
        state = fold(read_chain(file), swarm_of(home)[0])
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {file}") from error
    _say(state, home, as_json)


@keys.command()
@_kept
def rotate(home: Path, keys: Path | None, as_json: bool) -> None:
    """Let the next root key take over, and commit to a new one.

    What a thief of the root key cannot do. Delegations stay; revoke those that you did not make.
    """
    _say(ring_of(home, keys).rotate(), home, as_json)


@keys.command()
@click.argument("key", metavar="node|client|PEER")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What it may do for the account; repeat for more. A ledger's key has `log`.",
)
@click.option("--days", type=click.IntRange(1, MAX_DAYS), default=365, help="Default: 365.")
@click.option(
    "--max-exposure",
    type=click.IntRange(0, MAX_UINT),
    default=0,
    metavar="NCR",
    help="What it may have promised one counterparty and not settled. Default: 0.",
)
@_kept
def delegate(
    key: str,
    scopes: tuple[str, ...],
    days: int,
    max_exposure: int,
    home: Path,
    keys: Path | None,
    as_json: bool,
) -> None:
    """Let a key act for the account: this home's node or client, or any peer id."""
    until = OPEN_POLICY.epoch_of(wall_ms()) + days
    named = tuple(scope for scope in SCOPES if scope in scopes)
    given_to = Delegation(_key_of(home, key), named, until, max_exposure)
    _say(ring_of(home, keys).delegate(given_to), home, as_json)
    for note in [*_of_no_use(named, max_exposure), *_of_no_credit(named, home)]:
        click.echo(f"note: {note}", err=True)


def _of_no_use(scopes: tuple[str, ...], max_exposure: int) -> list[str]:
    """What whoever delegated may have expected of it, and will not see."""
    notes = []
    if "pay" in scopes and not max_exposure:
        notes.append("a key pays up to its --max-exposure, which is 0: delegate again, with one")
    if "serve" in scopes:
        notes.append(
            "no peer asks for `serve`: a node earns for its own key, and hands over what it earned"
            " (manyhands ledger hand-over)"
        )
    if "witness" in scopes:
        notes.append("no peer asks for `witness`: a swarm's policy names its witnesses' keys")
    return notes


def _of_no_credit(scopes: tuple[str, ...], home: Path) -> list[str]:
    """A mandate begins with the key that pays: in another account nobody can pay for it."""
    path = home / CLIENT / KEY_NAME
    if "pay" not in scopes or (
        path.exists() and ring_of(home).first_key() == read_public_key(path)
    ):
        return []
    return [
        "the account does not begin with the key of this home's clients, which has the credit: keys"
        " pay from one made in another home (manyhands ledger keys begin --client)"
    ]


@keys.command()
@click.argument("key", metavar="node|client|PEER")
@_kept
def revoke(key: str, home: Path, keys: Path | None, as_json: bool) -> None:
    """End a key's delegation, for good."""
    _say(ring_of(home, keys).revoke(_key_of(home, key)), home, as_json)


def ring_of(home: Path, keys: Path | None = None) -> KeyRing:
    """The account of a home; keys: where its root keys are, if not with its events."""
    return KeyRing(
        directory=home / ACCOUNT,
        keys=keys or home / ACCOUNT,
        swarm_id=swarm_of(home)[0],
        unlock=ask,
        passphrase=given(),
        client=home / CLIENT / KEY_NAME,
    )


def _key_of(home: Path, name: str) -> bytes:
    if name not in ROLES:
        return public_key_from_peer_id(name)
    path = home / name / KEY_NAME
    if not path.exists():
        raise UsageError(
            f"this home has no {name} key yet", hint="its first `serve` or `generate` makes it"
        )
    return read_public_key(path)


def _say(state: KeyState, home: Path, as_json: bool) -> None:
    view = {"schema": "manyhands/ledger-keys/v1", "home": str(home), **state_view(state)}
    click.echo(json.dumps(view)) if as_json else render.keys(view)


def state_view(state: KeyState) -> dict[str, Any]:
    rows = []
    for key, changes in state.changes.items():
        held = [change for _, change in changes if change is not None][-1]
        rows.append(
            {
                "peer": peer_name(key),
                "scopes": list(held.scopes),
                "not_after_epoch": held.not_after_epoch,
                "max_exposure_ncr": held.max_exposure,
                "since": changes[0][0],
                "revoked": state.revoked_at(key),
            }
        )
    return {
        "account": state.account.hex(),
        "root_key": state.root_key.hex(),
        "next_key_hash": state.next_key_hash.hex(),
        "events": state.n_events,
        "keys": rows,
    }

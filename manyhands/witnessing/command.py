"""`manyhands ledger witness serve | status`: sign that others' logs only grow.

In: the logs to witness, as accounts of a swarm or as keys that any C2SP log has. Out: a service
that those logs ask for cosignatures. What it signs and refuses is `ledger/witness.py`'s.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ledger.cli import ledger
from ledger.notes import COSIGNATURE_V1, ED25519, NoteKey, check_name
from ledger.options import home_option, json_option
from ledger.store import damaged
from ledger.witness import FILE_NAME, LogKey, WitnessBook, name_of
from manyhands.auditing import command as _auditing  # noqa: F401  (one more command)
from manyhands.home import KEY_NAME, open_identity
from protocol.errors import ConfigError, IntegrityError, UsageError
from protocol.identity import Identity, load_identity, public_key_from_peer_id
from protocol.passphrases import ask
from protocol.signing import OPEN_SWARM_ID, check_public_key

__all__ = ["ledger"]  # with one more command

ROLE = "witness"
_ORIGIN = re.compile(r"manyhands/([0-9a-f]{16})/([0-9a-f]{64})/(?:spend|receipts)")


@ledger.group()
def witness() -> None:
    """Sign that others' logs only grow, so that nobody can show two versions of one."""


@witness.command()
@click.option("--name", help="What logs know this witness by: like a URL, without its scheme.")
@click.option("--log", "logs", multiple=True, metavar="VKEY", help="A log, by its verifier key.")
@click.option("--account", "accounts", multiple=True, metavar="PEER", help="Both logs of a peer.")
@click.option("--any-account", is_flag=True, help="Both logs of every account of the swarm.")
@click.option("--swarm", metavar="HEX", help="The swarm's id. Default: the swarm `open`.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8430, show_default=True, help="0 picks one.")
@home_option
def serve(
    name: str | None,
    logs: Sequence[str],
    accounts: Sequence[str],
    any_account: bool,
    swarm: str | None,
    host: str,
    port: int,
    home: Path,
) -> None:
    """Answer C2SP tlog-witness requests until Ctrl-C.

    Prints one line when ready, with the verifier key that logs and readers need.
    """
    directory = home / ROLE
    name = _name(directory, name)
    log_key = log_keys(logs, accounts, any_account, _swarm_id(swarm))
    identity = open_identity(directory)
    with WitnessBook.open(directory, name, identity.key, log_key) as book:
        asyncio.run(_serve(book, host, port))


@witness.command()
@click.option("--name", help="What logs are to know it by: like a URL, without its scheme.")
@home_option
def key(name: str | None, home: Path) -> None:
    """Print this home's verifier key, made now if there is none: for `swarm create --witness`."""
    directory = home / ROLE
    name = _name(directory, name)
    identity = open_identity(directory)
    WitnessBook.open(directory, name, identity.key, lambda _: None).close()
    click.echo(_vkey(name, identity))


@witness.command()
@json_option
@home_option
def status(home: Path, as_json: bool) -> None:
    """Which logs this home's witness signed, and how far."""
    directory = home / ROLE
    name = name_of(directory)
    if name is None:
        raise ConfigError(
            f"there is no witness in {home}",
            hint="`manyhands ledger witness serve` with this --home makes one",
        )
    identity = load_identity(directory / KEY_NAME, ask)
    with WitnessBook.open(directory, name, identity.key, lambda _: None) as book:
        seen = book.seen()
    vkey = _vkey(name, identity)
    if as_json:
        told = [{"origin": origin, "size": size} for origin, size in seen]
        view: dict[str, Any] = {"schema": "manyhands/ledger-witness/v1", "home": str(home)}
        click.echo(json.dumps({**view, "name": name, "vkey": vkey, "logs": told}))
        return
    click.echo(vkey)
    for origin, size in seen:
        click.echo(f"{size:>10}  {origin}")


def _name(directory: Path, name: str | None) -> str:
    """What the witness in this directory is called, or is to be."""
    name = name or name_of(directory)
    if name is None:
        raise UsageError("a new witness needs a name", hint="--name witness.example.org/me")
    _check_name(name)
    if (directory / KEY_NAME).exists() and not (directory / FILE_NAME).exists():
        raise damaged(directory / FILE_NAME, "it is missing, but this witness has a key already")
    return name


async def _serve(book: WitnessBook, host: str, port: int) -> None:
    from manyhands.gateway.serving import listening
    from manyhands.progress import say
    from manyhands.signals import interruptible
    from manyhands.witnessing.app import WitnessApp

    stop = asyncio.Event()
    with interruptible(stop.set):
        async with listening(WitnessApp(book), host, port) as bound:
            shown = f"[{host}]" if ":" in host else host
            vkey = book.witness.note_key.vkey
            url = f"http://{shown}:{bound}"
            click.echo(json.dumps({"event": "ready", "url": url, "vkey": vkey}))
            say(f"{book.witness.name} cosigns at {url}/add-checkpoint")
            await stop.wait()


def _vkey(name: str, identity: Identity) -> str:
    return NoteKey(name, COSIGNATURE_V1, identity.public_key).vkey


def log_keys(
    logs: Sequence[str], accounts: Sequence[str], any_account: bool, swarm_id: bytes
) -> LogKey:
    """Which key each log signs with, by its origin."""
    by_origin = dict(map(_read_log, logs))
    known = {public_key_from_peer_id(peer) for peer in accounts}
    if not (by_origin or known or any_account):
        raise UsageError(
            "a witness needs logs to watch", hint="--account PEER, --log VKEY, or --any-account"
        )

    def log_key(origin: str) -> bytes | None:
        if (listed := by_origin.get(origin)) is not None:
            return listed
        if (match := _ORIGIN.fullmatch(origin)) is None or match[1] != swarm_id[:8].hex():
            return None
        account = bytes.fromhex(match[2])
        return account if any_account or account in known else None

    return log_key


def _read_log(vkey: str) -> tuple[str, bytes]:
    try:
        key = NoteKey.parse(vkey)
        check_public_key(key.public_key)
    except IntegrityError as error:
        raise UsageError(f"{vkey} is no verifier key: {error}") from error
    if key.kind != ED25519:
        raise UsageError(f"{vkey} is of another kind than Ed25519")
    return key.name, key.public_key


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except IntegrityError as error:
        raise UsageError(f"{name!r} cannot be a witness's name: {error}") from error


def _swarm_id(text: str | None) -> bytes:
    if text is None:
        return OPEN_SWARM_ID
    try:
        swarm_id = bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(f"a swarm's id is hexadecimal, not {text!r}") from error
    if len(swarm_id) != len(OPEN_SWARM_ID):
        raise UsageError("a swarm's id has 64 hexadecimal digits")
    return swarm_id

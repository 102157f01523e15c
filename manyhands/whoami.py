"""`manyhands identity`: the keys of a home, the peer ids they prove, and how they are kept.

No key is ever shown. `encrypt` and `decrypt` change how the files hold them; a process that runs
has its key in memory and goes on with it.
"""

import json
from collections.abc import Callable
from pathlib import Path

import click

from manyhands.home import KEY_NAME, MEMBERSHIP, default_home
from manyhands.options import home_option, json_option
from protocol.errors import ConfigError

ROLES = ("node", "client", "founder", "witness", "account")
OWN = ("node", "client")  # that are peers of swarms


@click.group(invoke_without_command=True, short_help="The keys of a home.")
@home_option
@json_option
@click.pass_context
def identity(ctx: click.Context, home: Path | None, as_json: bool) -> None:
    """Who this home is to others: one peer id for its node, one for its clients."""
    if ctx.invoked_subcommand is None:
        _show(home, as_json)


@identity.command()
@home_option
@json_option
def show(home: Path | None, as_json: bool) -> None:
    """Show the peer ids."""
    _show(home, as_json)


def _keeping(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        json_option,
        home_option,
        click.option(
            "--role", type=click.Choice(ROLES), help="Only this one's keys. All of them by default."
        ),
    ):
        command = option(command)
    return command


@identity.command()
@_keeping
def encrypt(role: str | None, home: Path | None, as_json: bool) -> None:
    """Keep the keys encrypted. What is so already stays; for another passphrase, decrypt first.

    An account's root keys are among them where they lie in the home, not in a drawer. The
    passphrase is read from MANYHANDS_PASSPHRASE or the file that MANYHANDS_PASSPHRASE_FILE names,
    else asked for, and needed from then on by every command that signs. Nobody can recover it.
    """
    from protocol.key_files import is_encrypted
    from protocol.passphrases import ask_new

    root, keys = _chosen(home, role)
    plain = [path for path in keys.values() if not is_encrypted(path)]
    if plain:
        passphrase = ask_new(root)
        for path in plain:
            _rewrite(path, passphrase)
    _say(root, _told(keys), as_json)


@identity.command()
@_keeping
def decrypt(role: str | None, home: Path | None, as_json: bool) -> None:
    """Keep the keys as plain files again, that whoever reads the disk can use."""
    from protocol.key_files import is_encrypted

    root, keys = _chosen(home, role)
    for path in keys.values():
        if is_encrypted(path):
            _rewrite(path, None)
    _say(root, _told(keys), as_json)


def _rewrite(path: Path, passphrase: bytes | None) -> None:
    from protocol.key_files import read_key, rewrite_key
    from protocol.passphrases import ask

    rewrite_key(path, read_key(path, ask), passphrase)


def _show(home: Path | None, as_json: bool) -> None:
    root, keys = _keys(home)
    own = {who: path for who, path in keys.items() if who in OWN}
    if not own:
        raise _no_key(root)
    _say(root, _told(own), as_json)


def _told(keys: dict[str, Path]) -> dict[str, dict[str, object]]:
    from protocol.identity import load_peer_id
    from protocol.key_files import is_encrypted

    return {
        who: {"peer": load_peer_id(path), "key": str(path), "encrypted": is_encrypted(path)}
        for who, path in keys.items()
    }


def _chosen(home: Path | None, role: str | None) -> tuple[Path, dict[str, Path]]:
    root, keys = _keys(home)
    chosen = {who: path for who, path in keys.items() if role in (None, who.split("/")[0])}
    if not chosen:
        raise ConfigError(f"there is no {role} key in {root}", hint="manyhands identity shows them")
    return root, chosen


def _keys(home: Path | None) -> tuple[Path, dict[str, Path]]:
    root = (home or default_home()).expanduser().absolute()
    places = {
        "node": root / "node" / KEY_NAME,
        "client": root / "client" / KEY_NAME,
        "founder": root / MEMBERSHIP / "founder.key",
        "witness": root / "witness" / KEY_NAME,
        **{f"account/{path.stem}": path for path in _root_keys(root / "account")},
    }
    found = {who: path for who, path in places.items() if path.exists()}
    if not found:
        raise _no_key(root)
    return root, found


def _no_key(root: Path) -> ConfigError:
    hint = "the first `manyhands serve` or `generate` on a home makes one"
    return ConfigError(f"there is no key in {root}", hint=hint)


def _root_keys(directory: Path) -> list[Path]:
    """An account's keys that lie in its home, as `ledger keys` names them."""
    return sorted(directory.glob(f"{'[0-9a-f]' * 16}.key"))


def _say(root: Path, shown: dict[str, dict[str, object]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"schema": "manyhands/identity/v1", "home": str(root), **shown}))
        return
    for who, key in shown.items():
        kept = "   encrypted" if key["encrypted"] else ""
        click.echo(f"{who:<7} {key['peer']}   {key['key']}{kept}")

"""Where the passphrase of an encrypted key comes from: the environment, a file it names, a person.

Never from the command line, which every user of the machine can read. Commands hand `ask` to what
reads keys; nothing deeper looks at the environment.
"""

import getpass
import os
import stat
import sys
from pathlib import Path

from protocol.errors import ConfigError, InsecureHome

VARIABLE, FILE_VARIABLE = "MANYHANDS_PASSPHRASE", "MANYHANDS_PASSPHRASE_FILE"
MAX_PASSPHRASE_BYTES = 1024
HINT = f"set {FILE_VARIABLE} to a file that holds it, or run this in a terminal, which asks"

_typed: dict[str, bytes] = {}  # nobody types the passphrase of one key twice


def given() -> bytes | None:
    """The passphrase that the environment holds or names; None: it says nothing of one.

    Raises:
        InsecureHome: everybody on this machine can read the file, or others change it.
        ConfigError: it is empty, or the file cannot be read.
    """
    text, name = os.environ.get(VARIABLE), os.environ.get(FILE_VARIABLE)
    if text is not None:
        return _checked(os.fsencode(text), VARIABLE)
    if not name:
        return None
    try:
        with Path(name).open("rb") as file:
            _check_mode(name, os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_PASSPHRASE_BYTES + 2)
    except OSError as error:
        raise ConfigError(f"cannot read {name} ({FILE_VARIABLE}): {error.strerror}") from error
    return _checked(data.removesuffix(b"\n").removesuffix(b"\r"), name)


def ask(path: Path) -> bytes:
    """The passphrase of the key at `path`: what is given, else what a person types.

    Raises:
        ConfigError: none is given and nobody is there to ask.
    """
    if (held := given()) is not None:
        return held
    if (held := _typed.get(str(path))) is None:
        held = _typed[str(path)] = _prompt(f"Passphrase of {path}: ", f"the key {path}")
    return held


def ask_new(path: Path) -> bytes:
    """One to encrypt the key at `path` with: given, or typed twice.

    Raises:
        ConfigError: none is given and nobody is there to ask, or the two differ.
    """
    if (held := given()) is not None:
        return held
    first = _prompt(f"New passphrase for {path}: ", f"the key {path}")
    if _prompt("Again: ", f"the key {path}") != first:
        raise ConfigError("the two passphrases differ", hint="try again; the key is unchanged")
    _typed[str(path)] = first
    return first


def _prompt(question: str, what: str) -> bytes:
    if not sys.stdin.isatty():
        raise ConfigError(f"{what} needs a passphrase, and nobody is here to ask", hint=HINT)
    return _checked(os.fsencode(getpass.getpass(question, sys.stderr)), "what was typed")


def _check_mode(name: str, mode: int) -> None:
    """A group may read it: an access list, as service managers give one, shows as a group's."""
    if os.name == "posix" and stat.S_ISREG(mode) and mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise InsecureHome(
            f"others can read the passphrase in {name} (mode {stat.S_IMODE(mode):04o})",
            hint=f"chmod 600 {name}",
        )


def _checked(passphrase: bytes, source: str) -> bytes:
    if not 0 < len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise ConfigError(
            f"{source} is no passphrase: it has {len(passphrase)} bytes,"
            f" 1 to {MAX_PASSPHRASE_BYTES} are possible"
        )
    return passphrase

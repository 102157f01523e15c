"""Auditors whose word on others' work is enough in a home, besides that of its own keys.

In: `HOME/auditors`, a peer id on each line, and what a command says of one. Out: their keys. Which
faults rest on whose word is `judging.py`'s; whom one believes is everybody's own affair.
"""

from collections.abc import Iterable
from pathlib import Path

from ledger.store import write_whole
from protocol.errors import ConfigError, UsageError
from protocol.identity import peer_id_from_public_key, public_key_from_peer_id

FILE_NAME = "auditors"
MAX_NAMED = 1000
MAX_BYTES = 128 * 1024


def read_auditors(home: Path) -> frozenset[bytes]:
    """The public keys of those named in this home.

    Raises:
        ConfigError: the file cannot be read, or has a line that is no peer id.
    """
    path = home / FILE_NAME
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode()
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    named = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        return frozenset(public_key_from_peer_id(line) for line in named)
    except UsageError as error:
        raise ConfigError(
            f"{path}: {error}", hint="a peer id on each line; mend it, or delete the file"
        ) from error


def name_auditors(home: Path, named: Iterable[bytes]) -> None:
    """Name these, and nobody else.

    Raises:
        UsageError: they are too many. ConfigError: the file cannot be written.
    """
    lines = sorted(map(peer_id_from_public_key, named))
    if len(lines) > MAX_NAMED:
        raise UsageError(f"up to {MAX_NAMED} auditors are named in a home")
    write_whole(home / FILE_NAME, "".join(f"{line}\n" for line in lines))

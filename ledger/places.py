"""Where a party's databases are: files in its directory, or on a server that a file there names.

In: a directory and the name of a database. Out: the database, opened. The pointer says where the
ledger is, for whoever comes by: else a node that is started without an option would sign on from
the files that it left.
"""

from pathlib import Path

from ledger.address import Address
from ledger.store import BUSY_TIMEOUT_S, SCHEMA, Store, damaged, translated, write_whole
from protocol.errors import ConfigError, UsageError

POINTER = "ledger.url"


def address_of(directory: Path) -> Address | None:
    """Of the server that a party's databases are on; None: they are files."""
    path = directory / POINTER
    with translated(path):
        try:
            words = path.read_text().split()
        except FileNotFoundError:
            return None
    try:
        url, namespace = words
        return Address(url, namespace)
    except (ValueError, UsageError) as error:
        raise damaged(path, "it is no URL and name") from error


def point(directory: Path, address: Address | None) -> None:
    """From now on the databases are there. It has the password that the URL has: 0600."""
    path = directory / POINTER
    if address is not None:
        write_whole(path, f"{address.url}\n{address.namespace}\n")
    else:
        with translated(path):
            path.unlink(missing_ok=True)


def agree(directory: Path, url: str, account: bytes, file_name: str) -> None:
    """See that the party's ledger is where `--ledger` says. A new one begins there.

    Raises:
        ConfigError: it is elsewhere.
    """
    asked, held = Address.of(url, directory.name, account), address_of(directory)
    if held is None and not (directory / file_name).exists():
        point(directory, asked)
    elif held is None or held.url != url:
        raise ConfigError(
            f"the ledger of {directory} is {held.at(file_name) if held else 'in files there'}",
            hint="take it along: manyhands ledger migrate --to URL",
        )


def is_there(directory: Path, file_name: str) -> bool:
    """Whether the party has, or had, such a database."""
    return (directory / file_name).exists() or (directory / POINTER).exists()


def open_store(
    directory: Path,
    file_name: str,
    *,
    create: bool = False,
    timeout_s: float = BUSY_TIMEOUT_S,
    schema: str = SCHEMA,
) -> Store:
    """Connect to one of the party's databases, wherever it is; see `Store.open`."""
    address = address_of(directory)
    if address is None:
        path = directory / file_name
        return Store.open(path, create=create, timeout_s=timeout_s, schema=schema)
    return open_at(address.at(file_name), create=create, timeout_s=timeout_s, schema=schema)


def open_at(
    address: Address,
    *,
    create: bool = False,
    timeout_s: float = BUSY_TIMEOUT_S,
    schema: str = SCHEMA,
) -> Store:
    """
    Raises:
        ConfigError: psycopg is not installed; and what `PostgresStore.connect` does.
    """
    try:
        from ledger.postgres import PostgresStore
    except ImportError as error:
        raise ConfigError(
            "a ledger on PostgreSQL needs psycopg", hint="pip install 'manyhands[postgres]'"
        ) from error
    return PostgresStore.connect(address, create=create, timeout_s=timeout_s, schema=schema)

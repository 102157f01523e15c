"""What lies beside a database of ours that signs, so that an older one put back is noticed.

In: a directory, whose database it must be, and how far it has signed. Out: the database, opened,
and a small file that promises how far that was. Nothing signed leaves this process before the file
says so, or more: with an older database put back, nobody here would know of it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ledger.errors import ForeignLedger
from ledger.places import address_of, open_store
from ledger.store import SCHEMA, Store, damaged, translated, write_whole


@contextmanager
def begun(
    directory: Path, file_name: str, promise: str | None = None, schema: str = SCHEMA
) -> Iterator[Store]:
    """Open or begin a database of ours; it is closed again when what follows fails.

    Raises:
        DamagedLedger: it is truncated or corrupt, or gone while a promise of this name is there.
        ConfigError: the directory cannot be written.
    """
    path = directory / file_name
    with translated(path):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_empty = address_of(directory) is None and not (path.exists() and path.stat().st_size)
    if promise and is_empty and (directory / promise).exists():
        raise damaged(
            path, f"it is missing or empty, but {promise} shows that it has signed before"
        )
    store = open_store(directory, file_name, create=True, schema=schema)
    try:
        store.quick_check()
        yield store
    except BaseException:
        store.close()
        raise


def claim(store: Store, ours: Mapping[str, bytes]) -> None:
    """Write whose a new database is, or see that an old one is ours.

    Raises:
        ForeignLedger: it is not; the message names what differs.
    """
    if not ours.items() <= (held := read_meta(store)).items():
        with store.transaction():
            for item in ours.items():  # another process may just have done the same
                store.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", item)
            held = read_meta(store)
    for name, value in ours.items():
        if held.get(name) != value:
            raise ForeignLedger(
                f"{store.path} belongs to another {_MEANING.get(name, name)}",
                hint="put back the identity.key it was made with, or use another --home",
            )


def read_meta(store: Store) -> dict[str, bytes]:
    """What a database says of itself: its schema, account and swarm."""
    rows = store.execute("SELECT name, value FROM meta")
    return {str(name): value if isinstance(value, bytes) else b"" for name, value in rows}


class Beside:
    """The file that promises how far a database has signed."""

    def __init__(
        self, path: Path, store: Store, latest: Callable[[], tuple[int, str] | None]
    ) -> None:
        """latest: how far the database has signed, and how the file says so; None: it has not."""
        self.path, self._store, self._latest = path, store, latest
        self._kept = -1  # the file promises that much, or more

    def read(self) -> str | None:
        """What it promises; None: it is not there. Read once: another process may replace it."""
        with translated(self.path):
            try:
                return self.path.read_bytes().decode(errors="replace")
            except FileNotFoundError:
                return None

    def keep(self, number: int) -> None:
        """See that it promises this much, or more.

        Whoever signed may have died before it got here. One process at a time does this, and
        writes the latest: an older promise in its place would be as good as none.
        """
        if number <= self._kept:
            return
        with self._store.transaction():
            if (latest := self._latest()) is not None:
                write_whole(self.path, latest[1])
                self._kept = latest[0]

    def is_at(self, number: int) -> None:
        """It was read, and promises this much."""
        self._kept = number


_MEANING = {"schema": "version of Manyhands", "account": "identity"}

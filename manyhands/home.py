"""Where this machine keeps what is its own: keys and ledgers, one home, two parties.

In: `--home`, `MANYHANDS_HOME`, or nothing. Out: directories with mode 0700, an identity and the
books of each party. `node/` belongs to one `serve` at a time; `client/` is shared by all clients.
A home may hold others, `swarms/NAME/`, one for each swarm that it joined: see `membership.py`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.private_files import make_private, write_whole
from protocol.errors import ConfigError, HomeInUse, UsageError
from protocol.file_lock import lock

if TYPE_CHECKING:
    from ledger.writer import LedgerWriter
    from protocol.identity import Identity

KEY_NAME, LOCK_NAME = "identity.key", "lock"
MEMBERSHIP, SWARMS, DEFAULT, OPEN = "membership", "swarms", "default-swarm", "open"
JOIN_HINT = "manyhands swarm list shows those of this home; manyhands swarm join mh://… adds one"


@dataclass(frozen=True, slots=True)
class Home:
    """A home that exists and can be written."""

    root: Path

    @classmethod
    def at(cls, directory: Path | None) -> "Home":
        """The home in `directory`, made now when it is not there; None: the platform's.

        Raises:
            ConfigError: it cannot be made or written.
        """
        root = (directory or default_home()).expanduser().absolute()
        _make(root)
        return cls(root)

    @property
    def node(self) -> Path:
        return self.root / "node"

    @property
    def adapters(self) -> Path:
        """What the node serves besides its span, by name; need not exist."""
        return self.node / "adapters"

    @property
    def bans(self) -> Path:
        """Whom the node does not hear for a while; need not exist. See `node.barring`."""
        return self.node / "bans.json"

    @property
    def calibrations(self) -> Path:
        """Thresholds that were measured here, a file for each model and profile; may not exist."""
        return self.root / "fingerprints"

    @property
    def client(self) -> Path:
        return self.root / "client"

    @contextmanager
    def sole_node(self) -> Iterator[None]:
        """Hold `node/` for this process.

        Raises:
            HomeInUse: another process holds it; the message names its pid.
        """
        _make(self.node)
        path = self.node / LOCK_NAME
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                lock(file, waits=False)
            except BlockingIOError as error:
                pid = os.read(file, 32).decode(errors="replace").strip() or "unknown"
                raise HomeInUse(
                    f"{self.root} is in use by the node with pid {pid}",
                    hint="stop that one, or give this node a home of its own: --home DIR",
                ) from error
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(file)


def default_home() -> Path:
    import platformdirs

    return platformdirs.user_data_path("manyhands")


def home_of(base: Path, swarm: str | None) -> Path:
    """The home of a swarm: of the named one, else of the default one, else `base` itself.

    Raises:
        UsageError: this home is not in that swarm.
    """
    name = swarm or default_swarm(base)
    if not name or name == OPEN or (base / MEMBERSHIP).exists():
        return base
    root = base / SWARMS / name
    if not _is_name(name) or not (root / MEMBERSHIP).exists():
        raise UsageError(f"{base} belongs to no swarm {name[:64]!r}", hint=JOIN_HINT)
    return root


def default_swarm(base: Path) -> str:
    with suppress(OSError):
        return (base / DEFAULT).read_text().strip()
    return ""


def set_default(base: Path, name: str) -> None:
    write_whole(base / DEFAULT, f"{name}\n".encode())


def swarms_of(base: Path) -> list[str]:
    """By name."""
    found = (base / SWARMS).glob(f"*/{MEMBERSHIP}/founding")
    return sorted(path.parent.parent.name for path in found)


def _is_name(name: str) -> bool:
    """As `protocol.membership.policy.is_name`, which this door need not load."""
    return (
        name[:1].isalnum() and name.replace("-", "a").replace("_", "a").replace(".", "a").isalnum()
    )


def open_identity(party: Path) -> "Identity":
    """The key in a party's directory, made at first use; encrypted, where a passphrase is given.

    Raises:
        InsecureHome: others can read the key.
        WrongPassphrase: it is encrypted, and what is given or typed does not open it.
        ConfigError: it cannot be read or made.
    """
    from protocol.identity import load_or_create_identity
    from protocol.passphrases import ask, given

    _make(party)
    return load_or_create_identity(party / KEY_NAME, ask, given())


@contextmanager
def open_books(
    party: Path, identity: "Identity", swarm_id: bytes, server: str = ""
) -> Iterator["LedgerWriter"]:
    """The ledger in a party's directory; whatever was asked of it is done on the way out.

    server: the URL that it is at, or is begun at; "": wherever it is, a new one in files.

    Raises:
        DamagedLedger, ForeignLedger, LedgerBusy, ConfigError: it cannot be used as it is.
    """
    from ledger.log import Ledger
    from ledger.places import agree
    from ledger.reader import FILE_NAME
    from ledger.writer import LedgerWriter

    if server:
        agree(party, server, identity.key.public_key, FILE_NAME)
    books = LedgerWriter(lambda: Ledger.open(party, identity.key, swarm_id))
    try:
        yield books
    finally:
        books.close()


def _make(directory: Path) -> None:
    hint = "choose a directory that you can write: --home DIR"
    try:
        make_private(directory)
    except OSError as error:
        reason = f"the home {directory} cannot be made: {error.strerror}"
        raise ConfigError(reason, hint=hint) from error
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"the home {directory} is not writable", hint=hint)

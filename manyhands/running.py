"""What runs on this machine: how `generate` and `status` find a swarm without `--join`.

In: what a `serve` or `up` says of itself, in a small file under its home. Out: the records of
those that still run. Each holds a lock on its file for as long as it lives, so that what a killed
process left behind is told from the living, and removed.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from manyhands.home import Home
from protocol.address import Address
from protocol.errors import ManyhandsError, PeerUnreachable
from protocol.file_lock import lock, remove

DIRECTORY = "running"
NOBODY_HINT = "name a peer with --join ADDR, or start a swarm here: manyhands up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A `serve`, `gateway` or `up` of this home."""

    command: str
    pid: int
    model: str
    addresses: tuple[str, ...]
    without: tuple[str, ...] = ()  # what was asked for and cannot be, in words
    signature: str = ""  # of the model, by its publisher, in words
    page: str = ""  # the URL of a node's page
    url: str = ""  # of a gateway, or of that of `up`


@contextmanager
def recorded(home: Home, record: Running) -> Iterator[None]:
    """Be found by others of this home while the context lasts."""
    directory = home.root / DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / f"{record.command}-{record.pid}.json"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock(file)
        os.truncate(file, 0)
        os.write(file, json.dumps(asdict(record)).encode())
        yield
    finally:
        remove(path, file)


def found_running(home: Home) -> list[Running]:
    """Who runs on this home now; `up` before `serve`."""
    records = []
    for path in sorted((home.root / DIRECTORY).glob("*.json"), reverse=True):
        with suppress(OSError, ValueError, TypeError, KeyError):
            if _is_abandoned(path):
                path.unlink()
                continue
            read = json.loads(path.read_text())
            lists = {name: tuple(read.get(name, ())) for name in ("addresses", "without")}
            records.append(Running(**{**read, **lists}))
    return records


def addresses_of(record: Running) -> list[Address]:
    """Where it listens; nothing where its file says nonsense."""
    with suppress(ManyhandsError):
        return [Address.parse(address) for address in record.addresses]
    return []


def join_addresses(home: Home, given: Sequence[Address]) -> tuple[Address, ...]:
    """Where to begin: what the caller named, else whoever runs on this home, else whom it met in
    its swarm.

    Raises:
        PeerUnreachable: neither.
    """
    if given:
        return tuple(given)
    local: list[Address] = []
    for record in found_running(home):
        local += addresses_of(record)
    if not local and (home.root / "membership").exists():
        from manyhands.membership import known_addresses

        local += known_addresses(home)
    if not local:
        raise PeerUnreachable("", f"no --join, and no swarm runs on {home.root}", hint=NOBODY_HINT)
    return tuple(dict.fromkeys(local))


def _is_abandoned(path: Path) -> bool:
    file = os.open(path, os.O_RDWR)
    try:
        lock(file, waits=False, shared=True)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(file)

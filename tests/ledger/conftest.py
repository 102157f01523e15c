"""Witnesses, a server to keep ledgers on, and a place for databases that no test waits for."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ledger.address import Address
from ledger.checkpoint import origin
from ledger.places import point
from ledger.witness import WitnessBook
from tests.ledger.servers import Server, binaries, running
from tests.ledger.spenders import ANN, ISSUER, SWARM, WITNESSES


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory where there is one: what is durable there is durable at once."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


@pytest.fixture
def books(memory_path: Path) -> Iterator[list[WitnessBook]]:
    """Four witnesses that know Ann's spend log and the issuer's."""
    keys = {origin(SWARM, k.public_key, "spend"): k.public_key for k in (ANN, ISSUER)}
    made = [
        WitnessBook.open(memory_path / f"w{i}", f"w{i}.example", key, keys.get)
        for i, key in enumerate(WITNESSES)
    ]
    yield made
    for book in made:
        book.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server; without one, who asks for it is skipped."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[postgres]'")
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with running() as server:
        yield server


At = Callable[[Path], Path]


@pytest.fixture(params=["sqlite", "postgres"])
def at(request: pytest.FixtureRequest) -> At:
    """Make a directory whose databases are files, or on a server: tests run with each."""
    if request.param == "sqlite":
        return lambda directory: directory
    server: Server = request.getfixturevalue("server")

    def pointed(directory: Path) -> Path:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = sha256(str(directory).encode()).hexdigest()[:16]
        point(directory, Address(server.url, f"t_{name}"))
        return directory

    return pointed


@pytest.fixture
def home(tmp_path: Path, at: At) -> Path:
    """A party's directory."""
    return at(tmp_path)

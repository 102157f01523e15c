"""Witnesses, and a place for databases that no test wants to wait for."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ledger.checkpoint import origin
from ledger.witness import WitnessBook
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

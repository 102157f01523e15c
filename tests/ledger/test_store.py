"""The file under a ledger: what it takes of memory does not grow with what is in it."""

import ctypes
import ctypes.util

import pytest

from ledger.errors import DamagedLedger
from ledger.store import CACHE_KIB, Store, write_whole
from protocol.errors import ConfigError


@pytest.fixture
def sqlite_bytes():
    """What SQLite holds, of all of this process."""
    name = ctypes.util.find_library("sqlite3")
    if name is None:
        pytest.skip("SQLite is built into Python here, and tells nobody what it holds")
    used = ctypes.CDLL(name).sqlite3_memory_used
    used.restype = ctypes.c_longlong
    return used


def test_a_large_ledger_takes_no_more_memory_than_a_small_one(tmp_path, sqlite_bytes):
    store = Store.open(tmp_path / "ledger.sqlite", create=True)
    before = sqlite_bytes()
    if not before:
        store.close()
        pytest.skip("Python uses another SQLite than the system's")

    for batch in range(4):
        with store.transaction(durable=False):
            for index in range(batch * 500, (batch + 1) * 500):
                store.execute("INSERT INTO body VALUES (?, ?, ?)", (index, b"s" * 32, b"r" * 2000))
    grown = sqlite_bytes() - before
    store.close()

    assert (tmp_path / "ledger.sqlite").stat().st_size > 3 << 20
    assert grown <= (CACHE_KIB + 256) << 10


def test_what_is_written_whole_replaces_or_leaves_what_was_there(tmp_path):
    path = tmp_path / "spend.checkpoint"
    write_whole(path, "first\n")
    left = tmp_path / "spend.checkpoint.new"
    left.touch(mode=0o600)
    left.write_text("left over by one that died, and longer")
    write_whole(path, "second\n")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("second\n", 0o600)
    assert [each.name for each in tmp_path.iterdir()] == ["spend.checkpoint"]

    left.mkdir()
    with pytest.raises(ConfigError):
        write_whole(path, "third\n")
    assert path.read_text() == "second\n"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("spend.sqlite", "on from an older one is a fork"),
        ("spend.checkpoint", "on from an older one is a fork"),
        ("witness.sqlite", "a witness that forgets"),
        ("witness.seen", "a witness that forgets"),
        ("spending.sqlite", "move this file away"),
    ],
)
def test_who_signs_is_not_told_to_put_an_older_copy_back(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"no database" * 100)

    with pytest.raises(DamagedLedger) as caught:
        Store.open(tmp_path / name)
    assert advice in caught.value.hint
    assert "restore a backup" not in caught.value.hint

"""The file under a ledger: what it takes of memory does not grow with what is in it."""

import ctypes
import ctypes.util

import pytest

from ledger.store import CACHE_KIB, Store


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

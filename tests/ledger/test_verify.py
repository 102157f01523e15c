"""Changing one byte of anything in a ledger is found, and the entry is named."""

import os
import re
import shutil
import sqlite3

import pytest

from ledger import Ledger, verify_ledger
from ledger.reader import FILE_NAME, HEAD_NAME
from protocol.errors import ConfigError
from tests.ledger.parties import CLIENT, SWARM, closed_receipt, open_tab, ran, settle

N = 5


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A ledger of five receipts in two batches, and an open tab that a crash left."""
    home = tmp_path_factory.mktemp("home")
    payer, provider = open_tab(nonce=b"still-open------")
    settle(payer, provider, ran(30).meter(), final=False)
    ledger = Ledger.open(home, CLIENT, SWARM)
    todo = [closed_receipt(8 + i, nonce=bytes([i]) * 16) for i in range(N)]
    ledger.append_all(todo[:2])
    ledger.append_all(todo[2:])
    ledger.save_tab(payer.receipt())
    ledger._store.tidy()
    yield home
    ledger.close()


@pytest.fixture
def copy(home, tmp_path):
    for name in (FILE_NAME, HEAD_NAME):
        shutil.copy(home / name, tmp_path / name)
    return tmp_path


def test_an_untouched_ledger_holds(copy):
    report = verify_ledger(copy, CLIENT.public_key)

    assert report.failures == []
    assert (report.n_entries, report.n_checkpoints, report.n_open_tabs) == (N, 2, 1)


COLUMNS = {
    "entry": ("idx", ("receipt_id", "session_id", "epoch", "payer", "payee", "net", "digest")),
    "body": ("idx", ("salt", "receipt")),
    "checkpoint": ("size", ("note",)),
}


def flipped(value, at):
    if isinstance(value, int):
        return value ^ 1 << (at % 40)
    changed = bytearray(value)
    changed[at % len(changed)] ^= 1 << (at % 8)
    return bytes(changed)


def write(home, sql, *values):
    database = sqlite3.connect(home / FILE_NAME)
    database.execute("PRAGMA synchronous = OFF")
    with database:
        database.execute(sql, values)
    database.close()


def change(home, table, key, column, row, value):
    write(home, f"UPDATE {table} SET {column} = ? WHERE {key} = ?", value, row)


def read(home, sql, *values):
    database = sqlite3.connect(home / FILE_NAME)
    rows = database.execute(sql, values).fetchall()
    database.close()
    return rows


@pytest.mark.parametrize(
    ("table", "key", "column"),
    [(table, key, column) for table, (key, columns) in COLUMNS.items() for column in columns],
)
def test_one_changed_byte_is_found_and_its_entry_named(copy, table, key, column):
    for row, value in read(copy, f"SELECT {key}, {column} FROM {table}"):
        length = 1 if isinstance(value, int) else len(value)
        for at in range(0, length, max(1, length // 4)):
            change(copy, table, key, column, row, flipped(value, at))

            report = verify_ledger(copy, CLIENT.public_key)

            entry = row - 1 if table == "checkpoint" else row
            assert {failure.entry for failure in report.failures} == {entry}, (row, at)
            change(copy, table, key, column, row, value)
    assert verify_ledger(copy, CLIENT.public_key).holds


def test_every_single_byte_of_a_receipt_counts(copy):
    ((receipt,),) = read(copy, "SELECT receipt FROM body WHERE idx = 3")
    for at in range(0, len(receipt), 11):
        change(copy, "body", "idx", "receipt", 3, flipped(receipt, at))

        report = verify_ledger(copy, CLIENT.public_key)

        assert {failure.entry for failure in report.failures} == {3}


def test_a_changed_voucher_is_called_one(copy):
    ((receipt,),) = read(copy, "SELECT receipt FROM body WHERE idx = 3")
    voucher = closed_receipt(11, nonce=bytes([3]) * 16).voucher
    at = receipt.index(voucher.payload) + len(voucher.payload) - 3
    changed = receipt[:at] + bytes([receipt[at] ^ 1]) + receipt[at + 1 :]
    change(copy, "body", "idx", "receipt", 3, changed)

    failures = verify_ledger(copy, CLIENT.public_key).failures

    assert [failure.part for failure in failures] == ["receipt", "receipt", "voucher"]
    assert re.match(r"entry 3 \(receipt [0-9a-f]{16}…\): voucher: the signature", str(failures[-1]))


def test_a_changed_node_names_the_entries_under_it(copy):
    for level, index, hash_ in read(copy, "SELECT level, idx, hash FROM node"):
        sql = "UPDATE node SET hash = ? WHERE level = ? AND idx = ?"
        write(copy, sql, flipped(hash_, 9), level, index)

        failures = verify_ledger(copy, CLIENT.public_key).failures

        assert [failure.entry for failure in failures] == [(index + 1 << level) - 1]
        write(copy, sql, hash_, level, index)


@pytest.mark.parametrize("column", ["session_id", "receipt"])
def test_a_changed_open_tab_is_found(copy, column):
    ((value,),) = read(copy, f"SELECT {column} FROM open_tab")
    for at in range(0, len(value), max(1, len(value) // 40)):
        write(copy, f"UPDATE open_tab SET {column} = ?", flipped(value, at))

        failures = verify_ledger(copy, CLIENT.public_key).failures

        assert "open tab" in str(failures[0])
        write(copy, f"UPDATE open_tab SET {column} = ?", value)


def test_a_changed_owner_or_swarm_is_found(copy):
    for name, value in read(copy, "SELECT name, value FROM meta"):
        change(copy, "meta", "name", "value", name, flipped(value, 5))

        assert not verify_ledger(copy, CLIENT.public_key).holds
        change(copy, "meta", "name", "value", name, value)


def test_a_changed_byte_of_the_head_beside_it_is_found(copy):
    note = (copy / HEAD_NAME).read_bytes()
    for at in range(0, len(note), 5):
        (copy / HEAD_NAME).write_bytes(flipped(note, at))

        assert not verify_ledger(copy, CLIENT.public_key).holds, at


@pytest.mark.parametrize("table", ["entry", "body", "node", "checkpoint"])
def test_a_removed_row_is_found(copy, table):
    key = "size" if table == "checkpoint" else "idx"
    write(copy, f"DELETE FROM {table} WHERE {key} = (SELECT max({key}) FROM {table})")

    assert not verify_ledger(copy, CLIENT.public_key).holds


def test_a_byte_changed_in_the_file_itself_is_found(copy):
    """Not through SQL: wherever a signed byte lies in the file, a change of it is found."""
    data = (copy / FILE_NAME).read_bytes()
    receipts = [row[0] for row in read(copy, "SELECT receipt FROM body")]
    for index, receipt in enumerate(receipts):
        place = data.index(receipt[-120:]) + 60
        (copy / FILE_NAME).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])

        failures = verify_ledger(copy, CLIENT.public_key).failures

        assert {failure.entry for failure in failures} == {index}


@pytest.mark.parametrize("kept", [0, 100, 4096, 9000])
def test_a_truncated_ledger_is_reported_not_raised(copy, kept):
    os.truncate(copy / FILE_NAME, kept)

    failures = verify_ledger(copy, CLIENT.public_key).failures

    assert failures
    assert "database" in [failure.part for failure in failures]


EVERYTHING = (
    "SELECT * FROM entry ORDER BY idx",
    "SELECT * FROM body ORDER BY idx",
    "SELECT * FROM node ORDER BY level, idx",
    "SELECT * FROM checkpoint ORDER BY size",
    "SELECT session_id, receipt FROM open_tab ORDER BY session_id",
    "SELECT * FROM meta ORDER BY name",
)


def holds(home):
    try:
        return verify_ledger(home, CLIENT.public_key).holds
    except ConfigError:
        return False


def test_a_file_that_still_verifies_still_says_the_same(copy):
    """Flip bytes all over the file: whatever is not found is in no row (free space, counters)."""
    file = copy / FILE_NAME
    data = file.read_bytes()
    before = [read(copy, sql) for sql in EVERYTHING]
    n_found = 0
    for place in range(5, len(data), 311):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :])
        if holds(copy):
            assert [read(copy, sql) for sql in EVERYTHING] == before, place
        else:
            n_found += 1

    assert n_found > 20

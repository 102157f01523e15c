"""Accounting rows: what statements read says what the receipts say, or is found out."""

import shutil
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger, LedgerReader, open_receipt, verify_ledger
from ledger.filling import fill_lines
from ledger.homes import Book
from ledger.line_rows import COLUMNS, check_types
from ledger.lines import peer_name
from ledger.reader import FILE_NAME
from ledger.receipts import Receipt, read_receipt
from ledger.statements import GROUPS, Choice, make_statement
from ledger.store import Store
from ledger.views import kept_by, recent_view, statement_view
from protocol.errors import IntegrityError
from tests.ledger.parties import (
    CLIENT,
    MANIFEST,
    NOW_MS,
    PROVIDER,
    RATES,
    STRANGER,
    SWARM,
    closed_receipt,
    open_tab,
    ran,
    settle,
)

DAY_MS = 86_400_000
FIRST = NOW_MS // DAY_MS
N = 9


def receipts():
    """Earned and spent, over days, two of one tab, at other prices, and one that never ran."""
    for number in range(N - 2):
        earns = number % 3 == 0
        parties = {"provider": CLIENT, "client": STRANGER} if earns else {}
        rates = RATES if number % 2 else type(RATES)(prefill_tl=number)
        bond = {"exec_profile": f"bfloat16/{number}", "rates": rates, "nonce": bytes([number]) * 16}
        payer, provider = open_tab(**parties, **bond)
        at = {"now_ms": NOW_MS + (number // 2) * DAY_MS}
        settle(payer, provider, ran(20).meter(), final=False, **at)
        if number == 1:
            yield payer.receipt()
        settle(payer, provider, ran(40 + number).meter(), **at)
        yield payer.receipt()
    yield open_tab(nonce=b"never-ran-------")[0].receipt()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with Ledger.open(home, CLIENT, SWARM) as ledger:
        ledger.append_all(list(receipts()))
    return home


@pytest.fixture(scope="module")
def older(home, tmp_path_factory):
    """The same log, as a version that wrote no rows left it."""
    older = tmp_path_factory.mktemp("older")
    shutil.copytree(home, older, dirs_exist_ok=True)
    write(older, "DROP TABLE line")
    return older


@pytest.fixture
def copy(home, tmp_path):
    shutil.copytree(home, tmp_path / "copy")
    return tmp_path / "copy"


def write(home, sql, *values):
    database = sqlite3.connect(home / FILE_NAME)
    with database:
        database.execute(sql, values)
    database.close()


def rows(home):
    with LedgerReader.read(home) as reader:
        return [row for row in reader.rows() if len(row) > 8]


days = st.integers(FIRST - 1, FIRST + 4)
choices = st.builds(
    lambda ends, peer, model: Choice(first=min(ends), last=max(ends), peer=peer, model=model),
    st.tuples(days, days),
    st.sampled_from((None, peer_name(PROVIDER.public_key), peer_name(STRANGER.public_key))),
    st.sampled_from(("", MANIFEST.hex()[:6], "00")),
)


@settings(deadline=None, max_examples=25)
@given(choices)
def test_a_statement_from_rows_is_the_statement_from_receipts(home, older, choice):
    with LedgerReader.read(home) as ours, LedgerReader.read(older) as theirs:
        from_rows, from_receipts = (make_statement(kept_by(r), choice) for r in (ours, theirs))

    assert from_rows == from_receipts


@pytest.mark.parametrize("by", [None, *GROUPS])
def test_what_people_see_is_the_same_with_rows_and_without(home, older, by):
    views = [statement_view(Book("client", at), by=by) for at in (home, older)]

    assert len(views[0]["tabs"]) == N
    assert views[0] == views[1]
    assert recent_view(Book("client", home), 3) == recent_view(Book("client", older), 3)


def test_a_receipt_that_was_opened_before_reads_the_same():
    for receipt in receipts():
        assert read_receipt(Receipt.decode(receipt.encode())) == open_receipt(receipt, SWARM)


def test_a_log_is_read_in_pages(home):
    with LedgerReader.read(home) as reader:
        assert list(reader.rows(most=2)) == list(reader.rows())
        assert [row[0] for row in reader.rows(4, most=2)] == list(range(4, N))


def test_an_older_log_gets_its_rows_when_its_owner_opens_it(home, older, tmp_path):
    shutil.copytree(older, tmp_path / "log")
    Ledger.open(tmp_path / "log", CLIENT, SWARM).close()

    assert rows(tmp_path / "log") == rows(home)
    assert len(rows(home)) == N
    assert verify_ledger(tmp_path / "log", CLIENT.public_key).holds


def test_an_older_log_holds_and_is_read_without_its_owner(older):
    assert verify_ledger(older, CLIENT.public_key).holds
    assert rows(older) == []


def test_entries_that_an_older_version_added_meanwhile_get_their_rows(home, copy):
    write(copy, "DELETE FROM line WHERE idx IN (0, 4)")
    assert len(rows(copy)) == N - 2

    Ledger.open(copy, CLIENT, SWARM).close()

    assert rows(copy) == rows(home)


def test_an_opening_writes_so_many_rows_and_no_more_the_newest_first(home, copy):
    write(copy, "DELETE FROM line")
    store = Store.open(copy / FILE_NAME)
    seen = []
    for _ in range(3):
        fill_lines(store, most=4)
        seen.append([row[0] for row in rows(copy)])
    store.close()

    assert seen == [[5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8], list(range(N))]
    assert rows(copy) == rows(home)


def test_a_receipt_that_is_not_the_one_logged_gets_no_row_and_no_line(copy, caplog):
    write(copy, "DELETE FROM line")
    write(copy, "UPDATE body SET receipt = (SELECT receipt FROM body WHERE idx = 2) WHERE idx = 3")
    write(copy, "UPDATE body SET receipt = x'00' WHERE idx = 5")

    Ledger.open(copy, CLIENT, SWARM).close()

    assert [row[0] for row in rows(copy)] == [0, 1, 2, 4, 6, 7, 8]
    assert "no accounting row" in caplog.text
    with pytest.raises(IntegrityError):
        statement_view(Book("client", copy))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_changed_row_is_found_and_its_entry_named(copy, column):
    ((value,),) = read(copy, f"SELECT {column} FROM line WHERE idx = 2")
    other = {
        int: lambda: value ^ 1,
        bytes: lambda: bytes([7]) + value[1:],
        str: lambda: value + "!",
    }
    write(copy, f"UPDATE line SET {column} = ? WHERE idx = 2", other[type(value)]())

    failures = verify_ledger(copy, CLIENT.public_key).failures

    assert [(f.entry, f.part, f.reason.split()[0]) for f in failures] == [(2, "line", column)]


def read(home, sql):
    database = sqlite3.connect(home / FILE_NAME)
    found = database.execute(sql).fetchall()
    database.close()
    return found


def test_a_row_beyond_the_log_is_found(copy):
    write(copy, "UPDATE line SET idx = 99 WHERE idx = 2")

    failures = verify_ledger(copy, CLIENT.public_key).failures

    assert [(failure.entry, failure.part) for failure in failures] == [(99, "log")]


@pytest.mark.parametrize("column", ["constraints", "rates"])
def test_a_row_that_cannot_be_read_is_our_own_fault_and_said(copy, column):
    write(copy, f"UPDATE line SET {column} = x'ff' WHERE idx = 2")

    with pytest.raises(IntegrityError):
        statement_view(Book("client", copy))


def test_values_of_other_types_than_were_written_are_refused(home):
    row = rows(home)[0]
    for at in range(len(row)):
        with pytest.raises(IntegrityError):
            check_types((*row[:at], None, *row[at + 1 :]))


def test_a_full_disk_keeps_nobody_from_opening_an_older_log(tmp_path, caplog):
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger:
        ledger.append_all([closed_receipt(nonce=i.to_bytes(16, "big")) for i in range(40)])
    write(tmp_path, "DELETE FROM line")  # forty rows take three pages, the empty table has one
    sqlite3.connect(tmp_path / FILE_NAME).execute("VACUUM").connection.close()
    store = Store.open(tmp_path / FILE_NAME)
    ((n_pages,),) = store.execute("PRAGMA page_count")
    store.execute(f"PRAGMA max_page_count = {n_pages}")

    fill_lines(store)

    assert "no room for accounting rows" in caplog.text
    assert rows(tmp_path) == []
    store.execute(f"PRAGMA max_page_count = {n_pages + 20}")
    fill_lines(store)
    store.close()
    assert len(rows(tmp_path)) == 40

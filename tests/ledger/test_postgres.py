"""A ledger on a server: what is lost with a connection, who waits for whom, and what is said."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from ledger import Ledger, LedgerReader, verify_ledger
from ledger.address import Address
from ledger.errors import BadObject, DamagedLedger, LedgerBusy, LedgerUnreachable
from ledger.places import POINTER, address_of, agree, open_at, open_store, point
from ledger.reader import FILE_NAME
from protocol.errors import ConfigError, UsageError
from tests.ledger.parties import CLIENT, SWARM
from tests.ledger.servers import running
from tests.ledger.test_log import receipts

pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture
def on_server(tmp_path, server):
    agree(tmp_path, server.url, CLIENT.public_key, FILE_NAME)
    return tmp_path


def test_43_a_server_that_is_killed_loses_no_acknowledged_entry_and_signs_no_size_twice(tmp_path):
    with running() as server:
        agree(tmp_path, server.url, CLIENT.public_key, FILE_NAME)
        ledger = Ledger.open(tmp_path, CLIENT, SWARM)
        told = ledger.append_all(receipts(3))
        server.kill()

        for _ in range(2):
            with pytest.raises(LedgerUnreachable, match="cannot be reached") as caught:
                ledger.append(receipts(4)[3])
            assert caught.value.exit_code == 3
            assert "psql" in caught.value.hint
        server.start()

        assert ledger.append(receipts(4)[3]).index == 3  # the same object: it connects again
        assert list(ledger.entries())[:3] == told
        ledger.close()
        report = verify_ledger(tmp_path, CLIENT.public_key)
        assert (report.failures, report.n_entries) == ([], 4)


def test_a_value_that_a_server_cannot_keep_is_no_damage(on_server):
    with Ledger.open(on_server, CLIENT, SWARM) as ledger:
        ledger.append(receipts(1)[0])
        with pytest.raises(BadObject, match="no such value"):
            ledger._store.execute("SELECT ?::text", ("a\x00b",))

        assert len(ledger) == 1


def test_43_a_connection_cut_within_a_transaction_leaves_nothing_of_it(on_server, server):
    with Ledger.open(on_server, CLIENT, SWARM) as ledger:
        ledger.append(receipts(1)[0])
        store = ledger._store
        (pid,) = store.execute("SELECT pg_backend_pid()")[0]

        def is_cut():
            store.execute("DELETE FROM entry")
            with closing(open_store(on_server, FILE_NAME)) as other:
                other.execute("SELECT pg_terminate_backend(?)", (pid,))
            store.execute("SELECT 1")

        with pytest.raises(LedgerUnreachable), store.transaction():
            is_cut()

        assert len(ledger) == 1
        assert ledger.append(receipts(2)[1]).index == 1


def test_one_writes_at_a_time_and_who_waits_too_long_is_told(on_server):
    Ledger.open(on_server, CLIENT, SWARM).close()
    holder = open_store(on_server, FILE_NAME)
    waiter = open_store(on_server, FILE_NAME, timeout_s=0.05)

    with holder.transaction(), pytest.raises(LedgerBusy, match="locked"), waiter.transaction():
        pass
    with waiter.transaction(), holder.snapshot():  # who reads waits for nobody
        pass
    holder.close()
    waiter.close()


def test_threads_share_a_connection(on_server):
    with Ledger.open(on_server, CLIENT, SWARM) as ledger, ThreadPoolExecutor(4) as threads:
        entries = list(threads.map(ledger.append, receipts(12)))

    assert sorted(entry.index for entry in entries) == list(range(12))


def test_a_ledger_changed_on_the_server_is_named_and_never_signed_again(on_server):
    with Ledger.open(on_server, CLIENT, SWARM) as ledger:
        ledger.append_all(receipts(3))
        ledger._store.execute("UPDATE entry SET net = net + 1 WHERE idx = 1")
        ledger._store.execute("DELETE FROM node WHERE level = 1")

        with pytest.raises(DamagedLedger) as caught:
            ledger.append(receipts(4)[3])
    assert "newest" in caught.value.hint
    failures = verify_ledger(on_server, CLIENT.public_key).failures
    assert {failure.entry for failure in failures} >= {1}


def test_31_a_dump_put_back_that_is_older_signs_nothing(on_server):
    with Ledger.open(on_server, CLIENT, SWARM) as ledger:
        ledger.append_all(receipts(2))
        store = ledger._store
        ledger.append(receipts(3)[2])
        for table in ("entry", "body", "line"):
            store.execute(f"DELETE FROM {table} WHERE idx = 2")
        store.execute("DELETE FROM checkpoint WHERE size = 3")
        store.execute("DELETE FROM node WHERE level = 0 AND idx = 2")

    with pytest.raises(DamagedLedger, match="promises 3 entries"):
        Ledger.open(on_server, CLIENT, SWARM)


def test_where_a_ledger_is_is_told_without_its_password(tmp_path):
    url = "postgresql://me:s3cret@nowhere.invalid:1/books"
    agree(tmp_path, url, CLIENT.public_key, FILE_NAME)

    with pytest.raises(LedgerUnreachable) as caught:
        Ledger.open(tmp_path, CLIENT, SWARM)
    assert "nowhere.invalid/books" in str(caught.value)
    assert "s3cret" not in f"{caught.value} {caught.value.hint} {address_of(tmp_path)!r}"
    assert (tmp_path / POINTER).stat().st_mode & 0o777 == 0o600


def test_a_ledger_that_is_elsewhere_is_not_begun_anew(tmp_path, server):
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger:
        ledger.append(receipts(1)[0])
    with pytest.raises(ConfigError, match="in files there") as caught:
        agree(tmp_path, server.url, CLIENT.public_key, FILE_NAME)
    assert "migrate" in caught.value.hint

    other = tmp_path / "other"
    other.mkdir()
    agree(other, server.url, CLIENT.public_key, FILE_NAME)
    agree(other, server.url, CLIENT.public_key, FILE_NAME)
    with pytest.raises(ConfigError, match="PostgreSQL"):
        agree(other, server.url + "&application_name=x", CLIENT.public_key, FILE_NAME)


def test_what_is_no_address_is_an_error_of_use_or_damage(tmp_path, server):
    for url in ("mysql://x", "postgresql://a b", ""):
        with pytest.raises(UsageError):
            agree(tmp_path, url, CLIENT.public_key, FILE_NAME)
    (tmp_path / POINTER).write_text("garbage\n")
    with pytest.raises(DamagedLedger):
        LedgerReader.read(tmp_path)
    with pytest.raises(ConfigError, match="no ledger"):
        open_at(Address(server.url, "mh_nobody").at(FILE_NAME))
    with pytest.raises(LedgerUnreachable, match="does not exist"):
        open_at(Address(server.url.replace("/postgres", "/other"), "mh_nobody").at(FILE_NAME))


def test_without_psycopg_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ledger.postgres", None)
    point(tmp_path, Address("postgresql://x/y", "mh_x"))

    with pytest.raises(ConfigError) as caught:
        open_store(tmp_path, FILE_NAME)
    assert "manyhands[postgres]" in caught.value.hint

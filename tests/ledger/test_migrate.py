"""Ledgers are taken to a server and back: all arrives, and nobody signs on where they were."""

import json
import shutil

import pytest
from click.testing import CliRunner

from ledger import Ledger, LedgerReader, verify_ledger
from ledger.address import Address
from ledger.cli import ledger as commands
from ledger.cosigning import Witnesses
from ledger.errors import DamagedLedger, ForeignLedger, LedgerBusy
from ledger.migrate import DATABASES, migrate, tables_of
from ledger.places import POINTER, address_of, open_at, open_store
from ledger.reader import FILE_NAME
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from protocol.errors import ConfigError, IntegrityError
from protocol.identity import load_or_create_identity
from tests.ledger.parties import CLIENT, SWARM
from tests.ledger.spenders import ASSET, BEN, ISSUER, allot, chained, grant
from tests.ledger.test_log import receipts
from tests.ledger.test_spend_books import learn

NOBODY = Witnesses()
ME = CLIENT


@pytest.fixture
def address(tmp_path, server):
    return Address.of(server.url, f"t{abs(hash(tmp_path)) % 10**9}", ME.public_key)


@pytest.fixture
def home(tmp_path):
    """A receipts log, a spend log and books of others' spend logs."""
    home = tmp_path / "node"
    with Ledger.open(home, ME, SWARM) as ledger:
        ledger.append_all(receipts(30))
    with SpendLog.open(home, ME, SWARM) as log:
        log.append(*(allot(ME, BEN, 5, no=i) for i in range(20)))
    with SpendBooks.open(home, SWARM, NOBODY) as books:
        learn(books, ISSUER.public_key, chained(grant(BEN, 100)))
    return home


def all_of(home):
    with (
        LedgerReader.read(home) as reader,
        SpendLog.open(home, ME, SWARM) as log,
        SpendBooks.open(home, SWARM, NOBODY) as books,
    ):
        receipts_ = [reader.receipt(entry.receipt_id) for entry in reader.entries()]
        known = books.books(), books.available(BEN.public_key, ASSET)
        return list(reader.entries()), receipts_, log.leaves(), log.checkpoint(), known


def test_all_of_a_party_arrives_on_a_server_and_comes_back_as_it_was(home, address):
    before = all_of(home)
    with LedgerReader.read(home) as reader:
        root = reader.checkpoint().root.hex()

    there = migrate(home, address)
    assert address_of(home) == address
    assert [each.root for each in there[:1]] == [root]
    assert all_of(home) == before
    assert not list(home.glob("*.sqlite"))
    with Ledger.open(home, ME, SWARM) as ledger:  # goes on there
        ledger.append(receipts(31)[30])
    assert verify_ledger(home, ME.public_key).failures == []

    migrate(home, None)
    assert not (home / POINTER).exists()
    assert verify_ledger(home, ME.public_key).failures == []
    with Ledger.open(home, ME, SWARM) as ledger:
        assert len(ledger) == 31
        ledger.append(receipts(32)[31])
    assert all_of(home)[2:] == before[2:]

    again = migrate(home, address)  # only what is new has to be written
    assert again[0].rows["entry"] == 32
    assert again[0].n_written < sum(again[0].rows.values()) / 4
    assert verify_ledger(home, ME.public_key).failures == []


def test_what_is_broken_off_is_begun_again_and_writes_the_rest_only(home, address):
    before = all_of(home)

    class BrokeOff(Exception):
        pass

    def breaks(name, table, n_rows):
        if (name, table) == ("spend.sqlite", "leaf"):
            raise BrokeOff

    with pytest.raises(BrokeOff):
        migrate(home, address, breaks)
    assert address_of(home) is None
    with Ledger.open(home, ME, SWARM) as ledger:  # goes on where it was
        ledger.append(receipts(31)[30])

    first = migrate(home, address)[0]
    assert 0 < first.n_written < 12  # an entry and its tree, not thirty
    assert all_of(home)[2:] == before[2:]
    assert verify_ledger(home, ME.public_key).n_entries == 31


def test_43_killed_before_the_pointer_turns_nobody_writes_until_it_is_begun_again(
    home, address, monkeypatch
):
    """The moment between: what is left is unfit already, the pointer leads there still."""
    (home / f"{POINTER}.new").mkdir()  # the pointer cannot be written
    with pytest.raises(ConfigError):
        migrate(home, address)

    with Ledger.open(home, ME, SWARM) as ledger, pytest.raises(DamagedLedger):
        ledger.append(receipts(31)[30])
    (home / f"{POINTER}.new").rmdir()
    migrate(home, address)

    with Ledger.open(home, ME, SWARM) as ledger:
        assert ledger.append(receipts(31)[30]).index == 30


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True])
def test_43_a_process_that_still_has_the_ledger_open_signs_nothing_there(home, address, back):
    if back:
        migrate(home, address)
    with Ledger.open(home, ME, SWARM) as left:
        migrate(home, None if back else address)
        with pytest.raises(IntegrityError):
            left.append(receipts(31)[30])
    with Ledger.open(home, ME, SWARM) as ledger:
        assert ledger.append(receipts(31)[30]).index == 30


@pytest.mark.slow
def test_who_writes_meanwhile_is_not_overtaken(home, address):
    store = open_store(home, FILE_NAME)
    with store.transaction(), pytest.raises(LedgerBusy):
        migrate(home, address)
    store.close()
    assert address_of(home) is None


@pytest.mark.slow
def test_rows_that_do_not_match_the_signed_head_are_not_taken_along(home, address):
    store = open_store(home, FILE_NAME)
    store.execute("UPDATE node SET hash = ? WHERE level = 1 AND idx = 14", (bytes(32),))
    store.close()

    with pytest.raises(DamagedLedger):
        migrate(home, address)
    assert address_of(home) is None


@pytest.mark.slow
def test_what_is_somebody_elses_there_is_left_alone(home, address):
    other = open_at(address.at(FILE_NAME), create=True)
    other.execute("INSERT INTO meta VALUES ('account', ?)", (BEN.public_key,))

    with pytest.raises(ForeignLedger):
        migrate(home, address)
    assert other.execute("SELECT count(*) FROM meta") == [(1,)]
    other.close()


def test_every_table_has_a_key_by_which_rows_are_compared():
    for database in DATABASES:
        tables = tables_of(database.schema)
        assert database.vital in {table.name for table in tables}
        assert all(table.key for table in tables)


def test_migrate_is_a_command_that_says_what_arrived(tmp_path, server):
    identity = load_or_create_identity(tmp_path / "client" / "identity.key")
    with Ledger.open(tmp_path / "client", identity.key, SWARM):
        pass
    shutil.copy(tmp_path / "client" / "identity.key", tmp_path / "kept.key")

    def run(*arguments):
        return CliRunner().invoke(commands, [*map(str, arguments), "--home", str(tmp_path)])

    told = json.loads(run("migrate", "--to", server.url, "--json").stdout)
    assert told["schema"] == "manyhands/ledger-migrate/v1"
    assert "PostgreSQL" in told["ledgers"][0]["to"]
    assert run("verify").exit_code == 0
    assert isinstance(run("migrate", "--to", server.url).exception, ConfigError)
    back = run("migrate", "--to", "sqlite")
    assert "files in" in back.output
    assert run("verify").exit_code == 0

"""A damaged log is made whole, from what is left and from copies, or nothing is changed."""

import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger import Ledger, verify_ledger
from ledger.cli import ledger as commands
from ledger.errors import DamagedLedger, LedgerBusy
from ledger.reader import FILE_NAME
from ledger.repair import RECEIPTS, SPENDING, repair
from ledger.spend_log import SpendLog
from ledger.store import Store
from protocol.errors import ConfigError, IntegrityError
from protocol.identity import load_or_create_identity
from tests.ledger.parties import CLIENT, SWARM
from tests.ledger.spenders import ANN, BEN, allot
from tests.ledger.test_log import receipts

ME = CLIENT.public_key


@pytest.fixture
def home(memory_path):
    """Thirty receipts, and a copy from when there were twenty."""
    with Ledger.open(memory_path, CLIENT, SWARM) as ledger:
        ledger.append_all(receipts(20))
    shutil.copy(memory_path / FILE_NAME, memory_path / "copy")
    with Ledger.open(memory_path, CLIENT, SWARM) as ledger:
        for receipt in receipts(30)[20:]:
            ledger.append(receipt)
    return memory_path


def is_whole(home, n=30):
    with Ledger.open(home, CLIENT, SWARM) as ledger:
        assert [ledger.receipt(entry.receipt_id) for entry in ledger.entries()] == receipts(n)
        ledger.append(receipts(n + 1)[n])
    report = verify_ledger(home, ME)
    assert (report.failures, report.n_entries) == ([], n + 1)


def test_a_sound_log_is_as_it_was_after_a_repair(home):
    repaired = repair(home, RECEIPTS, ME, SWARM)

    assert (repaired.n_entries, repaired.lost_receipts) == (30, [])
    is_whole(home)
    assert (home / f"{FILE_NAME}.damaged").exists()


def test_43_lost_pages_are_filled_from_what_is_left_and_from_an_older_copy(home):
    whole = bytearray((home / FILE_NAME).read_bytes())
    n_mended = 0
    for seed in range(6):
        page = random.Random(seed).randrange(1, len(whole) // 4096)
        (home / FILE_NAME).write_bytes(
            whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :]
        )
        before = (home / FILE_NAME).read_bytes()
        try:
            repaired = repair(home, RECEIPTS, ME, SWARM, [home / "copy"])
        except DamagedLedger:  # what came after the copy, and is nowhere else
            assert (home / FILE_NAME).read_bytes() == before
            continue
        failures = verify_ledger(home, ME).failures
        assert {failure.entry for failure in failures} <= set(repaired.lost_receipts)
        n_mended += not repaired.lost_receipts
    assert n_mended >= 2


def test_31_a_log_is_never_made_an_older_one(home):
    shutil.copy(home / "copy", home / FILE_NAME)

    with pytest.raises(DamagedLedger, match=r"\[20, 21"):
        repair(home, RECEIPTS, ME, SWARM)
    with pytest.raises(DamagedLedger, match="promises 30"):
        Ledger.open(home, CLIENT, SWARM)


def test_a_log_is_made_whole_from_a_copy_alone_where_that_has_all_that_was_signed(home):
    shutil.copy(home / FILE_NAME, home / "newest")
    (home / FILE_NAME).unlink()

    repair(home, RECEIPTS, ME, SWARM, [home / "newest"])

    is_whole(home)


def test_entries_that_somebody_changed_are_put_back_or_refused(home):
    ledger = Ledger.open(home, CLIENT, SWARM)
    ledger._store.execute("UPDATE entry SET net = net + 1, session_id = x'00' WHERE idx = 25")
    ledger._store.execute("UPDATE node SET hash = ? WHERE level = 2", (bytes(32),))
    ledger.close()
    repair(home, RECEIPTS, ME, SWARM)
    is_whole(home)

    (home / f"{FILE_NAME}.damaged").unlink()
    with Ledger.open(home, CLIENT, SWARM) as ledger:
        ledger._store.execute("UPDATE entry SET net = net + 1 WHERE idx = 25")
        ledger._store.execute("DELETE FROM body WHERE idx = 25")
    with pytest.raises(DamagedLedger, match="signed"):
        repair(home, RECEIPTS, ME, SWARM)


def test_a_copy_of_another_account_is_refused(home, tmp_path):
    SpendLog.open(tmp_path, ANN, SWARM).close()

    with pytest.raises(ConfigError, match="no copy"):
        repair(home, RECEIPTS, ME, SWARM, [tmp_path / "spend.sqlite"])
    with pytest.raises(ConfigError):
        repair(tmp_path / "nowhere", RECEIPTS, ME, SWARM)


def test_a_spend_log_is_made_whole_with_its_cosigned_checkpoints(memory_path):
    with SpendLog.open(memory_path, ANN, SWARM) as log:
        log.append(*(allot(ANN, BEN, 5, no=i) for i in range(9)))
        log._store.execute("DELETE FROM node WHERE level > 0")
        leaves, note = log.leaves(), log.checkpoint()

        with pytest.raises(IntegrityError):
            log.append(allot(ANN, BEN, 5, no=50))
    repair(memory_path, SPENDING, ANN.public_key, SWARM)

    with SpendLog.open(memory_path, ANN, SWARM) as log:
        assert (log.leaves(), log.checkpoint()) == (leaves, note)
        log.append(allot(ANN, BEN, 5, no=50))


def test_repair_is_a_command_that_the_error_names(memory_path):
    identity = load_or_create_identity(memory_path / "client" / "identity.key")
    Ledger.open(memory_path / "client", identity.key, SWARM).close()
    path = memory_path / "client" / FILE_NAME
    shutil.copy(path, memory_path / "copy")
    path.write_bytes(b"no database" * 1000)

    def run(*arguments):
        return CliRunner().invoke(commands, [*map(str, arguments), "--home", str(memory_path)])

    with pytest.raises(DamagedLedger) as caught:
        Ledger.open(memory_path / "client", identity.key, SWARM)
    assert "manyhands ledger repair" in caught.value.hint
    told = json.loads(run("repair", "--copy", memory_path / "copy", "--json").stdout)
    assert told["ledgers"][0]["n_entries"] == 0
    assert run("verify").exit_code == 0
    assert isinstance(run("repair", "--spending").exception, ConfigError)


def test_a_log_that_another_process_has_open_is_left_alone(home):
    program = (
        "import sys; from pathlib import Path; from ledger import Ledger\n"
        "from tests.ledger.parties import CLIENT, SWARM\n"
        "with Ledger.open(Path(sys.argv[1]), CLIENT, SWARM):\n"
        "    print('open', flush=True); sys.stdin.read()\n"
    )
    node = subprocess.Popen(
        [sys.executable, "-c", program, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert node.stdout.readline() == b"open\n"
        with pytest.raises(LedgerBusy, match="another process"):
            repair(home, RECEIPTS, ME, SWARM)
    finally:
        node.communicate()
    repair(home, RECEIPTS, ME, SWARM)
    is_whole(home)


def test_what_was_put_aside_is_kept_and_read_by_the_next_repair(home):
    first = (home / FILE_NAME).read_bytes()
    repair(home, RECEIPTS, ME, SWARM)
    assert (home / f"{FILE_NAME}.damaged").read_bytes() == first
    shutil.copy(home / "copy", home / FILE_NAME)

    repair(home, RECEIPTS, ME, SWARM)

    assert (home / f"{FILE_NAME}.damaged").read_bytes() == first
    assert (home / f"{FILE_NAME}.damaged-2").exists()
    is_whole(home)


def test_what_was_erased_is_not_brought_back_by_a_copy(home):
    shutil.copy(home / FILE_NAME, home / "before")
    with Ledger.open(home, CLIENT, SWARM) as ledger:
        ledger._store.execute("DELETE FROM body WHERE idx = 7")
        ledger._store.execute("INSERT INTO pruned VALUES (7, x'')")

    repaired = repair(home, RECEIPTS, ME, SWARM, [home / "before"])

    assert repaired.lost_receipts == []
    with Ledger.open(home, CLIENT, SWARM) as ledger:
        assert ledger._store.execute("SELECT count(*) FROM body WHERE idx = 7") == [(0,)]
        assert ledger._store.execute("SELECT idx FROM pruned") == [(7,)]


def test_tabs_that_are_open_are_those_of_the_log_and_a_namesake_is_no_copy(home, tmp_path):
    with Ledger.open(tmp_path, ANN, SWARM):
        pass
    with pytest.raises(ConfigError, match="no copy"):
        repair(home, RECEIPTS, ME, SWARM, [tmp_path / FILE_NAME])
    with closing(Store.open(home / "copy")) as copy:
        copy.execute("INSERT INTO open_tab VALUES (?, ?, ?)", (bytes(16), "gone", b"old"))

    repair(home, RECEIPTS, ME, SWARM, [home / "copy"])

    with closing(Store.open(home / FILE_NAME)) as store:
        assert store.execute("SELECT count(*) FROM open_tab") == [(0,)]

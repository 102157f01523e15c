"""The log on disk: appending, proving, surviving crashes, refusing what is not its own."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger, LedgerReader, Proof, open_receipt, verify_ledger, verify_proof
from ledger.errors import BadReceipt, DamagedLedger, ForeignLedger, LedgerBusy
from ledger.reader import FILE_NAME, HEAD_NAME
from ledger.receipts import Receipt
from ledger.store import Store
from protocol.errors import ConfigError, IntegrityError, UsageError
from tests.ledger.crashes import killed_before_it_keeps, rows, wait_until
from tests.ledger.parties import (
    CLIENT,
    NOW_MS,
    PROVIDER,
    STRANGER,
    SWARM,
    closed_receipt,
    open_tab,
    ran,
    settle,
    state,
)

ROOT = Path(__file__).parents[2]


def receipts(n):
    return [closed_receipt(8 + i, nonce=i.to_bytes(16, "big")) for i in range(n)]


@pytest.fixture
def ledger(home):
    with Ledger.open(home, CLIENT, SWARM) as ledger:
        yield ledger


def test_an_appended_receipt_is_found_again_and_proves_its_place(ledger):
    logged = [ledger.append(receipt) for receipt in receipts(5)]

    for entry, receipt in zip(logged, receipts(5), strict=True):
        proof = ledger.prove(entry.receipt_id)
        assert ledger.receipt(entry.receipt_id) == receipt
        assert verify_proof(proof, CLIENT.public_key, SWARM) == open_receipt(receipt, SWARM)
    assert list(ledger.entries()) == logged
    assert [entry.index for entry in logged] == [0, 1, 2, 3, 4]


def test_both_parties_log_the_same_claim(tmp_path):
    claims = []
    for key in (CLIENT, PROVIDER):
        home = tmp_path / key.public_key.hex()
        home.mkdir()
        with Ledger.open(home, key, SWARM) as ledger:
            ledger.append(closed_receipt())
            claims.append([entry.claim(ledger.account) for entry in ledger.entries()])

    assert claims[0] == claims[1]


def test_appending_again_changes_nothing(ledger):
    first = ledger.append(closed_receipt())
    head = ledger.checkpoint()

    assert ledger.append(closed_receipt()) == first
    assert ledger.append_all([closed_receipt(), closed_receipt()]) == [first, first]
    assert ledger.checkpoint() == head


def test_a_receipt_twice_in_one_batch_is_one_entry(ledger):
    one, two = receipts(2)

    entries = ledger.append_all([one, two, one])

    assert [entry.index for entry in entries] == [0, 1, 0]
    assert list(ledger.entries()) == entries[:2]
    assert verify_ledger(ledger.directory, CLIENT.public_key).holds


def test_a_receipt_that_was_read_and_changed_is_encoded_as_it_is_now():
    read = Receipt.decode(closed_receipt().encode())
    changed = replace(read, voucher=None)

    assert changed.encode() == Receipt(**parts(changed)).encode() != read.encode()
    assert read.encode() == Receipt(**parts(read)).encode()


def parts(receipt):
    return {name: getattr(receipt, name) for name in ("offer", "terms", "statement", "voucher")}


def test_terms_that_were_checked_are_checked_again_when_one_byte_of_them_differs():
    receipt = closed_receipt()
    open_receipt(receipt, SWARM)
    (key, signature), other = receipt.terms.signatures
    forged = ((key, signature[:-1] + bytes([signature[-1] ^ 1])), other)

    with pytest.raises(BadReceipt, match="terms"):
        open_receipt(replace(receipt, terms=replace(receipt.terms, signatures=forged)), SWARM)
    with pytest.raises(BadReceipt):
        open_receipt(receipt, b"another swarm's id, of 32 bytes.")


def test_one_bad_receipt_in_a_batch_logs_none(ledger):
    good, bad = receipts(2)
    swapped = type(bad)(offer=bad.offer, terms=bad.terms, voucher=good.voucher)

    with pytest.raises(BadReceipt):
        ledger.append_all([good, swapped])
    assert len(ledger) == 0


def test_a_receipt_between_others_is_not_logged(ledger):
    with pytest.raises(UsageError):
        ledger.append(closed_receipt(client=STRANGER))


def test_a_proof_fails_when_any_part_of_it_is_changed(ledger):
    entries = ledger.append_all(receipts(6))
    good = ledger.prove(entries[2].receipt_id)
    other = ledger.prove(entries[3].receipt_id)
    parts = {name: getattr(good, name) for name in Proof.__slots__}

    for name in Proof.__slots__:
        with pytest.raises(IntegrityError):
            verify_proof(
                Proof(**parts | {name: getattr(other, name)})
                if name != "checkpoint"
                else Proof(**parts | {name: good.checkpoint.replace("\n6\n", "\n7\n")}),
                CLIENT.public_key,
                SWARM,
            )
    with pytest.raises(IntegrityError):
        verify_proof(good, PROVIDER.public_key, SWARM)
    with pytest.raises(IntegrityError):
        verify_proof(good, CLIENT.public_key, bytes(32))


def test_the_file_is_for_its_owner_only(ledger, tmp_path):
    ledger.append(closed_receipt())

    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_tabs_still_open_are_closed_into_receipts_on_the_way_out(home):
    payer, provider = open_tab()
    settle(payer, provider, ran(9).meter(), final=False)

    with Ledger.open(home, CLIENT, SWARM) as ledger:
        ledger.save_tab(payer.receipt())
        assert ledger.open_tabs() == [payer.receipt()]
    with LedgerReader.read(home) as reader:
        assert [entry.net for entry in reader.entries()] == [payer.promised]
        assert reader.open_tabs() == []
    assert [path.name for path in home.glob("tabs-*")] == []


CRASH = """
import os, signal, sys
from pathlib import Path
from ledger import Ledger
from tests.ledger.parties import *
payer, provider = open_tab()
ledger = Ledger.open(Path(sys.argv[1]), CLIENT, SWARM)
for positions in (9, 14):
    settle(payer, provider, ran(positions).meter(), final=False)
    ledger.save_tab(payer.receipt())
print(payer.promised, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run_python(code, *args, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, **options
    )


def test_a_killed_process_loses_no_voucher_it_saved(home):
    process = run_python(CRASH, home)
    promised = int(process.communicate()[0])
    assert process.returncode == -signal.SIGKILL

    with Ledger.open(home, CLIENT, SWARM) as ledger:
        assert [entry.net for entry in ledger.entries()] == [promised]
        assert ledger.open_tabs() == []
    assert verify_ledger(home, CLIENT.public_key).holds


def test_a_live_process_keeps_its_open_tabs(home):
    payer, _ = open_tab()
    with Ledger.open(home, CLIENT, SWARM) as first:
        first.save_tab(payer.receipt())

        with Ledger.open(home, CLIENT, SWARM) as second:
            assert len(second) == 0
            assert second.open_tabs() == [payer.receipt()]


APPEND = """
import sys
from pathlib import Path
from ledger import Ledger
from tests.ledger.parties import *
with Ledger.open(Path(sys.argv[1]), CLIENT, SWARM) as ledger:
    for i in range(int(sys.argv[3])):
        ledger.append(closed_receipt(nonce=f"{sys.argv[2]}-{i}".ljust(16).encode()))
"""


def test_several_processes_share_one_log(home):
    processes = [run_python(APPEND, home, name, 8) for name in "abcd"]

    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    report = verify_ledger(home, CLIENT.public_key)
    assert report.failures == []
    assert (report.n_entries, report.n_checkpoints) == (32, 32)


def test_a_database_of_another_identity_or_swarm_is_refused(home):
    Ledger.open(home, CLIENT, SWARM).close()

    with pytest.raises(ForeignLedger, match="identity") as caught:
        Ledger.open(home, STRANGER, SWARM)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    with pytest.raises(ForeignLedger, match="swarm"):
        Ledger.open(home, CLIENT, bytes(32))


@pytest.mark.parametrize("kept", [0, 50, 4096, 5000, 20_000])
def test_a_truncated_database_is_refused(tmp_path, kept):
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger:
        ledger.append_all(receipts(8))
    os.truncate(tmp_path / FILE_NAME, kept)

    with pytest.raises(DamagedLedger) as caught:
        Ledger.open(tmp_path, CLIENT, SWARM)
    assert caught.value.exit_code == 8
    assert caught.value.hint


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a ledger at all" * 400)

    with pytest.raises(DamagedLedger):
        Ledger.open(tmp_path, CLIENT, SWARM)


def test_31_a_database_put_back_to_an_older_state_signs_nothing(tmp_path):
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger:
        ledger.append(receipts(2)[0])
    older = (tmp_path / FILE_NAME).read_bytes()
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger:
        ledger.append(receipts(2)[1])
    (tmp_path / FILE_NAME).write_bytes(older)

    with pytest.raises(DamagedLedger, match="promises 2 entries"):
        Ledger.open(tmp_path, CLIENT, SWARM)
    assert not verify_ledger(tmp_path, CLIENT.public_key).holds


def test_a_checkpoint_beside_it_that_was_changed_is_refused(home):
    with Ledger.open(home, CLIENT, SWARM) as ledger:
        ledger.append(closed_receipt())
    note = home / HEAD_NAME
    note.write_text(note.read_text().replace("\n1\n", "\n2\n"))

    with pytest.raises(DamagedLedger):
        Ledger.open(home, CLIENT, SWARM)


def test_a_log_that_lost_its_end_names_the_first_missing_entry(tmp_path):
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger:
        ledger.append_all(receipts(2))
    older = (tmp_path / FILE_NAME).read_bytes()
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger:
        ledger.append_all(receipts(4)[2:])
    (tmp_path / FILE_NAME).write_bytes(older)

    (failure,) = verify_ledger(tmp_path, CLIENT.public_key).failures

    assert (failure.entry, failure.part) == (2, HEAD_NAME)


def test_a_locked_database_says_so_after_a_while(tmp_path):
    Ledger.open(tmp_path, CLIENT, SWARM).close()
    holder = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    store = Store.open(tmp_path / FILE_NAME, timeout_s=0.05)

    with pytest.raises(LedgerBusy, match="locked") as caught, store.transaction():
        pass

    assert caught.value.exit_code == 3
    holder.execute("ROLLBACK")
    with store.transaction():
        pass
    store.close()
    holder.close()


def test_a_missing_ledger_cannot_be_read(home):
    with pytest.raises(ConfigError, match="no ledger"):
        LedgerReader.read(home)


def test_a_tree_that_was_tampered_with_is_never_signed_again(home):
    with Ledger.open(home, CLIENT, SWARM) as ledger:
        ledger.append_all(receipts(3))
        ledger._store.execute("UPDATE node SET hash = ? WHERE level = 1 AND idx = 0", (bytes(32),))

        with pytest.raises(DamagedLedger, match="does not match"):
            ledger.append(closed_receipt(99))


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_however_receipts_are_batched_the_log_holds(tmp_path_factory, sizes):
    home = tmp_path_factory.mktemp("home")
    todo = receipts(sum(sizes))
    with Ledger.open(home, PROVIDER, SWARM) as ledger:
        for size in sizes:
            ledger.append_all([todo.pop(0) for _ in range(size)])

    report = verify_ledger(home, PROVIDER.public_key)
    assert report.failures == []
    assert (report.n_entries, report.n_checkpoints) == (sum(sizes), len(sizes))


def test_a_provider_that_dies_keeps_its_last_voucher(home):
    payer, provider = open_tab()
    settle(payer, provider, ran(10).meter(), final=False)
    state(provider, ran(14).meter(), now_ms=NOW_MS + 5)
    with Ledger.open(home, PROVIDER, SWARM) as ledger:
        ledger.save_tab(provider.receipt())

    with LedgerReader.read(home) as reader:
        (entry,) = reader.entries()
        assert entry.net == payer.promised


def test_31_a_ledger_killed_before_it_kept_its_head_keeps_it_when_it_is_opened_again(tmp_path):
    """Else the database, put back to before that entry, would sign another one in its place."""
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger:
        ledger.append(receipts(1)[0])
    older = (tmp_path / FILE_NAME).read_bytes()
    with killed_before_it_keeps(tmp_path / HEAD_NAME, APPEND, tmp_path, "a", 1) as process:
        wait_until(lambda: rows(tmp_path / FILE_NAME, "SELECT 1 FROM entry WHERE idx = 1"), process)
    assert (tmp_path / HEAD_NAME).read_text().split("\n")[1] == "1"

    Ledger.open(tmp_path, CLIENT, SWARM).close()
    for stale in tmp_path.glob(f"{FILE_NAME}*"):
        stale.unlink()
    (tmp_path / FILE_NAME).write_bytes(older)

    with pytest.raises(DamagedLedger, match="promises 2 entries"):
        Ledger.open(tmp_path, CLIENT, SWARM)


def test_31_of_two_that_append_the_slower_one_leaves_the_later_head_beside(home):
    """What it remembers of its own append is older than what the other has signed since."""
    one, two, three = receipts(3)
    with Ledger.open(home, CLIENT, SWARM) as slow, Ledger.open(home, CLIENT, SWARM) as fast:
        blocked = home / f"{HEAD_NAME}.new"
        blocked.mkdir()
        with pytest.raises(ConfigError):
            slow.append(one)  # is logged, and could not say so beside
        blocked.rmdir()
        fast.append_all([two, three])
        slow.append(one)
        slow._beside.keep(1)

        assert (home / HEAD_NAME).read_text().split("\n")[1] == "3"

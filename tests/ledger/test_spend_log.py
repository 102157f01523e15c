"""An account's own spend log: what is told is on disk, and no size is ever signed twice."""

import ast
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ledger.checkpoint import Checkpoint
from ledger.cosigning import Witnesses
from ledger.errors import DamagedLedger, ForeignLedger, WitnessRefused
from ledger.merkle import leaf_hash, root, verify_inclusion
from ledger.notes import Note, NoteSignature
from ledger.spend_books import SpendBooks
from ledger.spend_leaf import SpendLeaf
from ledger.spend_log import FILE_NAME, HEAD_NAME, SpendLog
from ledger.tiles import TileTree, tiles_of, unbundle
from protocol.errors import ConfigError, IntegrityError, OutOfMemory, UsageError
from tests.ledger.crashes import killed_before_it_keeps, rows, wait_until
from tests.ledger.spenders import (
    ANN,
    ASSET,
    BEN,
    CY,
    ISSUER,
    SWARM,
    allot,
    chained,
    deposit,
    grant,
    settle,
)

NOW_S = 1_790_000_000


@pytest.fixture
def log(home):
    with SpendLog.open(home, ANN, SWARM) as log:
        yield log


def allots(n, start=0):
    return [allot(ANN, BEN, 5, no=i) for i in range(start, start + n)]


def ask(log, books, *, known=None):
    """Get each witness's cosignature, as a node does over the network."""
    witnesses = Witnesses.of(*(book.witness for book in known or books))
    lines = [book.add_checkpoint(log.request(book.size(log.origin)), NOW_S) for book in books]
    return log.add_cosignatures(lines, witnesses)


def test_entries_are_chained_signed_and_provable(log):
    entries = allots(5)
    log.append(*entries[:2])
    log.append(*entries[2:])

    head = Checkpoint.parse(Note.parse(log.checkpoint()).text)

    assert [SpendLeaf.decode(data).envelope for data in log.leaves()] == entries
    for index, envelope in enumerate(entries):
        proof = log.prove(envelope.object_id(SWARM))
        verify_inclusion(leaf_hash(proof.leaf), index, head.size, proof.path, head.root)
    with pytest.raises(UsageError):
        log.prove(bytes(32))


def test_what_is_not_ours_or_there_already_is_not_logged(log):
    (entry,) = allots(1)
    log.append(entry)

    for wrong, error in (
        (allot(BEN, CY, 5), IntegrityError),
        (grant(ANN, 5), IntegrityError),
        (entry, UsageError),
    ):
        with pytest.raises(error):
            log.append(allot(ANN, CY, 9), wrong)
    assert len(log) == 1


def test_with_a_quorum_of_cosignatures_the_log_counts_in_others_books(log, books, tmp_path):
    witnesses = Witnesses.of(*(book.witness for book in books))
    with (
        SpendLog.open(tmp_path / "issuer", ISSUER, SWARM) as issuer,
        SpendBooks.open(tmp_path / "others", SWARM, witnesses) as others,
    ):
        issuer.append(grant(ANN, 100))
        log.append(*allots(3))
        assert not ask(log, books[:2], known=books).has_quorum
        assert ask(log, books).has_quorum
        ask(issuer, books)

        for each in (issuer, log):
            assert others.learn(each.account, each.checkpoint(), each.leaves()) == len(each)
        log.append(*allots(2, start=3))
        ask(log, books)
        others.learn(log.account, log.checkpoint(), log.leaves(3), start=3)

        assert others.available(ANN.public_key, ASSET) == 75


def test_the_log_is_fetched_as_tiles(log):
    log.append(*allots(300))

    head = Checkpoint.parse(Note.parse(log.fetch("checkpoint").decode()).text)
    tree = TileTree(head.size, log.fetch)
    entries = [
        entry for tile in tiles_of(head.size, None) for entry in unbundle(log.fetch(tile.path()))
    ]

    assert root(head.size, tree.node_at) == head.root
    assert entries == log.leaves()
    for missing in ("tile/0/002", "tile/0/001.p/45", "tile/2/000.p/1", "../spend.sqlite", ""):
        with pytest.raises(UsageError):
            log.fetch(missing)


def test_31_a_database_put_back_to_an_older_state_signs_nothing(tmp_path):
    home = tmp_path / "ann"
    with SpendLog.open(home, ANN, SWARM) as log:
        log.append(*allots(2))
    older = (home / FILE_NAME).read_bytes()
    with SpendLog.open(home, ANN, SWARM) as log:
        log.append(*allots(2, start=2))
    (home / FILE_NAME).write_bytes(older)

    with pytest.raises(DamagedLedger, match=r"promises \d entries"):
        SpendLog.open(home, ANN, SWARM)
    (home / FILE_NAME).unlink()
    with pytest.raises(DamagedLedger, match="missing or empty"):
        SpendLog.open(home, ANN, SWARM)


def test_31_a_whole_home_put_back_is_noticed_by_what_witnesses_remember(tmp_path, books):
    home, copy = tmp_path / "ann", tmp_path / "copy"
    with SpendLog.open(home, ANN, SWARM) as log:
        log.append(*allots(2))
        ask(log, books)
    shutil.copytree(home, copy)
    with SpendLog.open(home, ANN, SWARM) as log:
        log.append(*allots(1, start=2))
        ask(log, books)

    with SpendLog.open(copy, ANN, SWARM) as restored:
        remembered = books[0].latest(restored.origin)
        with pytest.raises(DamagedLedger, match="signed 3 entries of it, it has 2"):
            restored.check_against(remembered)
        restored.append(*allots(1, start=7))  # who does not ask learns it from the next witness
        with pytest.raises(DamagedLedger, match="other entries"):
            restored.check_against(remembered)
        with pytest.raises(WitnessRefused):
            ask(restored, books)


def test_31_a_witness_that_shows_what_we_never_signed_does_not_stop_us(log):
    log.append(*allots(2))
    forged = Checkpoint(log.origin, 9, bytes(32)).sign(BEN)

    with pytest.raises(IntegrityError) as caught:
        log.check_against(forged)
    assert not isinstance(caught.value, DamagedLedger)
    log.check_against(log.checkpoint())


def test_a_checkpoint_beside_it_that_was_changed_is_refused(home):
    with SpendLog.open(home, ANN, SWARM) as log:
        log.append(*allots(2))
    path = home / HEAD_NAME
    path.write_text(path.read_text().replace("\n2\n", "\n1\n"))

    with pytest.raises(DamagedLedger):
        SpendLog.open(home, ANN, SWARM)


def test_a_log_of_another_account_or_swarm_is_refused(home):
    SpendLog.open(home, ANN, SWARM).close()

    for key, swarm in ((BEN, SWARM), (ANN, bytes(32))):
        with pytest.raises(ForeignLedger):
            SpendLog.open(home, key, swarm)


@pytest.mark.parametrize("kept", [0, 100, 5000, 30_000])
def test_a_truncated_log_is_refused(tmp_path, kept):
    with SpendLog.open(tmp_path, ANN, SWARM) as log:
        log.append(*allots(40))
    os.truncate(tmp_path / FILE_NAME, kept)

    with pytest.raises(DamagedLedger) as caught:
        SpendLog.open(tmp_path, ANN, SWARM)
    assert caught.value.hint


def test_a_tree_that_was_tampered_with_is_never_signed_again(log):
    log.append(*allots(3))
    log._store.execute("UPDATE node SET hash = ? WHERE level = 1", (bytes(32),))

    with pytest.raises(DamagedLedger, match="does not match"):
        log.append(*allots(1, start=3))


@pytest.mark.parametrize("at", ["sqlite"], indirect=True)
def test_43_a_full_disk_loses_no_entry_and_signs_no_size_twice(log):
    log.append(*allots(2))
    before, note = log.leaves(), log.checkpoint()
    pages = log._store.execute("PRAGMA page_count")[0][0]
    log._store.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(OutOfMemory, match="no disk space"):
        log.append(*allots(200, start=2))

    assert (log.leaves(), log.checkpoint()) == (before, note)
    log._store.execute("PRAGMA max_page_count = 1000000")
    log.append(*allots(1, start=500))
    assert len(log) == 3


APPEND = """
import sys
from pathlib import Path
from tests.ledger.test_spend_log import *
with SpendLog.open(Path(sys.argv[1]), ANN, SWARM) as log:
    for i in range(len(log), 1000):
        print(repr(log.append(*allots(1, start=i))), flush=True)
"""


def kill_after(home, n):
    """The checkpoints a process told before it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", APPEND, str(home)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    told = []
    for line in process.stdout:
        told.append(line)
        if len(told) == n:
            os.kill(process.pid, signal.SIGKILL)
            break
    told += [line for line in process.stdout.read().splitlines(keepends=True) if line[-1] == "\n"]
    process.wait()
    return [ast.literal_eval(line) for line in told]


@pytest.mark.parametrize(
    "moments", [(3,), pytest.param((1, 4, 9, 2, 7), marks=pytest.mark.slow)], ids=["once", "often"]
)
def test_43_a_killed_log_has_every_entry_it_told_and_one_checkpoint_of_each_size(home, moments):
    told = []
    for n in moments:
        told += kill_after(home, n)

        with SpendLog.open(home, ANN, SWARM) as log:
            heads = [Checkpoint.parse(Note.parse(note).text) for note in told]
            assert len(log) >= heads[-1].size
            assert len({head.size for head in heads}) == len(heads)
            for note in told:
                log.check_against(note)


def test_31_a_log_killed_between_its_database_and_the_checkpoint_beside_it_signs_no_fork(tmp_path):
    home, backup = tmp_path / "ann", tmp_path / "backup"
    with SpendLog.open(home, ANN, SWARM) as log:
        log.append(*allots(1))
        log._store.tidy()
    shutil.copy(home / FILE_NAME, backup)
    with killed_before_it_keeps(home / HEAD_NAME, APPEND, home) as process:
        wait_until(lambda: rows(home / FILE_NAME, "SELECT 1 FROM leaf WHERE idx = 1"), process)

    with SpendLog.open(home, ANN, SWARM) as log:
        assert log.checkpoint().split("\n")[1] == "2"  # told; so it must be remembered
    for stale in home.glob(f"{FILE_NAME}*"):
        stale.unlink()
    shutil.copy(backup, home / FILE_NAME)
    with pytest.raises(DamagedLedger, match=r"promises \d entries") as caught:
        SpendLog.open(home, ANN, SWARM)
    assert "newest" in caught.value.hint
    assert "restore a backup" not in caught.value.hint


@pytest.mark.parametrize("ask_for", ["checkpoint", "request", "prove", "fetch"])
def test_31_nothing_signed_leaves_before_it_is_kept_beside_the_database(log, home, ask_for):
    """One process appends and cannot write the file; another one is asked for the checkpoint."""
    (entry,) = allots(1)
    blocked = home / f"{HEAD_NAME}.new"
    blocked.mkdir()
    asks = {
        "checkpoint": log.checkpoint,
        "request": lambda: log.request(0),
        "prove": lambda: log.prove(entry.object_id(SWARM)),
        "fetch": lambda: log.fetch("checkpoint"),
    }
    with pytest.raises(ConfigError):
        log.append(entry)
    with pytest.raises(ConfigError):
        asks[ask_for]()

    blocked.rmdir()
    assert asks[ask_for]()
    assert (home / HEAD_NAME).read_text() == log.checkpoint()


def test_threads_and_processes_that_append_at_once_all_succeed(tmp_path):
    first, second = (SpendLog.open(tmp_path, ANN, SWARM) for _ in range(2))

    def append(number):
        return (first, second)[number % 2].append(*allots(1, start=number))

    with ThreadPoolExecutor(6) as threads:
        notes = list(threads.map(append, range(40)))

    assert sorted(int(note.split("\n")[1]) for note in notes) == list(range(1, 41))
    assert (tmp_path / HEAD_NAME).read_text() == first.checkpoint() == second.checkpoint()
    with SpendBooks.open(tmp_path / "books", SWARM, Witnesses()) as books:
        assert books.learn(ANN.public_key, first.checkpoint(), first.leaves()) == 0  # no credit
        assert books._store.execute("SELECT readable FROM log") == [(40,)]
    first.close()
    second.close()


@pytest.mark.parametrize("spoil", [b"", b"\x00", None])
def test_a_log_whose_last_entry_is_damaged_signs_nothing(home, spoil):
    with SpendLog.open(home, ANN, SWARM) as log:
        log.append(*allots(3))
        data = log.leaves(2)[0]
        changed = data[:-1] + bytes([data[-1] ^ 1]) if spoil is None else spoil
        log._store.execute("UPDATE leaf SET data = ? WHERE idx = 2", (changed,))
        note = log.checkpoint()
    with SpendLog.open(home, ANN, SWARM) as log:
        with pytest.raises(DamagedLedger, match="entry 2"):
            log.append(*allots(1, start=3))
        assert (log.checkpoint(), len(log)) == (note, 3)


def test_what_would_end_the_account_is_not_signed(tmp_path, log):
    """Readers would pass over all that comes after it, for good."""
    made = allot(ANN, BEN, 60)
    settled = settle(ANN, BEN, (made.object_id(SWARM), 50))
    most = 2**63 - 1
    with SpendLog.open(tmp_path / "ben", BEN, SWARM) as bens:
        for wrong in (
            [settled, deposit(BEN, settled, 49)],
            [deposit(BEN, settled, 50)],
            [deposit(BEN, None, 50)],
            [settled, deposit(BEN, settled, 50), deposit(BEN, settled, 50)],
            [grant(ANN, most, issuer=BEN), grant(ANN, 1, no=1, issuer=BEN)],
        ):
            with pytest.raises((IntegrityError, UsageError)):
                bens.append(*wrong)
            assert (len(bens), bens.checkpoint()) == (0, None)
        bens.append(settled)
        bens.append(grant(ANN, most, issuer=BEN))
        with pytest.raises(IntegrityError, match="beyond"):
            bens.append(grant(ANN, 1, no=1, issuer=BEN))
        bens.append(deposit(BEN, settled, 50))
    with (
        SpendLog.open(tmp_path / "ben", BEN, SWARM) as bens,
        SpendBooks.open(tmp_path / "books", SWARM, Witnesses()) as others,
    ):
        with pytest.raises(IntegrityError, match="settlement adds 0"):
            bens.append(deposit(BEN, settled, 1))
        assert others.learn(BEN.public_key, bens.checkpoint(), bens.leaves()) == len(bens) == 3


def test_a_log_that_has_ended_says_so_instead_of_going_on(home):
    """As logs may that were written before anybody looked."""
    leaf = chained(deposit(BEN, None, 5))[0]
    with SpendLog.open(home, BEN, SWARM) as log:
        hash_ = log._insert(leaf)
        note = Checkpoint(log.origin, 1, hash_).sign(BEN)
        log._store.execute("INSERT INTO checkpoint VALUES (1, ?)", (note,))

        with pytest.raises(IntegrityError, match="entry 0 of this log breaks a rule"):
            log.append(grant(ANN, 5, issuer=BEN))


def test_a_witness_cannot_fill_a_checkpoint_with_lines_that_nobody_knows(log, books):
    log.append(*allots(1))
    witnesses = Witnesses.of(*(book.witness for book in books))
    for name in ("evil.example", log.origin, "w0.example"):
        junk = [NoteSignature(name, i.to_bytes(4, "big"), b"x" * 900) for i in range(1, 64)]
        assert not log.add_cosignatures(junk, witnesses).has_quorum
    assert log.checkpoint().count("\n") == 5

    assert ask(log, books).has_quorum
    assert len(Note.parse(log.checkpoint()).signatures) == 1 + len(books)


def test_a_line_in_another_witnesses_name_takes_nothing_from_its_own(log, books):
    log.append(*allots(1))
    witnesses = Witnesses.of(*(book.witness for book in books))
    lines = [book.add_checkpoint(log.request(0), NOW_S) for book in books]
    forged = [
        NoteSignature(line.name, line.key_id, data)
        for line in lines
        for data in (b"x", bytes(72), lines[3].signature, b"\xff" * 8 + line.signature[8:])
        if line is not lines[3]
    ]

    cosigned = log.add_cosignatures([*forged, *lines, *forged], witnesses)

    assert (len(cosigned.times_s), cosigned.has_quorum) == (4, True)
    assert Note.parse(log.checkpoint()).signatures[1:] == tuple(lines)

"""An account's own spend log: what is told is on disk, and no size is ever signed twice."""

import ast
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.checkpoint import Checkpoint
from ledger.cosigning import Witnesses
from ledger.errors import DamagedLedger, ForeignLedger, WitnessRefused
from ledger.merkle import leaf_hash, root, verify_inclusion
from ledger.notes import Note
from ledger.spend_books import SpendBooks
from ledger.spend_leaf import SpendLeaf
from ledger.spend_log import FILE_NAME, HEAD_NAME, SpendLog
from ledger.tiles import TileTree, tiles_of, unbundle
from protocol.errors import IntegrityError, OutOfMemory, UsageError
from tests.ledger.spenders import ANN, ASSET, BEN, CY, ISSUER, SWARM, allot, grant

NOW_S = 1_790_000_000


@pytest.fixture
def log(tmp_path):
    with SpendLog.open(tmp_path / "ann", ANN, SWARM) as log:
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

    with pytest.raises(DamagedLedger, match="promises more"):
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


def test_a_checkpoint_beside_it_that_was_changed_is_refused(tmp_path):
    with SpendLog.open(tmp_path, ANN, SWARM) as log:
        log.append(*allots(2))
    path = tmp_path / HEAD_NAME
    path.write_text(path.read_text().replace("\n2\n", "\n1\n"))

    with pytest.raises(DamagedLedger):
        SpendLog.open(tmp_path, ANN, SWARM)


def test_a_log_of_another_account_or_swarm_is_refused(tmp_path):
    SpendLog.open(tmp_path, ANN, SWARM).close()

    for key, swarm in ((BEN, SWARM), (ANN, bytes(32))):
        with pytest.raises(ForeignLedger):
            SpendLog.open(tmp_path, key, swarm)


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
    log._store.execute("UPDATE node SET hash = zeroblob(32) WHERE level = 1")

    with pytest.raises(DamagedLedger, match="does not match"):
        log.append(*allots(1, start=3))


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
def test_43_a_killed_log_has_every_entry_it_told_and_one_checkpoint_of_each_size(tmp_path, moments):
    told = []
    for n in moments:
        told += kill_after(tmp_path, n)

        with SpendLog.open(tmp_path, ANN, SWARM) as log:
            heads = [Checkpoint.parse(Note.parse(note).text) for note in told]
            assert len(log) >= heads[-1].size
            assert len({head.size for head in heads}) == len(heads)
            for note in told:
                log.check_against(note)

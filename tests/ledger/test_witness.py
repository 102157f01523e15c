"""A witness signs growth and nothing else, forgets nothing, and answers as the standard says."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Witnesses, with_cosignatures
from ledger.errors import DamagedLedger, ForeignLedger, WitnessRefused
from ledger.merkle import appended, consistency_proof, leaf_hash, root
from ledger.witness import (
    FILE_NAME,
    MAX_REQUEST_BYTES,
    SEEN_NAME,
    AddCheckpoint,
    WitnessBook,
)
from protocol.errors import ConfigError
from protocol.signing import SigningKey
from tests.ledger.crashes import killed_before_it_keeps, rows, wait_until
from tests.ledger.spenders import ANN, BEN, SWARM, WITNESSES

NAME, NOW_S = "w0.example", 1_790_000_000
ORIGIN = origin(SWARM, ANN.public_key, "spend")
LOGS = {ORIGIN: ANN.public_key}


class Tree:
    """A log's tree, by what its entries say."""

    def __init__(self, *entries):
        self.nodes = {}
        for size, entry in enumerate(entries):
            for level, index, hash_ in appended(size, leaf_hash(entry), self.at):
                self.nodes[level, index] = hash_

    def at(self, level, index):
        return self.nodes[level, index]

    def ask(self, old, size, *, key=ANN, name=ORIGIN, proof=None):
        if proof is None:
            proof = consistency_proof(old, size, self.at) if 0 < old < size else []
        note = Checkpoint(name, size, root(size, self.at)).sign(key)
        return AddCheckpoint(old, tuple(proof), note)


HONEST = Tree(*(b"%d" % i for i in range(40)))
FORKED = Tree(*(b"%d" % i for i in range(10)), *(b"other %d" % i for i in range(30)))


@pytest.fixture
def book(home):
    with WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get) as book:
        yield book


def refusal(book, request):
    with pytest.raises(WitnessRefused) as caught:
        book.add_checkpoint(request, NOW_S)
    return caught.value


def test_a_growing_log_is_cosigned_and_its_note_then_has_a_quorum(book):
    witnesses = Witnesses.of(book.witness)
    for old, size in ((0, 3), (3, 3), (3, 17), (17, 40)):
        request = HONEST.ask(old, size)

        line = book.add_checkpoint(request, NOW_S)

        note = with_cosignatures(request.note, [line])
        cosigned = witnesses.open(note, ORIGIN, ANN.public_key)
        assert (cosigned.head.size, cosigned.has_quorum, cosigned.time_s) == (size, True, NOW_S)
        assert (book.size(ORIGIN), book.latest(ORIGIN)) == (size, request.note)


def test_30_a_smaller_tree_is_refused_with_409_and_the_size_signed(book):
    book.add_checkpoint(HONEST.ask(0, 20), NOW_S)

    for request in (HONEST.ask(0, 10), HONEST.ask(10, 15), HONEST.ask(0, 0), HONEST.ask(0, 30)):
        refused = refusal(book, request)
        assert (refused.status, refused.size) == (409, 20)
    assert book.size(ORIGIN) == 20


def test_30_another_tree_of_the_same_size_is_refused_with_409(book):
    book.add_checkpoint(HONEST.ask(0, 20), NOW_S)

    assert refusal(book, FORKED.ask(20, 20)).status == 409


def test_30_a_proof_that_does_not_hold_is_refused_with_422(book):
    book.add_checkpoint(HONEST.ask(0, 20), NOW_S)
    good = HONEST.ask(20, 30)

    for request in (
        FORKED.ask(20, 30),
        HONEST.ask(20, 30, proof=good.proof[:-1]),
        HONEST.ask(20, 30, proof=()),
        HONEST.ask(20, 30, proof=[*good.proof, bytes(32)]),
        HONEST.ask(20, 20, proof=good.proof),
    ):
        assert refusal(book, request).status == 422
    assert book.size(ORIGIN) == 20
    book.add_checkpoint(good, NOW_S)


def test_30_a_first_checkpoint_comes_without_a_proof(book):
    assert refusal(book, HONEST.ask(0, 5, proof=[bytes(32)])).status == 422


def test_30_a_log_it_does_not_know_is_refused_with_404(book):
    stranger = origin(SWARM, BEN.public_key, "spend")

    assert refusal(book, HONEST.ask(0, 5, key=BEN, name=stranger)).status == 404


def test_30_a_checkpoint_that_its_log_did_not_sign_is_refused_with_403(book):
    assert refusal(book, HONEST.ask(0, 5, key=BEN)).status == 403
    good = HONEST.ask(0, 5)
    forged = good.note.replace("\n5\n", "\n6\n")
    assert refusal(book, AddCheckpoint(0, (), forged)).status == 403


def test_30_an_old_size_beyond_the_checkpoints_is_refused_with_400(book):
    assert refusal(book, HONEST.ask(9, 5)).status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0",
        b"old 00\n\nnote",
        b"old -1\n\nnote",
        b"old +1\n\nnote",
        b"new 0\n\nnote",
        b"old 0\nAAAA\n\nnote",
        b"old 0\n" + b"A" * 43 + b"=\n" + b"\xff\n\nnote",
        b"old 0\n" + (b"A" * 43 + b"=\n") * 64 + b"\nnote",
        b"old 0\n\n" + b"x" * MAX_REQUEST_BYTES,
        b"old " + b"9" * 5000 + b"\n\nnote",
    ],
)
def test_30_what_is_no_request_is_refused_with_400(body):
    with pytest.raises(WitnessRefused) as caught:
        AddCheckpoint.parse(body)
    assert caught.value.status == 400


def test_a_request_reads_as_it_was_written_and_its_note_must_be_one(book):
    request = HONEST.ask(20, 30)

    assert AddCheckpoint.parse(request.encode()) == request
    assert refusal(book, AddCheckpoint(0, (), "no note")).status == 400


def test_29_of_two_racing_requests_the_smaller_never_rolls_back_the_larger(home):
    """Both extend size 5; whichever is first, one is refused and the larger size never shrinks."""
    requests = [HONEST.ask(5, size) for size in (6, 30)] * 8
    book = WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get)
    other = WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get)  # another process's view
    book.add_checkpoint(HONEST.ask(0, 5), NOW_S)

    def ask(number):
        try:
            (book, other)[number % 2].add_checkpoint(requests[number], NOW_S)
        except WitnessRefused as refused:
            return refused.status
        return requests[number]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(len(requests))))

    signed = [answer for answer in answers if answer != 409]
    assert len(signed) == 1
    assert book.size(ORIGIN) == int(signed[0].note.split("\n")[1])
    book.close()
    other.close()


SIGN = """
import sys
from pathlib import Path
from tests.ledger.test_witness import *
book = WitnessBook.open(Path(sys.argv[1]), NAME, WITNESSES[0], LOGS.get)
for size in range(int(sys.argv[2]), 40):
    book.add_checkpoint(HONEST.ask(book.size(ORIGIN), size), NOW_S)
    print(size, flush=True)
"""


@pytest.mark.slow
def test_29_a_killed_witness_has_forgotten_no_size_it_told(home):
    for start in (11, 17, 23, 29):  # the fork is at entry 10
        process = subprocess.Popen(
            [sys.executable, "-c", SIGN, str(home), str(start)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        told = 0
        for line in process.stdout:
            told = int(line)
            if told >= start + 4:
                os.kill(process.pid, signal.SIGKILL)
                break
        told = max([told, *map(int, process.stdout.read().split())])
        process.wait()

        with WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get) as book:
            assert book.size(ORIGIN) >= told
            assert refusal(book, FORKED.ask(book.size(ORIGIN), book.size(ORIGIN) + 1)).status == 422


def test_31_a_witness_with_an_older_database_put_back_signs_nothing(tmp_path):
    with WitnessBook.open(tmp_path, NAME, WITNESSES[0], LOGS.get) as book:
        book.add_checkpoint(HONEST.ask(0, 10), NOW_S)
    older = (tmp_path / FILE_NAME).read_bytes()
    with WitnessBook.open(tmp_path, NAME, WITNESSES[0], LOGS.get) as book:
        book.add_checkpoint(HONEST.ask(10, 20), NOW_S)

    (tmp_path / FILE_NAME).write_bytes(older)
    with pytest.raises(DamagedLedger, match="1 of 2"):
        WitnessBook.open(tmp_path, NAME, WITNESSES[0], LOGS.get)
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(DamagedLedger, match="signed before"):
        WitnessBook.open(tmp_path, NAME, WITNESSES[0], LOGS.get)


def test_a_book_of_another_witness_is_refused(home):
    WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get).close()

    for name, key in ((NAME, WITNESSES[1]), ("w1.example", WITNESSES[0])):
        with pytest.raises(ForeignLedger):
            WitnessBook.open(home, name, key, LOGS.get)


def test_28_of_two_versions_of_a_log_at_most_one_gets_a_quorum(tmp_path):
    """Four witnesses, of whom one lies: it signs both. The log shows each half another tree."""
    books = [
        WitnessBook.open(tmp_path / str(i), f"w{i}.example", key, LOGS.get)
        for i, key in enumerate(WITNESSES)
    ]
    liar = WitnessBook.open(tmp_path / "lie", "w3.example", WITNESSES[3], LOGS.get)
    witnesses = Witnesses.of(*(book.witness for book in books))
    lines = {"honest": [], "forked": [liar.add_checkpoint(FORKED.ask(0, 20), NOW_S)]}

    for number, book in enumerate(books):
        first, second = (HONEST, FORKED) if number % 2 else (FORKED, HONEST)
        for tree in (first, second):
            with suppress(WitnessRefused):  # the second of the two
                line = book.add_checkpoint(tree.ask(book.size(ORIGIN), 20), NOW_S)
                lines["honest" if tree is HONEST else "forked"].append(line)

    verdicts = [
        witnesses.open(
            with_cosignatures(tree.ask(0, 20).note, lines[name]), ORIGIN, ANN.public_key
        ).has_quorum
        for name, tree in (("honest", HONEST), ("forked", FORKED))
    ]
    assert sum(verdicts) <= 1
    for book in (*books, liar):
        book.close()


def test_31_a_witness_killed_between_its_database_and_the_count_beside_it_signs_no_fork(tmp_path):
    home, backup = tmp_path / "w", tmp_path / "backup"
    with WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get) as book:
        book.add_checkpoint(HONEST.ask(0, 10), NOW_S)
        book._store.tidy()
    shutil.copy(home / FILE_NAME, backup)
    with killed_before_it_keeps(home / SEEN_NAME, SIGN, home, 20) as process:
        wait_until(lambda: rows(home / FILE_NAME, "SELECT 1 FROM seen WHERE size = 20"), process)

    with WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get) as book:
        book.add_checkpoint(HONEST.ask(20, 20), NOW_S)  # the log asks again, as it must
    for stale in home.glob(f"{FILE_NAME}*"):
        stale.unlink()
    shutil.copy(backup, home / FILE_NAME)
    with pytest.raises(DamagedLedger, match="1 of 2") as caught:
        WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get)
    assert "restore a backup" not in caught.value.hint


def test_31_no_cosignature_leaves_that_is_not_counted_beside_the_database(book, home):
    """Also not one that another process counted and could not tell."""
    blocked = home / f"{SEEN_NAME}.new"
    blocked.mkdir()
    for old in (0, 10, 10):
        with pytest.raises(ConfigError):
            book.add_checkpoint(HONEST.ask(old, 10), NOW_S)

    blocked.rmdir()
    book.add_checkpoint(HONEST.ask(10, 10), NOW_S)
    assert (home / SEEN_NAME).read_text() == "1\n"


@pytest.mark.parametrize("told", ["", "-5", "+1", "1_0", "one", "1" * 30, None])
def test_31_a_count_that_is_missing_or_no_number_is_refused(home, told):
    with WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get) as book:
        book.add_checkpoint(HONEST.ask(0, 10), NOW_S)
    if told is None:
        (home / SEEN_NAME).unlink()
    else:
        (home / SEEN_NAME).write_text(told)

    with pytest.raises(DamagedLedger):
        WitnessBook.open(home, NAME, WITNESSES[0], LOGS.get)


def test_a_log_first_signed_when_it_was_empty_may_grow_in_a_full_hour(home):
    stranger = origin(SWARM, BEN.public_key, "spend")
    logs = {**LOGS, stranger: BEN.public_key}
    with WitnessBook.open(home, NAME, WITNESSES[0], logs.get, max_new_logs_an_hour=1) as book:
        book.add_checkpoint(HONEST.ask(0, 0), NOW_S)
        book.add_checkpoint(HONEST.ask(0, 5), NOW_S)
        assert refusal(book, HONEST.ask(0, 5, key=BEN, name=stranger)).status == 503
    with WitnessBook.open(home, NAME, WITNESSES[0], logs.get, max_new_logs_an_hour=1) as book:
        assert refusal(book, HONEST.ask(0, 5, key=BEN, name=stranger)).status == 503
        book.add_checkpoint(HONEST.ask(0, 5, key=BEN, name=stranger), NOW_S + 3600)


def newcomer(n, size=1):
    key = SigningKey.from_seed(n.to_bytes(32, "big"))
    return HONEST.ask(0, size, key=key, name=origin(SWARM, key.public_key, "spend"))


def test_44_one_peer_cannot_take_an_hour_of_a_witness_from_others(home, monkeypatch):
    monkeypatch.setattr("ledger.witness.MAX_NEW_LOGS_OF_ONE", 3)
    with WitnessBook.open(home, NAME, WITNESSES[0], key_in_name, max_new_logs_an_hour=8) as book:
        for n in range(3):
            book.add_checkpoint(newcomer(n), NOW_S, "greedy")
        with pytest.raises(WitnessRefused, match="come from you"):
            book.add_checkpoint(newcomer(3), NOW_S, "greedy")

        book.add_checkpoint(newcomer(4, size=0), NOW_S, "other")
        with pytest.raises(WitnessRefused, match="new to this witness"):
            book.add_checkpoint(newcomer(5, size=0), NOW_S, "other")
        book.add_checkpoint(newcomer(6), NOW_S, "other")
        book.add_checkpoint(newcomer(3), NOW_S + 3600, "greedy")


def key_in_name(named):
    return bytes.fromhex(named.split("/")[2])

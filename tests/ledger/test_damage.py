"""What breaks under a ledger: disks and processes. Nothing told is lost, no size signed twice."""

import os
import random
import resource
import shutil
import signal
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from ledger import Ledger, LedgerReader, verify_ledger
from ledger.cosigning import Witnesses
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from ledger.witness import WitnessBook
from protocol.errors import ConfigError, ManyhandsError, OutOfMemory
from tests.ledger.crashes import told_before_it_died
from tests.ledger.parties import CLIENT, SWARM
from tests.ledger.spenders import ANN, BEN, ISSUER, WITNESSES, allot, chained, grant
from tests.ledger.test_log import receipts
from tests.ledger.test_spend_books import learn
from tests.ledger.test_witness import HONEST, LOGS, NAME, NOW_S, ORIGIN

MANY = 6
RECEIPTS = receipts(3 * MANY)


@dataclass(frozen=True)
class Kind:
    """A database that signs or counts: how it is opened, grows by one, and what it then tells."""

    file_name: str
    open: Any
    grow: Any  # of an open one and the number of its entry; what it tells
    holds: Any  # of an open one and all it told


def _receipt(ledger, number):
    entry = ledger.append(RECEIPTS[number])
    return entry.index, ledger._head_note()


def _has_receipts(ledger, told):
    for index, note in told:
        ledger.check_against(note)
        assert ledger.id_at(index) is not None
        assert ledger.receipt(ledger.id_at(index)) == RECEIPTS[index]


def _spend(log, number):
    return number, log.append(allot(ANN, BEN, 5, no=number))


def _has_spends(log, told):
    for index, note in told:
        log.check_against(note)
        assert len(log) > index


def _cosign(book, number):
    book.add_checkpoint(HONEST.ask(book.size(ORIGIN), number + 1), NOW_S)
    return number + 1, ""


def _has_signed(book, told):
    assert book.size(ORIGIN) >= max((size for size, _ in told), default=0)


def _grants(n):
    return chained(*(grant(BEN, 10, no=i) for i in range(n)))


def _learn(books, number):
    leaves = _grants(number + 1)
    size = books.size(ISSUER.public_key)
    learn(books, ISSUER.public_key, leaves, start=size)
    return number + 1, ""


def _has_learned(books, told):
    n = max((n for n, _ in told), default=0)
    assert books.available(BEN.public_key, ISSUER.public_key) >= 10 * n


KINDS = [
    Kind("ledger.sqlite", lambda at: Ledger.open(at, CLIENT, SWARM), _receipt, _has_receipts),
    Kind("spend.sqlite", lambda at: SpendLog.open(at, ANN, SWARM), _spend, _has_spends),
    Kind(
        "witness.sqlite",
        lambda at: WitnessBook.open(at, NAME, WITNESSES[0], LOGS.get),
        _cosign,
        _has_signed,
    ),
    Kind(
        "spending.sqlite", lambda at: SpendBooks.open(at, SWARM, Witnesses()), _learn, _has_learned
    ),
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.file_name.split(".")[0])


def filled(kind, directory, n=MANY):
    with kind.open(directory) as opened:
        return [kind.grow(opened, number) for number in range(n)]


def grows(kind, directory, first, tell):
    with kind.open(directory) as opened:
        for number in range(first, first + 2):
            tell(kind.grow(opened, number))


def go_on(kind, directory, told):
    """Whatever happened: all that was told is there, and it goes on after it."""
    with kind.open(directory) as opened:
        kind.holds(opened, told)
        number = len(opened) if hasattr(opened, "__len__") else len(told)
        kind.holds(opened, [*told, kind.grow(opened, number)])
    if kind.file_name == "ledger.sqlite":
        assert verify_ledger(directory, CLIENT.public_key).failures == []


def killed_at_all(kind, base, points, step=1):
    """Kill it at the first point, the next one, and so on, until it lives through all of them."""
    before = filled(kind, base / "before", 2)
    for n_killed, point in enumerate(range(0, 10**6, step)):
        home = base / f"at{point}"
        shutil.copytree(base / "before", home)
        told, was_killed = told_before_it_died(partial(grows, kind, home, 2), **points(point))
        if not was_killed:
            assert len(told) == 2
            return n_killed
        go_on(kind, home, [*before, *told])
        shutil.rmtree(home)
    raise AssertionError("it never came to an end")


@kinds
def test_43_killed_at_any_statement_it_has_all_it_told_and_signs_no_size_twice(kind, memory_path):
    assert killed_at_all(kind, memory_path, lambda n: {"at_event": n}, step=11) > 4


@pytest.mark.slow
@kinds
def test_43_killed_at_every_statement(kind, memory_path):
    assert killed_at_all(kind, memory_path, lambda n: {"at_event": n}) > 45


@kinds
def test_43_killed_within_any_write_it_has_all_it_told_and_signs_no_size_twice(kind, memory_path):
    assert killed_at_all(kind, memory_path, lambda n: {"at_byte": n}, step=12_000) > 1


@pytest.mark.slow
@kinds
def test_43_killed_within_every_write(kind, memory_path):
    assert killed_at_all(kind, memory_path, lambda n: {"at_byte": n}, step=509) > 30


def damage_is_told_or_does_no_harm(kind, home, told):
    """It opens or says clearly why not; where it goes on, all it told is under what it signs."""
    try:
        with kind.open(home) as opened:
            number = len(opened) if hasattr(opened, "__len__") else len(told)
            kind.grow(opened, number)
            if isinstance(opened, (Ledger, SpendLog)):
                for _, note in told:
                    opened.check_against(note)
            else:
                kind.holds(opened, told)
    except ManyhandsError as error:
        if str(home) not in str(error) and not error.hint:
            raise
        return True
    if kind.file_name == "ledger.sqlite" and verify_ledger(home, CLIENT.public_key).holds:
        with LedgerReader.read(home) as reader:
            _has_receipts(reader, told)
    return False


def broken(kind, base, n, spoil):
    """So many copies, each spoilt in another way by `spoil(random, bytes)`; how many say so."""
    told = filled(kind, base / "whole")
    whole = (base / "whole" / kind.file_name).read_bytes()
    chance, n_refused = random.Random(kind.file_name), 0
    for i in range(n):
        home = base / f"spoilt{i}"
        shutil.copytree(base / "whole", home)
        (home / kind.file_name).write_bytes(spoil(chance, bytearray(whole)))
        n_refused += damage_is_told_or_does_no_harm(kind, home, told)
        shutil.rmtree(home)
    return n_refused


def flipped(chance, data):
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def wiped(chance, data):
    """A page of zeros, as a disk gives that lost one."""
    page = chance.randrange(len(data) // 4096)
    data[page * 4096 : (page + 1) * 4096] = bytes(4096)
    return data


def cut(chance, data):
    return data[: chance.randrange(len(data))]


@kinds
@pytest.mark.parametrize(
    ("spoil", "n"),
    [
        (flipped, 8),
        (wiped, 5),
        (cut, 4),
        pytest.param(flipped, 1500, marks=pytest.mark.slow),
        pytest.param(wiped, 60, marks=pytest.mark.slow),
        pytest.param(cut, 200, marks=pytest.mark.slow),
    ],
)
def test_43_a_database_that_is_damaged_says_so_or_goes_on_from_all_it_told(
    kind, memory_path, spoil, n
):
    n_refused = broken(kind, memory_path, n, spoil)
    assert (
        n < 50 or spoil is flipped or n_refused > n // 4
    )  # a flipped bit is often in what nobody reads


@kinds
@pytest.mark.parametrize("room", [0, pytest.param(20_000, marks=pytest.mark.slow), 60_000])
def test_43_on_a_full_disk_nothing_told_is_lost_and_it_goes_on_with_room(kind, memory_path, room):
    told = filled(kind, memory_path)

    def fill(tell):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            with kind.open(memory_path) as opened:
                for number in range(MANY, 2 * MANY):
                    tell(("told", kind.grow(opened, number)))
        except (OutOfMemory, ConfigError) as error:
            tell(("error", f"{type(error).__name__} {error} {error.hint}"))

    heard, was_killed = told_before_it_died(fill)

    assert not was_killed
    told += [each for what, each in heard if what == "told"]
    for what, said in heard:
        assert what == "told" or ("space" in said and str(memory_path) in said), said
    with kind.open(memory_path) as opened:
        kind.holds(opened, told)
    go_on(kind, memory_path, told)


@kinds
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
def test_a_database_that_may_not_be_written_says_whose_it_is(kind, memory_path):
    told = filled(kind, memory_path)
    memory_path.chmod(0o755)
    for path in memory_path.iterdir():
        path.chmod(0o444)

    def as_nobody(tell):
        os.setuid(65534)
        try:
            with kind.open(memory_path) as opened:
                kind.grow(opened, MANY)
        except ConfigError as error:
            tell(f"{error} {error.hint}")

    ((said),), _ = told_before_it_died(as_nobody)

    assert str(memory_path) in said
    assert "ls -l" in said or "writ" in said
    with kind.open(memory_path) as opened:
        kind.holds(opened, told)

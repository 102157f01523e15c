"""Verifying a spend log and books: what was changed is named by its entry, what holds is left."""

import sqlite3

import pytest

from ledger.cosigning import Witnesses
from ledger.merkle import inclusion_proof
from ledger.spend_books import FILE_NAME as BOOKS
from ledger.spend_books import SpendBooks
from ledger.spend_log import FILE_NAME as LOG
from ledger.spend_log import SpendLog
from ledger.spend_verify import verify_books, verify_spend_log
from tests.ledger.spenders import ANN, ASSET, BEN, ISSUER, SWARM, allot, chained, grant
from tests.ledger.test_spend_books import signed

NOBODY = Witnesses()


@pytest.fixture
def home(tmp_path):
    with (
        SpendLog.open(tmp_path, ISSUER, SWARM) as log,
        SpendLog.open(tmp_path / "ann", ANN, SWARM) as ann,
        SpendBooks.open(tmp_path, SWARM, NOBODY) as books,
    ):
        log.append(*(grant(ANN, 10 + n, no=n) for n in range(3)))
        ann.append(allot(ANN, BEN, 5))
        for each in (log, ann):
            books.learn(each.account, each.checkpoint(), each.leaves())
        log.append(grant(BEN, 7, no=3))
    return tmp_path


def change(path, sql, *values):
    with sqlite3.connect(path) as database:
        assert database.execute(sql, values).rowcount == 1
    database.close()


def of_log(home):
    return verify_spend_log(home, ISSUER.public_key, SWARM)


def of_books(home):
    return verify_books(home, None, SWARM, NOBODY)


def test_what_holds_is_counted(home):
    log, books = of_log(home), of_books(home)

    assert (log.holds, log.n_entries, log.n_checkpoints) == (True, 4, 2)
    assert (books.holds, books.n_entries, books.n_checkpoints) == (True, 4, 2)


@pytest.mark.parametrize(
    ("sql", "entry", "part"),
    [
        ("UPDATE leaf SET data = zeroblob(length(data)) WHERE idx = 2", 2, "leaf"),
        ("UPDATE leaf SET oid = zeroblob(32) WHERE idx = 1", 1, "leaf"),
        ("DELETE FROM leaf WHERE idx = 1", 1, "leaf"),
        ("UPDATE node SET hash = zeroblob(32) WHERE level = 1 AND idx = 1", 2, "tree"),
        ("DELETE FROM node WHERE level = 0 AND idx = 3", 3, "tree"),
        ("UPDATE checkpoint SET note = replace(note, 'spend', 'other') WHERE size = 3", 2, "of 3"),
        ("DELETE FROM checkpoint WHERE size = 4", None, "checkpoint"),
    ],
)
def test_each_change_of_a_spend_log_is_named_by_its_entry(home, sql, entry, part):
    change(home / LOG, sql)

    report = of_log(home)

    assert not report.holds
    first = next(each for each in report.failures if part in each.part)
    assert first.entry == entry


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("UPDATE balance SET amount = amount + 1 WHERE amount = 28", "not what"),
        ("UPDATE counted SET n = n - 1 WHERE n = 1", "other entries"),
        ("UPDATE leaf SET data = zeroblob(9) WHERE idx = 2", "root that was signed"),
        ("UPDATE log SET note = replace(note, 'spend', 'other') WHERE size = 3", "another log"),
    ],
)
def test_each_change_of_the_books_is_found(home, sql, word):
    change(home / BOOKS, sql)

    report = of_books(home)

    assert any(word in str(failure) for failure in report.failures), report.failures


def test_books_that_have_the_beginning_of_a_log_or_cut_it_hold_as_well(tmp_path):
    data = [leaf.encode() for leaf in chained(*(grant(ANN, 1, no=n) for n in range(9)))]
    other = [leaf.encode() for leaf in chained(*(grant(BEN, 1, no=n) for n in range(2)))]
    with SpendBooks.open(tmp_path, SWARM, NOBODY) as books:
        books.learn(BEN.public_key, signed(BEN.public_key, data[:2]), data[:2])
        books.learn(BEN.public_key, signed(BEN.public_key, other), other)
        books.learn(ASSET, signed(ASSET, data), data)
        path = inclusion_proof(6, 9, books.tree(ASSET)[1])
    (tmp_path / "part").mkdir()
    with SpendBooks.open(tmp_path / "part", SWARM, NOBODY) as books:
        books.learn(ASSET, signed(ASSET, data), data[:7], path=path)

    assert of_books(tmp_path).holds
    found = of_books(tmp_path / "part")
    assert (found.holds, found.n_entries) == (True, 7)
    change(tmp_path / "part" / BOOKS, "UPDATE node SET hash = zeroblob(32) WHERE level=0 AND idx=6")
    assert not of_books(tmp_path / "part").holds

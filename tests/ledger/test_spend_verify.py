"""Verifying a spend log and books: what was changed is named by its entry, what holds is left."""

import sqlite3

import pytest

from ledger.cosigning import Witnesses
from ledger.spend_books import FILE_NAME as BOOKS
from ledger.spend_books import SpendBooks
from ledger.spend_log import FILE_NAME as LOG
from ledger.spend_log import SpendLog
from ledger.spend_verify import verify_books, verify_spend_log
from tests.ledger.spenders import ANN, BEN, ISSUER, SWARM, allot, grant

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

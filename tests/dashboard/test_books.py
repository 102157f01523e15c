"""What a page tells of ledgers that two parties wrote."""

import shutil
import sqlite3
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ledger import Ledger
from ledger.balances import Fold
from ledger.homes import Book
from ledger.noted import NOTHING_NOTED, Noted
from ledger.reader import FILE_NAME
from manyhands import dashboard
from manyhands.dashboard.books import Followed, HomeBooks, _days
from manyhands.dashboard.earnings import Earnings
from manyhands.dashboard.node_routes import NodePanel
from protocol.clock import wall_ms
from protocol.errors import IntegrityError
from protocol.identity import Identity, load_or_create_identity
from tests.ledger.parties import SWARM, closed_receipt

STATIC = Path(dashboard.__file__).parent / "static"


@pytest.fixture
def provider(tmp_path: Path) -> Identity:
    """Of a home whose node earned once."""
    identity = load_or_create_identity(tmp_path / "node" / "identity.key")
    earn(tmp_path, identity, 1)
    return identity


def earn(home: Path, identity: Identity, number: int) -> None:
    with Ledger.open(home / "node", identity.key, SWARM) as ledger:
        ledger.append(closed_receipt(provider=identity.key, nonce=bytes([number]) * 16))


def test_a_home_without_ledgers_has_none_and_earned_nothing(tmp_path: Path) -> None:
    books = HomeBooks(tmp_path)
    assert (books.balances(), books.verified()) == ([], [])
    told = Earnings(Book("node", tmp_path / "node")).look()
    assert (told["earned_ncr"], told["answers"], len(told["days"])) == (0, 0, 14)


def test_a_day_is_told_less_what_was_taken_off_its_tabs(tmp_path: Path, provider: Identity) -> None:
    books = HomeBooks(tmp_path)
    (told,) = books.balances()
    (known,) = books._followed.values()
    (tab,) = known.parts
    day = wall_ms() // 86_400_000
    known.parts[tab] = ((day, told["earned_ncr"]),)
    known.days = {day: [told["earned_ncr"], 0]}

    off = Noted(provider.public_key, {tab: 40, (bytes(32), bytes(16)): 7})

    assert _days(known, NOTHING_NOTED)[-1][1:] == [told["earned_ncr"], 0]
    assert _days(known, off)[-1][1:] == [told["earned_ncr"] - 40, 0]


def test_more_off_a_tab_than_its_last_day_added_comes_off_the_days_before() -> None:
    own, tab, day = b"p" * 32, b"t" * 16, wall_ms() // 86_400_000
    known = Followed(Fold(own), days={day - 1: [100, 0], day: [10, 0]})
    known.parts = {(own, tab): ((day - 100, 5), (day - 1, 100), (day, 10))}

    for off, left in ((4, [100, 6]), (60, [50, 0]), (115, [0, 0])):
        told = _days(known, Noted(own, {(own, tab): off}))
        assert [earned for _, earned, _ in told[-2:]] == left


def test_what_was_earned_is_told_with_its_latest_tabs_and_grows(
    tmp_path: Path, provider: Identity
) -> None:
    books, earnings = HomeBooks(tmp_path), Earnings(Book("node", tmp_path / "node"))
    [before], first = books.balances(), earnings.look()
    earn(tmp_path, provider, 2)
    [after], second = books.balances(), earnings.look()

    assert before["earned_ncr"] == first["earned_ncr"] > 0
    assert after["earned_ncr"] == second["earned_ncr"] == 2 * first["earned_ncr"]
    assert (first["answers"], second["answers"]) == (1, 2)
    assert second["prompt_tokens"] + second["answer_tokens"] > 0
    assert [tab["entry"] for tab in after["tabs"]] == [1, 0]
    assert (after["head"]["size"], after["open_tabs"]) == (2, 0)


def test_a_ledger_that_was_changed_is_told_not_to_hold(tmp_path: Path, provider: Identity) -> None:
    books = HomeBooks(tmp_path)
    assert [each["ok"] for each in books.verified()] == [True]
    with sqlite3.connect(tmp_path / "node" / FILE_NAME) as database:
        database.execute("UPDATE entry SET net = net + 1")

    [found] = books.verified()
    assert not found["ok"]
    assert found["failures"]


def change(home: Path, sql: str) -> None:
    with sqlite3.connect(home / "node" / FILE_NAME) as database:
        database.execute(sql)


def test_what_was_read_is_not_read_again_however_often_somebody_asks(
    tmp_path: Path, provider: Identity
) -> None:
    books, earnings = HomeBooks(tmp_path), Earnings(Book("node", tmp_path / "node"))
    [before], earned = books.balances(), earnings.look()["earned_ncr"]
    change(tmp_path, "UPDATE entry SET net = 10 * net, digest = x'00' WHERE idx = 0")
    change(tmp_path, "DELETE FROM body WHERE idx = 0")
    earn(tmp_path, provider, 2)

    assert books.sums_ncr() == {"node": (2 * before["earned_ncr"], 0)}
    assert earnings.look()["earned_ncr"] == 2 * earned


def test_a_ledger_whose_older_copy_came_back_is_read_anew(
    tmp_path: Path, provider: Identity
) -> None:
    books, earnings = HomeBooks(tmp_path), Earnings(Book("node", tmp_path / "node"))
    once = books.sums_ncr()["node"][0]
    earn(tmp_path, provider, 2)
    twice, _ = books.sums_ncr()["node"][0], earnings.look()
    for table in ("entry", "body"):
        change(tmp_path, f"DELETE FROM {table} WHERE idx = 1")

    assert (once, twice, books.sums_ncr()["node"][0]) == (once, 2 * once, once)
    assert earnings.look()["answers"] == 1


def test_an_entry_that_does_not_hold_is_told_at_every_look(
    tmp_path: Path, provider: Identity
) -> None:
    earnings = Earnings(Book("node", tmp_path / "node"))
    change(tmp_path, "UPDATE body SET receipt = x'00' WHERE idx = 0")

    for _ in range(3):
        with pytest.raises(IntegrityError):
            earnings.look()


async def test_an_owner_whose_ledger_does_not_hold_is_told_and_can_still_act(
    tmp_path: Path, provider: Identity
) -> None:
    change(tmp_path, "UPDATE body SET receipt = x'00' WHERE idx = 0")
    mine: Any = SimpleNamespace(view=lambda: {"state": "serving"})
    never: Any = None
    panel = NodePanel(mine, Earnings(Book("node", tmp_path / "node")), never)

    told = await panel.view()

    assert (told["state"], told["token"]) == ("serving", panel.guard.token)
    assert told["earned"]["error"]
    assert told["earned"]["answers"] == 0


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run a page's script")
def test_a_tab_that_a_peer_dated_beyond_all_days_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "dom.mjs").write_bytes((STATIC / "dom.js").read_bytes())
    script = """
        globalThis.Node = class {};
        globalThis.document = {
            createElement: () => ({ append() {}, setAttribute(at, value) { this[at] = value; } }),
        };
        const { moment } = await import("./dom.mjs");
        console.log(moment(2 ** 62).datetime, moment(0).datetime);
    """
    command = ["node", "--input-type=module", "-e", script]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert told.split() == ["9999-01-01T00:00:00.000Z", "1970-01-01T00:00:00.000Z"]

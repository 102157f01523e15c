"""What the ledger page is told beside balances: days, open sessions, prices, budgets, exports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.findings import Findings
from ledger.meter import Rates
from ledger.tallies import Tallies
from ledger.tally import Tally
from ledger.verdicts import MISMATCH
from manyhands.costing.budget import Budget, write_budget
from manyhands.costing.floor_file import Floor, floor_file, read_floor, write_floor
from manyhands.costing.own_price import Price, write_price
from manyhands.dashboard.books import HomeBooks
from manyhands.home import Home
from protocol.errors import UsageError
from protocol.identity import Identity, load_or_create_identity, peer_id_from_public_key
from tests.dashboard.browsing import Tab, chromium, needs_chromium, served
from tests.dashboard.test_page import SWARM, panel_of
from tests.ledger.parties import CLIENT, STRANGER, closed_receipt
from tests.ledger.parties import SWARM as SWARM_ID
from tests.ledger.test_judging import AUDITOR, OTHER, fault_of, look, verdict


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Of a node that earned once, and has a session open."""
    identity: Identity = load_or_create_identity(tmp_path / "node" / "identity.key")
    with Ledger.open(tmp_path / "node", identity.key, SWARM_ID) as ledger:
        ledger.append(closed_receipt(provider=identity.key, nonce=b"1" * 16))
        ledger.save_tab(closed_receipt(provider=identity.key, nonce=b"2" * 16))
        yield Home.at(tmp_path)


def sections(home: Home) -> dict[str, dict]:
    [book] = HomeBooks(home.root).balances()
    return {each["title"]: each for each in book["sections"]}


def test_open_sessions_tell_how_much_of_the_window_is_unpaid(home: Home):
    found = sections(home)["Open sessions"]

    [[peer, blocks, promised, unpaid, bar]] = found["rows"]
    assert peer["peer"].startswith("12D3KooW")
    assert (type(promised), type(unpaid)) == (int, int)
    assert 0 <= bar["bar"] <= 1
    assert "–" in blocks


def test_sessions_for_which_nobody_asks_anything_are_told_without_words_of_money(tmp_path: Path):
    identity: Identity = load_or_create_identity(tmp_path / "node" / "identity.key")
    with Ledger.open(tmp_path / "node", identity.key, SWARM_ID) as ledger:
        ledger.save_tab(closed_receipt(provider=identity.key, rates=Rates()))
        found = sections(Home.at(tmp_path))["Open sessions"]

    assert found["head"] == ["Peer", "Blocks"]
    assert [len(row) for row in found["rows"]] == [2]


@needs_chromium
async def test_a_page_of_what_was_free_speaks_of_no_money(tmp_path: Path):
    identity: Identity = load_or_create_identity(tmp_path / "node" / "identity.key")
    with Ledger.open(tmp_path / "node", identity.key, SWARM_ID) as ledger:
        ledger.append(closed_receipt(provider=identity.key, rates=Rates()))
    panel = panel_of(SWARM)
    panel.books = HomeBooks(tmp_path)
    async with chromium() as browser, served(panel) as url:
        tab = Tab(await browser.new_page(), url)
        await tab.open("ledger")
        await tab.page.get_by_text("nobody owes anything").wait_for()
        told = await tab.page.inner_text("main")

        assert not {"Earned", "Spent", "Net", "Unpaid"} & set(told.split())
        await tab.open("routing")
        assert await tab.page.get_by_text("ms per token").count()
        assert tab.said == []


def test_looks_at_others_work_and_proven_faults_are_told(home: Home):
    with Findings.open(home.root / "node", SWARM_ID) as found:
        found.note([look(), look(), look(MISMATCH, STRANGER)])
        found.add(fault_of(verdict(AUDITOR), verdict(OTHER, 2)).seal(SWARM_ID, CLIENT))

    told = sections(home)

    assert sorted(row[2:4] for row in told["Audits"]["rows"]) == [[0, 1], [2, 0]]
    [[peer, kind, what, rests_on]] = told["Faults"]["rows"]
    assert peer["peer"].startswith("12D3KooW")
    assert "blocks 0:4 gave wrong" in what
    assert (kind, rests_on) == ("compute", "2 auditors")


def test_what_was_settled_outside_of_tabs_is_told(home: Home):
    ours = load_or_create_identity(home.root / "node" / "identity.key")
    parties = {"payer": CLIENT.public_key, "payee": ours.public_key}
    said = Tally(**parties, served=9, settled=7, issued_ms=0).seal(SWARM_ID, ours.key)
    with Tallies.open(home.root / "node", SWARM_ID) as tallies:
        assert tallies.keep(said)

    [[peer, it, we]] = sections(home)["Settled outside"]["rows"]

    assert peer["peer"] == peer_id_from_public_key(CLIENT.public_key)
    assert (it, we) == (7, 0)


def test_a_price_stands_beside_the_floor_that_was_found_last(home: Home):
    assert "Price" not in sections(home)

    write_price(home, Price(300, 500))
    unknown = sections(home)["Price"]
    write_floor(home, Floor("tiny", "2026-11-22", Price(100, 200)))

    assert unknown["rows"][0] == ["Prompts", 300, "–", "–"]
    assert sections(home)["Price"]["rows"] == [
        ["Prompts", 300, 100, "3 times"],
        ["Answers", 500, 200, "2.5 times"],
    ]
    floor_file(home).write_text("[]")
    assert read_floor(home) is None


def test_a_day_has_what_was_earned_in_it_and_a_statement_is_exported(home: Home):
    books = HomeBooks(home.root)
    [book] = books.balances()

    assert len(book["days"]) == 14
    assert sum(day[1] for day in book["days"]) in (0, book["earned_ncr"])  # receipts may be older
    assert "".join(books.exported("node", "csv")).startswith("account,")
    assert "<main>" in "".join(books.exported("node", "html"))
    for role, kind in (("node", "exe"), ("../node", "csv"), ("client", "csv")):
        with pytest.raises(UsageError):
            books.exported(role, kind)


@needs_chromium
async def test_the_page_draws_what_it_is_told_and_saves_a_statement(home: Home):
    write_price(home, Price(300, 500))
    write_budget(home, Budget(per_day=1000))
    panel = panel_of(SWARM)
    panel.books = HomeBooks(home.root)
    async with chromium() as browser, served(panel) as url:
        for scheme in ("light", "dark"):
            page = await browser.new_page(
                color_scheme=scheme, viewport={"width": 390, "height": 800}
            )
            tab = Tab(page, url)
            await tab.open("ledger")
            await page.wait_for_selector(".exports")
            assert await page.locator("h3").all_inner_texts() >= ["Open sessions"]
            assert await page.locator(".meter").count() == 1
            assert await tab.violations() == []
            assert await page.evaluate("document.documentElement.scrollWidth") == 390
        async with page.expect_download() as saving:
            await page.locator("button[data-kind=focus]").click()
        assert (await saving.value).suggested_filename == "manyhands-node-focus.csv"
        assert tab.said == []

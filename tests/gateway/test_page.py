"""The page in a browser, in front of a real swarm of two nodes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from protocol.identity import Identity
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Transport
from protocol.transport.memory import MemoryNetwork
from tests.dashboard.browsing import CHROMIUM, needs_chromium
from tests.gateway.live import Live, live

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page() -> "Iterator[Page]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page()
        page.set_default_timeout(90_000)
        yield page
        browser.close()


def test_the_page_shows_the_swarm_and_chats_with_it(gateway: Live, page: "Page") -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(gateway.url)
    page.get_by_text("can answer").first.wait_for()
    assert page.locator(".grid a").count() >= 2

    page.click("#nav-chat")
    page.wait_for_selector("#chat-model option", state="attached")
    page.fill("#chat-text", "Hello")
    page.keyboard.press("Enter")
    about = page.locator(".turn.assistant .about")
    about.get_by_text("tokens").wait_for()
    assert len(page.locator(".turn.assistant").inner_text()) > 10

    page.click("#nav-requests")
    page.locator("main tbody tr").first.wait_for()
    page.locator("main tbody button").first.click()
    page.locator(".waterfall").first.wait_for()
    assert said == []


def test_the_command_that_lends_a_machine_names_where_to_join(gateway: Live, page: "Page") -> None:
    peers = gateway.ask("GET", "/api/v1/peers")[2]["peers"]
    addresses = [address for peer in peers for address in peer["addresses"]]

    page.goto(f"{gateway.url}/#/connect")
    lend = page.locator("pre", has_text="--join /")
    lend.wait_for()
    command = lend.inner_text()
    page.goto(f"{gateway.url}/#/model/{peers[0]['manifest']}")
    page.locator("pre", has_text="--join /").wait_for()

    assert command in [f"manyhands serve tiny --join {address}" for address in addresses]


def without_an_end(route: "Route") -> None:
    """An answer that a busy machine cannot have ended before somebody clicks."""
    route.continue_(post_data={**route.request.post_data_json, "ignore_eos": True})


def test_an_answer_can_be_stopped(gateway: Live, page: "Page") -> None:
    page.goto(f"{gateway.url}/#/chat")
    page.wait_for_selector("#chat-model option", state="attached")
    page.click("#chat-new")
    page.fill("#chat-most", "900")
    page.fill("#chat-text", "Tell me a story.")
    page.route("**/v1/chat/completions", without_an_end)
    page.click("#chat-send")
    page.get_by_role("button", name="Stop").click()
    page.locator(".turn.assistant .about").get_by_text("stopped").wait_for()
    page.unroute("**/v1/chat/completions")
    assert page.get_by_role("button", name="Send").is_visible()
    page.fill("#chat-most", "8")
    page.click("#chat-again")  # the same question, another answer in the place of the first
    about = page.locator(".turn.assistant .about")
    about.get_by_text("cut off at the most tokens").wait_for()
    assert page.locator(".turn").count() == 2
    assert page.locator(".turn.assistant .about a").count() == len(gateway.swarm.nodes)


def test_an_answer_that_cannot_be_had_is_told_in_plain_words(gateway: Live, page: "Page") -> None:
    page.goto(f"{gateway.url}/#/chat")
    page.wait_for_selector("#chat-model option", state="attached")
    page.click("#chat-new")
    page.fill("#chat-most", "1000000")
    page.fill("#chat-text", "Hello")
    page.keyboard.press("Enter")
    page.locator(".turn.assistant .problem").get_by_text("too long for the model").wait_for()
    page.fill("#chat-most", "8")
    page.click("#chat-again")
    page.locator(".turn.assistant .about").get_by_text("tokens").wait_for()


def test_routes_are_explained_and_the_ledger_is_audited(gateway: Live, page: "Page") -> None:
    page.goto(f"{gateway.url}/#/routing")
    page.get_by_role("heading", name="Route 1").wait_for()
    hops = page.get_by_role("region", name="Route 1, hop by hop").locator("tbody tr")
    assert hops.count() == len(gateway.swarm.nodes)
    page.fill("#route-regions", "antarctica")
    page.keyboard.press("Enter")
    page.get_by_text("There is no chain now").wait_for()
    page.goto(f"{gateway.url}/#/ledger")
    page.click("#verify")
    page.get_by_text("Verify again").wait_for()


class Mortal(Live):
    """Its nodes can be killed: they say no more, and all their connections end at once."""

    network: MemoryNetwork

    def transport(self, identity: Identity) -> Transport:
        return self.network.transport(identity, OPEN_SWARM_ID)

    async def start(self) -> None:
        self.network = MemoryNetwork()
        await super().start()


def test_a_peer_that_is_killed_while_somebody_watches_is_seen_to_be_gone(
    tmp_path_factory: pytest.TempPathFactory, page: "Page"
) -> None:
    with live(tmp_path_factory.mktemp("watched"), kind=Mortal) as running:
        assert isinstance(running, Mortal)
        page.goto(running.url)
        page.locator(".sentence").get_by_text("can answer").wait_for()
        victim = running.swarm.nodes[1].node.identity.peer_id
        running.look(lambda: running.network.kill(victim))
        page.locator(".sentence.bad").get_by_text("cannot answer").wait_for(timeout=20_000)
        assert "blocks 4 to 7" in page.locator(".sentence").inner_text()
        page.locator(".state", has_text="unreachable").first.wait_for()

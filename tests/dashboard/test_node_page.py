"""A node's own page in a real browser, in front of a real node."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from manyhands.dashboard.beside import page_beside
from manyhands.home import Home
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from tests.checkpoints import write_checkpoint
from tests.dashboard.browsing import NODE_PAGES, Tab, chromium, needs_chromium
from tests.dashboard.test_my_node import ABOUT
from tests.local_swarm import add_byte_tokenizer, swarm

if TYPE_CHECKING:
    from playwright.async_api import Browser, Route

QUICK = ("dark", 320)
pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator["Browser"]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Of the page of one of two nodes."""
    model = add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))
    network, place = MemoryNetwork(), tmp_path_factory.mktemp("swarm")
    home = Home.at(Path(tmp_path_factory.mktemp("home")))
    async with swarm(model, place, lambda i: network.transport(i, OPEN_SWARM_ID)) as pair:
        [local, _] = await pair.start((0, 6), (0, 3))
        transport = network.transport(pair.new_identity(), OPEN_SWARM_ID)
        async with page_beside(local.node, transport, home, range(1), ABOUT) as found:
            yield found


@pytest.mark.parametrize(
    ("theme", "width"),
    [
        pytest.param("light", 1200, marks=pytest.mark.slow),
        pytest.param("dark", 1200, marks=pytest.mark.slow),
        QUICK,
        pytest.param("light", 320, marks=pytest.mark.slow),
    ],
    ids=str,
)
async def test_every_page_of_a_node_is_accessible_and_fits(
    browser: "Browser", url: str, theme: str, width: int
) -> None:
    viewport = {"width": width, "height": 800}
    page = await browser.new_page(
        viewport=viewport,  # type: ignore[arg-type]
        color_scheme="dark" if theme == "dark" else "light",
    )
    tab = Tab(page, url)
    for name in NODE_PAGES:
        await tab.open(name)
        await page.wait_for_timeout(250)
        if not name and (theme, width) != QUICK:  # the doctor takes ten seconds
            await page.wait_for_selector("#doctor-again")
        assert await tab.violations() == [], name
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert tab.said == []
    await page.close()


async def test_a_node_is_paused_and_resumed_by_keyboard_alone(browser: "Browser", url: str) -> None:
    tab = Tab(await browser.new_page(), url)
    page = tab.page
    await tab.open("")
    await page.wait_for_selector("#node-pause")
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.id") == "pause-for":
            break
    await page.keyboard.press("ArrowDown")  # for 30 minutes
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.get_by_text("You paused this node. No new").wait_for()
    assert "It serves again by itself at" in await page.locator("main").inner_text()

    await page.focus("#node-resume")
    await page.keyboard.press("Enter")
    await page.locator(".sentence.well").wait_for()
    await page.click("#node-drain")
    await page.get_by_text("Answers that run end here.").wait_for()
    await page.click("#node-resume")
    await page.get_by_text("Your node serves").wait_for()
    assert tab.said == []
    await page.close()


@pytest.mark.slow
async def test_an_answer_from_before_a_pause_does_not_undo_what_it_shows(
    browser: "Browser", url: str
) -> None:
    page = await browser.new_page()
    tab = Tab(page, url)
    held: list[object] = []
    released = asyncio.Event()

    async def late(route: "Route") -> None:
        """As it was when it was asked for, and told when the pause has been shown."""
        response = await route.fetch()
        held.append(route)
        await released.wait()
        await route.fulfill(response=response)

    await tab.open("")
    await page.wait_for_selector("#node-pause")
    await page.route("**/api/v1/node", late)
    while not held:
        await page.wait_for_timeout(200)
    await page.click("#node-pause")
    await page.get_by_text("You paused this node.").wait_for()
    released.set()
    await page.wait_for_timeout(300)

    assert await page.get_by_text("You paused this node.").count() == 1
    await page.unroute("**/api/v1/node")
    await page.click("#node-resume")
    await page.get_by_text("Your node serves").wait_for()
    await page.close()


@pytest.mark.slow
async def test_an_address_that_is_no_utf_8_leaves_the_page_alive(
    browser: "Browser", url: str
) -> None:
    page = await browser.new_page()
    await page.goto(f"{url}/#/peer/%")

    await page.get_by_text("Manyhands 0").wait_for()  # it has heard of the swarm
    await page.close()


@pytest.mark.slow
async def test_a_page_that_is_refused_the_swarms_state_says_why(
    browser: "Browser", url: str
) -> None:
    page = await browser.new_page()
    body = json.dumps({"error": {"message": "too many pages watch already"}})
    await page.route("**/api/v1/events", lambda route: route.fulfill(status=503, body=body))
    await page.goto(url)

    await page.locator("#stale").get_by_text("too many pages watch already").wait_for()
    await page.unroute("**/api/v1/events")
    await page.locator("#stale").wait_for(state="hidden")
    await page.close()

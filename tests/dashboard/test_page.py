"""The page in a real browser, showing swarms that are written down here."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from manyhands.condition import Seen
from manyhands.dashboard.routes import Panel
from manyhands.dashboard.traffic import Traffic
from manyhands.dashboard.watch import Look, SwarmWatch
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.measured import Measured, State
from protocol.messages import Span
from scheduler.request import Routed, RouteStep, Token
from tests.announcing import announce, peer_of
from tests.dashboard.browsing import PAGES, Tab, chromium, needs_chromium, served

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]

WELL = Seen(rtt_ms=1.2)
HOSTILE = "<img src=x onerror=alert(1)>"
SWARM: Mapping[Announcement, Seen] = {
    announce(1, (0, 4), region="SG"): WELL,
    announce(2, (4, 8)): WELL,
    announce(3, (2, 8)): Seen(why_not="connection refused"),
    announce(4, (0, 6)): Seen(rtt_ms=3.0, slowdown=4.0),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator["Browser"]:
    async with chromium() as running:
        yield running


def panel_of(seen: Mapping[Announcement, Seen]) -> Panel:
    """Of a swarm as it was seen once, and one answer of it."""
    traffic = Traffic()
    trace = traffic.begin("req_1", "tiny", "chat", 7)
    hops = (RouteStep(peer_of(1), Span(0, 4), 2.5), RouteStep(peer_of(2), Span(4, 8), 1.5))
    for event in (Routed(hops), Token(0, 5, ""), Token(1, 6, "")):
        traffic.hear(trace, event)
    traffic.end(trace, "stop")
    watch = SwarmWatch()  # nobody watches: it shows what it is given
    watch.newest = Look(wall_ms(), 1, seen)
    return Panel(watch, traffic)


@pytest.mark.parametrize(
    ("theme", "width"),
    [
        pytest.param("light", 1200, marks=pytest.mark.slow),
        pytest.param("dark", 1200, marks=pytest.mark.slow),
        ("dark", 320),
        pytest.param("light", 320, marks=pytest.mark.slow),
    ],
    ids=str,
)
async def test_every_page_is_accessible_and_fits(
    browser: "Browser", theme: str, width: int
) -> None:
    detail = f"peer/{peer_of(3)}", f"model/{announce(1).manifest.hex()}"
    await look_at((*PAGES, *detail), browser, theme, width)


async def look_at(names: Sequence[str], browser: "Browser", theme: str, width: int) -> None:
    async with served(panel_of(SWARM)) as url:
        page = await browser.new_page(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if theme == "dark" else "light",
        )
        tab = Tab(page, url)
        for name in names:
            await tab.open(name)
            await page.wait_for_timeout(100)
            assert await tab.violations() == [], name
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert tab.said == []
        await page.close()


async def test_the_overview_says_how_it_is_in_words_and_pictures(browser: "Browser") -> None:
    async with served(panel_of(SWARM)) as url:
        tab = Tab(await browser.new_page(), url)
        await tab.open("")
        main = tab.page.locator("main")
        await main.get_by_text("tiny can answer.").wait_for()
        assert await main.locator(".grid .track").count() == 1 + len(SWARM)
        assert "connection refused" in await main.inner_text()
        await tab.page.close()


async def test_a_node_of_this_machine_that_its_owner_paused_is_not_told_as_well(
    browser: "Browser",
) -> None:
    paused = announce(1, (0, 8), measured=Measured(state=State.PAUSED, paused="by its owner"))
    nodes = [
        {"name": f"node {n}", "peer": peer_of(n), "page": f"http://127.0.0.1:{n}", "is_up": n < 3}
        for n in (1, 2, 3)
    ]
    panel = panel_of({paused: WELL, announce(2): WELL})
    panel.nodes = lambda: nodes
    async with served(panel) as url:
        tab = Tab(await browser.new_page(), url)
        await tab.open("")
        await tab.page.get_by_role("heading", name="Nodes of this machine").wait_for()
        told = await tab.page.locator("section", has_text="Nodes of this").locator("li").all()
        signs = [(await line.inner_text()).split()[0] for line in told]
        words = [
            (await line.inner_text()).split(peer_of(n)[-8:])[-1].strip()
            for n, line in enumerate(told, 1)
        ]
        note = await tab.page.locator("li", has_text="paused: by its owner").inner_text()
        await tab.page.close()

    assert signs == ["▲", "●", "✖"]
    assert words == ["paused", "", "not up"]
    assert note.startswith("○")


async def test_every_page_and_what_is_on_it_is_reached_by_keyboard_alone(
    browser: "Browser",
) -> None:
    async with served(panel_of(SWARM)) as url:
        tab = Tab(await browser.new_page(), url)
        await tab.open("")
        for name in PAGES:
            await tab.tab_to(f'document.activeElement.id === "nav-{name}"')
            await tab.page.keyboard.press("Enter")
            await tab.page.wait_for_selector(f'#nav-{name}[aria-current="page"]')
            await tab.page.wait_for_selector("main h1")
            if name == "ledger":  # there is none here, nor anything to do about it
                continue
            await tab.tab_to(IN_MAIN)
            assert await tab.page.evaluate(HAS_RING), name
        await tab.page.close()


IN_MAIN = "!!document.activeElement.closest('main') && document.activeElement.id !== 'main'"
# What has the focus is seen to have it: an outline, or a border of its own.
HAS_RING = """() => {
  const style = getComputedStyle(document.activeElement);
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
}"""


async def test_a_table_is_sorted_by_keyboard_and_keeps_the_focus(browser: "Browser") -> None:
    async with served(panel_of(SWARM)) as url:
        tab = Tab(await browser.new_page(), url)
        page = tab.page
        await tab.open("")
        await tab.tab_to('document.activeElement.id === "nav-peers"')
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#sort-rtt_ms")
        await tab.tab_to('document.activeElement.id === "sort-rtt_ms"')
        await page.keyboard.press("Enter")
        header = page.locator("th:has(#sort-rtt_ms)")
        assert await header.get_attribute("aria-sort") == "ascending"
        await asyncio.sleep(0.3)
        assert await page.evaluate("document.activeElement.id") == "sort-rtt_ms"
        await page.close()


async def test_what_strangers_announce_stays_text(browser: "Browser") -> None:
    hostile = announce(1, region=HOSTILE[:32], model=HOSTILE, software=HOSTILE)
    async with served(panel_of({hostile: Seen(why_not=HOSTILE)})) as url:
        tab = Tab(await browser.new_page(), url)
        for name in (*PAGES, f"peer/{peer_of(1)}", f"model/{hostile.manifest.hex()}"):
            await tab.open(name)
            await tab.page.wait_for_timeout(100)
            assert await tab.page.locator("main img").count() == 0, name
        await tab.open("peers")
        assert HOSTILE in await tab.page.locator("main").inner_text()
        assert tab.said == []
        await tab.page.close()


async def test_a_large_model_is_drawn_whole(browser: "Browser") -> None:
    seen = {announce(n, (2 * n, 2 * n + 2), n_blocks=200, decode_us=2000): WELL for n in range(100)}
    async with served(panel_of(seen)) as url:
        tab = Tab(await browser.new_page(), url)
        await tab.open(f"model/{announce(1).manifest.hex()}")
        await tab.page.locator(".grid").wait_for()
        assert await tab.page.locator(".grid rect.span").count() == 100
        n_elements = await tab.page.locator(".grid *").count()
        assert n_elements < 100 * 8  # a bar for a span, not a square for each of its blocks
        await tab.page.close()


async def test_a_page_that_hears_nothing_says_since_when(browser: "Browser") -> None:
    async with served(panel_of(SWARM)) as url:
        tab = Tab(await browser.new_page(), url)
        await tab.page.clock.install()
        await tab.open("")
        await tab.page.route("**/api/v1/events", lambda route: route.abort())
    await tab.page.clock.run_for(30_000)
    assert await tab.page.locator("#stale").is_visible()
    assert "tiny can answer." in await tab.page.locator("main").inner_text()
    await tab.page.close()


SAID = f"""# A story

Once **upon** a `time`, *there* was {HOSTILE}

1. one
2. two

```html
{HOSTILE}
```
- a [link](javascript:alert(1))
"""


async def test_what_a_model_writes_is_markdown_and_never_markup(browser: "Browser") -> None:
    async with served(panel_of(SWARM)) as url:
        tab = Tab(await browser.new_page(), url)
        await tab.open("chat")
        lines = [SAID[:40], SAID[40:]]
        await tab.page.evaluate(SHOW, lines)
        main = tab.page.locator("#shown")
        assert await main.locator("img, a, script").count() == 0
        assert await main.locator("ol li").all_inner_texts() == ["one", "two"]
        assert await main.locator("pre code").inner_text() == HOSTILE
        assert await main.locator("p strong").inner_text() == "upon"
        assert HOSTILE in await main.locator("p").nth(1).inner_text()
        assert "[link](javascript:alert(1))" in await main.inner_text()
        assert tab.said == []
        await tab.page.close()


SHOW = """async (lines) => {
  const { markdown } = await import("/page/markdown.js");
  const shown = document.createElement("div");
  shown.id = "shown";
  document.body.append(shown);
  for (let end = 1; end <= lines.join("").length; end += 1) markdown(lines.join("").slice(0, end));
  shown.append(...markdown(lines.join("")));
}"""

"""A real browser on a page under test: Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.dashboard.routes import Panel, page_router
from manyhands.gateway.app import bare_app
from manyhands.gateway.serving import listening
from manyhands.route import view_of
from scheduler.explain import explain
from scheduler.wanted import Wanted
from tests.announcing import MANIFEST

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)
PAGES = ("", "models", "peers", "requests", "routing", "ledger", "chat", "connect")
NODE_PAGES = ("", "swarm", "models", "peers", "ledger")


@asynccontextmanager
async def chromium() -> AsyncIterator["Browser"]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def served(panel: Panel) -> AsyncIterator[str]:
    """The page's own routes on a loopback port."""
    app = bare_app("A page")
    app.include_router(page_router(panel))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "tiny", "object": "model"}]}

    @app.post("/api/v1/route")
    async def route() -> dict[str, Any]:
        """As a gateway explains it, by what the panel shows."""
        peers = list(panel.watch.newest.seen)
        wanted = Wanted(manifest=MANIFEST, n_blocks=8, n_positions=1024, n_prompt=512)
        return view_of(explain(peers, wanted, model="tiny"), wanted, "tiny")

    async with listening(app, "127.0.0.1", 0) as port:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            panel.watch.end()


class Tab:
    """One page, and all that its console said."""

    def __init__(self, page: "Page", url: str) -> None:
        self.page, self.url = page, url
        self.said: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))

    async def open(self, name: str) -> None:
        """Show a page, and wait until what the swarm says stands in it."""
        await self.page.goto(f"{self.url}/#/{name}")
        await self.page.wait_for_selector("#footer:not(:empty)")
        await self.page.wait_for_selector("main h1")

    async def tab_to(self, holds: str, most: int = 60) -> None:
        """Press the Tab key until this expression holds of what has the focus."""
        for _ in range(most):
            await self.page.keyboard.press("Tab")
            if await self.page.evaluate(holds):
                return
        raise AssertionError(f"{most} times Tab, and never {holds}")

    async def violations(self) -> list[Any]:
        from axe_playwright_python.async_playwright import Axe

        """What axe holds against what is shown: a rule, and the elements that break it."""
        found: dict[str, Any] = (await Axe().run(self.page)).response
        return [
            (rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]
        ]

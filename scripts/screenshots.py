"""The pictures in docs/images/: a real swarm on the built-in model, in a real browser.

Starts `manyhands up` with four nodes in a home of its own, has it answer, has one node pause while
an answer runs, and takes a picture of each page worth showing. Ends with an error where a picture
would be too large to be in a repository.
Run: python scripts/screenshots.py   (apt-get install chromium; a minute)
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 150_000
WIDTH, HEIGHT = 1160, 760
QUESTIONS = ("Who are you?", "What is Manyhands?", "What happens when a node dies?")
STORY = "Tell me a story."  # its answer is long enough for a node to pause meanwhile


@contextmanager
def swarm() -> Iterator[dict[str, Any]]:
    """What `manyhands up` says when it is ready, while it runs."""
    with tempfile.TemporaryDirectory(prefix="manyhands-shots-") as home:
        command = (sys.executable, "-m", "manyhands", "up", "--nodes", "4", "--replicas", "2")
        running = subprocess.Popen(
            (*command, "--port", "0", "--home", home), stdout=subprocess.PIPE, cwd=ROOT
        )
        assert running.stdout is not None
        try:
            if not (line := running.stdout.readline()):
                raise SystemExit("the swarm did not start; a busy machine may be too slow for it")
            yield json.loads(line)
        finally:
            running.terminate()
            running.wait(30)


@contextmanager
def page_of(browser: "Browser", theme: str, *, height: int = HEIGHT) -> "Iterator[Page]":
    viewport = {"width": WIDTH, "height": height}
    page = browser.new_page(viewport=viewport, color_scheme=theme, locale="en-GB")  # type: ignore[arg-type]
    page.set_default_timeout(60_000)
    yield page
    page.close()


def ask(page: "Page", question: str, *, waits: bool = True) -> None:
    """In the chat, which is open."""
    page.fill("#chat-text", question)
    page.keyboard.press("Enter")
    if waits:
        page.wait_for_selector("#chat-again")


def shoot(page: "Page", name: str, *, full: bool = False) -> None:
    path = IMAGES / f"{name}.png"
    page.wait_for_timeout(500)
    page.screenshot(path=path, full_page=full)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size // 1000} KB")
    if size > MAX_BYTES:
        raise SystemExit(f"{path.name} has {size} bytes; {MAX_BYTES} is the most")


def take(browser: "Browser", url: str) -> None:
    with page_of(browser, "dark") as page:
        page.goto(f"{url}/#/chat")
        page.wait_for_selector("#chat-model option", state="attached")
        for question in QUESTIONS:
            ask(page, question)
        shoot(page, "chat")
        peer = page.locator(".turn.assistant .about a").first.get_attribute("title")
    with page_of(browser, "light") as page, page_of(browser, "light", height=900) as own:
        page.goto(url)
        card = page.locator("section", has=page.get_by_role("heading", name="Nodes of this"))
        line = card.locator("li", has=page.locator(f'a[title="{peer}"]'))
        own.goto(line.get_by_role("link").first.get_attribute("href") or "")
        page.click("#nav-chat")
        page.wait_for_selector("#chat-model option", state="attached")
        ask(page, STORY, waits=False)
        own.click("#node-pause")
        own.wait_for_selector("#node-resume")
        page.wait_for_selector("#chat-again")
        ask(page, QUESTIONS[0])
        shoot(own, "my-node")
        page.click("#nav-")
        page.locator(".state", has_text="paused").first.wait_for()
        shoot(page, "overview", full=True)
        own.click("#node-resume")
    with page_of(browser, "light") as page:
        page.goto(f"{url}/#/requests")
        page.locator("tbody button").nth(1).click()
        page.locator(".waterfall").first.wait_for()
        shoot(page, "requests")
    with page_of(browser, "dark") as page:
        page.goto(f"{url}/#/routing")
        page.get_by_role("heading", name="Route 1").wait_for()
        shoot(page, "routing")
    with page_of(browser, "light") as page:
        page.goto(f"{url}/#/ledger")
        page.click("#verify")
        page.get_by_text("Verify again").wait_for()
        shoot(page, "ledger")


def main() -> None:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        raise SystemExit("no Chromium: apt-get install chromium")
    IMAGES.mkdir(exist_ok=True)
    with swarm() as ready, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        take(browser, ready["url"])
        browser.close()


if __name__ == "__main__":
    main()

"""The page: what its data costs to make, and a large model to draw, in a real browser.

The first table: the state of a swarm of 1,000 peers, five models of 200 blocks, as JSON; the first
look judges every model, later ones only those whose hosts changed, so both are told: CPU time.
The second one: Chromium draws the page of a model of 200 blocks that 100 peers serve, again and
again: until elements and layout stand, and until a frame has been shown.
Goals: <= 100 ms and <= 200 KB for the data; <= 200 ms for the drawing.
Run: python benchmarks/dashboard.py [--draws 20]   (apt-get install chromium; 10 s)
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import common  # noqa: F401  # sets threads and paths

from manyhands.condition import Seen
from manyhands.dashboard.overview import Overview
from manyhands.dashboard.routes import Panel
from manyhands.dashboard.traffic import Traffic
from manyhands.dashboard.watch import Look, SwarmWatch
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from tests.announcing import announce
from tests.dashboard.browsing import CHROMIUM, Tab, chromium, served

N_BLOCKS, SPAN = 200, 20
WELL = Seen(rtt_ms=1.2)
DRAW = """async ({ state, manifest, draws }) => {
  const { model } = await import("/page/models.js");
  const main = document.createElement("main");
  document.body.append(main);
  const took = [];
  for (let n = 0; n <= draws; n += 1) {
    const begun = performance.now();
    const view = model(main, manifest);
    view.update(state);
    main.offsetHeight;
    const laid = performance.now() - begun;
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    if (n) took.push([laid, performance.now() - begun]);
    main.replaceChildren();
  }
  return took;
}"""


def swarm(n_peers: int, n_models: int) -> Mapping[Announcement, Seen]:
    """Peers that serve 20 of 200 blocks each, of models in turn."""
    return {
        announce(
            n,
            ((start := n * 7 % (N_BLOCKS - SPAN)), start + SPAN),
            n_blocks=N_BLOCKS,
            region="SG",
            model=f"model-{n % n_models}",
            manifest=bytes([n % n_models]) * 32,
        ): WELL
        for n in range(n_peers)
    }


def cpu_ms(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return 1000 * (time.process_time() - began_s)


def data() -> None:
    seen = swarm(1000, 5)
    first = [cpu_ms(lambda: json.dumps(Overview().look(seen))) for _ in range(6)][1:]
    watched = Overview()
    watched.look(seen)
    later = [cpu_ms(lambda: json.dumps(watched.look(seen))) for _ in range(20)]
    n_bytes = len(json.dumps({**watched.look(seen), "traffic": Traffic().summary()}))
    print("| the state of 1,000 peers | median | worst | goal |")
    print("|---|---|---|---|")
    for name, took in (("first look, CPU ms", first), ("later looks, CPU ms", later)):
        print(f"| {name} | {statistics.median(took):.0f} | {max(took):.0f} | 100 |")
    print(f"| KB | {n_bytes / 1000:.0f} | {n_bytes / 1000:.0f} | 200 |")


async def drawing(draws: int) -> None:
    seen = swarm(100, 1)
    watch = SwarmWatch()
    watch.newest = Look(wall_ms(), 1, seen)
    state = Overview().look(seen)
    asked = {"state": state, "manifest": state["models"][0]["manifest"], "draws": draws}
    async with served(Panel(watch)) as url, chromium() as browser:
        tab = Tab(await browser.new_page(), url)
        await tab.open("models")
        took: Sequence[Sequence[float]] = await tab.page.evaluate(DRAW, asked)
        assert tab.said == []
    print("\n| 200 blocks x 100 peers in Chromium, ms | median | worst | goal |")
    print("|---|---|---|---|")
    rows: dict[str, Any] = {"elements and layout": 0, "until a frame is shown": 1}
    for name, at in rows.items():
        found = [each[at] for each in took]
        print(f"| {name} | {statistics.median(found):.0f} | {max(found):.0f} | 200 |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20)
    draws = parser.parse_args().draws
    data()
    if CHROMIUM is None:
        print("\nno Chromium: apt-get install chromium")
        return
    asyncio.run(drawing(draws))


if __name__ == "__main__":
    main()

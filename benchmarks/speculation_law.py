"""The law of drafts, and what the rules of nodes make of it: a picture for light and heavy hops.

Rings in virtual time (`virtual_ring.py`), so the figures are those of any run on any machine: the
rules and the law are a node's own, links and hops take the time that is said here. For each share
of right guesses: the bound 1 / ((1 - a) L + a t), what the law promises of one window and of small
frames, and what came of 1,000 tokens. Writes docs/images/drafts-light.svg and drafts-heavy.svg.
Run: python benchmarks/speculation_law.py [--tokens 1000] [--no-pictures]
"""

import argparse
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

import common
import drawing
from virtual_ring import Ring, tokens_per_s

from node import drafting
from node.windows import Window, best_window
from node.work import RowCost

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
RINGS = {
    "light": Ring(n_hops=4, link_s=0.025, step_s=0.0009, row_s=0.0001),
    "heavy, rows cheap": Ring(n_hops=4, link_s=0.025, step_s=0.018, row_s=0.002),
    "heavy": Ring(n_hops=4, link_s=0.025, step_s=0.010, row_s=0.005),
    "heavy, rows dear": Ring(n_hops=4, link_s=0.025, step_s=0.002, row_s=0.010),
}
DRAWN = {"light": "drafts-light.svg", "heavy": "drafts-heavy.svg"}
SHARES = (0.2, 0.4, 0.6, 0.75, 0.85, 0.95)
Law = Callable[..., Window]


def in_one(*measured: object, **more: object) -> Window:
    """The law of one frame: as with others who would wait for the steps of small ones."""
    acceptance, ring_s, costs, n_shares = measured
    assert isinstance(costs, RowCost)
    shared = RowCost(costs.row_s / 2, 2, costs.step_s)
    return best_window(acceptance, ring_s, shared, n_shares, **more)  # type: ignore[arg-type]  # passed on


def came(law: Law, ring: Ring, share: float, n_tokens: int) -> float:
    """Tokens per second by this law."""
    drafting.best_window = law
    try:
        return tokens_per_s(ring, share, n_tokens)
    finally:
        drafting.best_window = best_window


def promised(law: Law, ring: Ring, share: float) -> Window:
    return law(share, ring.ring_s, RowCost(ring.row_s, 1, ring.step_s), ring.n_hops)


def refilled(ring: Ring, share: float, n_tokens: int) -> float:
    """Tokens per second of frames that are filled up at once, up to 16 rows in flight: as nodes do
    not. No rules here, frames alone; the best size of them.
    """
    return max(_refilled(ring, share, rows, n_tokens) for rows in (1, 2, 4, 8))


def _refilled(ring: Ring, share: float, rows: int, n_tokens: int) -> float:
    die, free_s = random.Random(1), [0.0] * ring.n_hops
    step_s = ring.step_s + rows * ring.row_s

    def launched(at_s: float) -> float:
        """When the last hop has run it; each hop takes frames in turn."""
        for hop in range(ring.n_hops):
            at_s = max(at_s + ring.link_s, free_s[hop]) + step_s
            free_s[hop] = at_s
        return at_s

    flying = deque(launched(0.0) for _ in range(16 // rows))
    n_came = 0
    while True:
        now_s = flying.popleft()
        for _ in range(rows):
            n_came += 1
            if die.random() >= share:
                break
        else:
            flying.append(launched(now_s))
            continue
        if n_came >= n_tokens:
            return n_came / now_s
        # What is stale is dropped when the new branch comes; a hop may be amid a frame by then.
        for hop in range(ring.n_hops):
            free_s[hop] = min(free_s[hop], now_s + (hop + 1) * ring.link_s + step_s / 2)
        flying = deque(launched(now_s) for _ in range(16 // rows))


def picture(name: str, ring: Ring, n_tokens: int) -> str:
    fine = [at / 50 for at in range(49)]
    series = {
        "the bound": [(a, ring.bound(a)) for a in fine],
        "small frames": [(a, promised(best_window, ring, a).tokens_per_s) for a in fine],
        "one window": [(a, promised(in_one, ring, a).tokens_per_s) for a in fine],
        "no drafts": [(a, 1 / ring.ring_s) for a in fine],
        "small frames came": [(a, came(best_window, ring, a, n_tokens)) for a in SHARES],
        "one window came": [(a, came(in_one, ring, a, n_tokens)) for a in SHARES],
    }
    series["the bound"] = [(a, min(y, 60.0)) for a, y in series["the bound"] if y <= 60.0]
    if name == "light":
        del series["small frames"], series["small frames came"]  # the law takes one window there
    return drawing.lines(
        f"Drafts over {ring.n_hops} {name} hops",
        f"tokens/s; links of {ring.link_s * 1000:g} ms, a step of {ring.step_s * 1000:g} ms and "
        f"{ring.row_s * 1000:g} ms for each of its rows",
        series,
        x_unit="the share of guesses that are right",
        dashed=["the bound"],
        dotted=["small frames came", "one window came"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--no-pictures", action="store_true")
    options = parser.parse_args()
    rows = []
    for name, ring in RINGS.items():
        plain = tokens_per_s(ring, None, options.tokens // 10)
        for share in SHARES:
            one, best = (came(law, ring, share, options.tokens) for law in (in_one, best_window))
            law = promised(best_window, ring, share)
            rows.append(
                [
                    f"{name}: {ring.step_s * 1000:g} + {ring.row_s * 1000:g} ms a row",
                    f"{share:g}",
                    f"{one / plain:.2f}",
                    f"{best / plain:.2f}",
                    f"{best / one:.2f}",
                    f"{law.n_guesses} in {law.at_once or 'one'}",
                    f"{best / law.tokens_per_s:.0%}",
                    f"{best / ring.bound(share):.0%}",
                    f"{refilled(ring, share, 10 * options.tokens) / best:.2f}",
                ]
            )
    heading = ["hops", "right", "one window", "as the law says", "x", "guesses in frames of"]
    common.table([*heading, "of the law", "of the bound", "filled up, x"], rows)
    if options.no_pictures:
        return
    for name, file in DRAWN.items():
        (IMAGES / file).write_text(picture(name, RINGS[name], options.tokens))
        print(f"docs/images/{file}")


if __name__ == "__main__":
    main()

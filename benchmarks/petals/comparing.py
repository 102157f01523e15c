"""One run: all sides in turns, round by round, case by case; then table, JSON and pictures.

In: options of the command (`__main__.py`), the interpreter of Petals' environment. Which side goes
first changes from round to round; a round nobody counts goes before them.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.common import machine, median, random_llama, table
from benchmarks.linklab.priority import first
from benchmarks.petals.results import (
    CASES,
    EACH,
    EIGHT,
    HEADING,
    ONE,
    SIDES,
    Case,
    Scenario,
    picture,
)
from benchmarks.petals.sides import APART, LLAMA_8_512, N_SESSIONS, Apart, Sides, all_sides

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
PROMPT, LONG_PROMPT = 32, 512
N_FIRST = 4  # tokens after the long prompt: one to wait for, others to compare
SETTLE_S = 1.0  # between two sides, for what the one still does behind its answer
LOWEST_ID = 3  # those below mean something to tokenizers


async def compare(options: argparse.Namespace, python: Path) -> int:
    """All scenarios, one after the other; the status to end with.

    Raises:
        Failed: a program did not start, or did not answer.
    """
    scenarios = []
    with random_llama(**LLAMA_8_512) as model:
        for name in options.scenario:
            scenarios.append(await _scenario(APART[name], options, python, model))
    report = {
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": options.rounds,
        "first": options.first,
        "scenarios": [scenario.to_json() for scenario in scenarios],
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{machine()}; {options.rounds} round(s)\n")
    for scenario in scenarios:
        print(f"{scenario.name}: {scenario.links}; load {scenario.facts['load']}\n")
        table(HEADING, scenario.rows())
        for difference in scenario.differing:
            print(f"\ntokens differ: {difference}")
        print()
        if options.draw:
            (IMAGES / f"petals-{scenario.name}.svg").write_text(picture(scenario))
        if scenario.facts["left"]:
            print(f"processes that did not end by themselves: {scenario.facts['left']}\n")
    is_well = not any(scenario.differing or scenario.facts["left"] for scenario in scenarios)
    print("all tokens are equal, nothing is left running" if is_well else "see above")
    return 0 if is_well else 1


async def _scenario(
    apart: Apart, options: argparse.Namespace, python: Path, model: Path
) -> Scenario:
    """All rounds over these links."""
    scenario = Scenario(apart.name, apart.text, has_goals=not apart.is_far)
    n_tokens = options.tokens or apart.n_tokens
    scenario.facts["tokens"] = n_tokens
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="manyhands-petals-") as scratch:
        logs = options.folder / "logs" / apart.name
        async with all_sides(python, model, apart, Path(scratch), logs) as sides:
            await _round(sides, None, 0, n_tokens, options.seed)
            with first(sides.pids()) if options.first else nullcontext():
                for round_no in range(1, options.rounds + 1):
                    await _round(sides, scenario, round_no, n_tokens, options.seed)
                    loads.append(os.getloadavg()[0])
            for side, links in sides.links.items():
                carried = await links.carried()
                told = {f"{a} to {b}": n_bytes for (a, b), (n_bytes, _) in sorted(carried.items())}
                scenario.facts.setdefault("carried_bytes", {})[side] = told
        left = {program.log.stem: program.n_left for program in sides.programs if program.n_left}
        scenario.facts["left"] = left
    scenario.facts["load"] = [round(load, 1) for load in loads]
    return scenario


async def _round(
    sides: Sides, scenario: Scenario | None, round_no: int, n_tokens: int, seed: int
) -> None:
    """Each case, of one side after the other; the first one begins another time."""
    die = random.Random(f"{seed} {round_no}")
    for case in CASES:
        prompts, n_asked = _asked(case, die, n_tokens)
        told = {}
        for side in _in_turns(_sides_of(case), round_no):
            began_s = time.monotonic()
            told[side] = await sides.ask[side](prompts, n_asked)
            took_s = time.monotonic() - began_s
            first_s = median([answer.first_token_s for answer in told[side]])
            words = f"{took_s:.1f} s, first tokens after {first_s:.2f} s"
            print(f"round {round_no}, {case.name}, {side}: {words}", flush=True)
            await asyncio.sleep(SETTLE_S)
        if scenario is not None:
            scenario.add(case, round_no, {side: told[side] for side in SIDES if side in told})


def _asked(case: Case, die: random.Random, n_tokens: int) -> tuple[list[list[int]], int]:
    """New prompts each time, so that nothing is known of them."""
    is_decode = case in (ONE, EIGHT)
    length = PROMPT if is_decode else LONG_PROMPT
    n = N_SESSIONS if case is EIGHT else 1
    highest = LLAMA_8_512["vocab_size"]
    prompts = [[die.randrange(LOWEST_ID, highest) for _ in range(length)] for _ in range(n)]
    return prompts, n_tokens if is_decode else N_FIRST


def _sides_of(case: Case) -> list[str]:
    return [side for side in SIDES if case is EIGHT or side != EACH]


def _in_turns(sides: Sequence[str], round_no: int) -> list[str]:
    start = round_no % len(sides)
    return [*sides[start:], *sides[:start]]

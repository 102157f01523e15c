"""`python -m benchmarks.linklab SCENARIO… [--json FILE] [--pictures DIR] [--links proxy|tun]`.

Runs scenario files: each technique on and off beside each other, in turns, on real nodes over links
made here. A scenario is a path or a name of `--list`. Tables go to stdout, progress to stderr.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.linklab.reading import SCENARIOS, BadScenario, find, read
from benchmarks.linklab.rows import SCHEMA, Row, judged
from benchmarks.linklab.scenario import Scenario
from protocol.errors import ConfigError, ManyhandsError

if TYPE_CHECKING:
    from benchmarks.linklab.tun import Cloud


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linklab", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--list", action="store_true", help="scenarios that come with the lab")
    parser.add_argument("--rounds", type=int, default=0, help="instead of what each scenario says")
    parser.add_argument("--only", nargs="*", metavar="VARIANT", help="leave the others out")
    parser.add_argument("--links", choices=("proxy", "tun"), default="proxy",
                        help="proxies, or packets between network namespaces (root)")  # fmt: skip
    parser.add_argument("--tcp", default="", metavar="NAME",
                        help="of tun: all hosts' congestion control, such as cubic")  # fmt: skip
    parser.add_argument("--first", action="store_true",
                        help="nodes and client go before all other work here (root)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows there")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write an SVG for each there")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], metavar="FILE",
                        help="rows of other systems, in the same form")  # fmt: skip
    options = parser.parse_args()
    if options.list or not options.scenarios:
        _list()
        return
    try:
        scenarios = [_chosen(read(find(name)), options.only) for name in options.scenarios]
        beside = [row for path in options.beside for row in rows_of(path)]
        for folder in filter(None, (options.json and options.json.parent, options.pictures)):
            folder.mkdir(parents=True, exist_ok=True)
        found = _found(scenarios, beside, options)
    except PermissionError as error:
        sys.exit(f"error: {error}")
    except ManyhandsError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"fix: {error.hint}", file=sys.stderr)
        sys.exit(3)
    if any(verdict["holds"] is False for each in found for verdict in each["goals"]):
        sys.exit(1)


def _found(
    scenarios: Sequence[Scenario], beside: Sequence[Row], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """What to write of each.

    Raises:
        ConfigError: this machine cannot make such links.
    """
    if options.links == "proxy":
        if options.tcp:
            raise ConfigError("--tcp: behind proxies TCP is on loopback", hint="--links tun")
        return _run_all(scenarios, beside, options, None)
    from benchmarks.linklab.tun import Cloud, why_not

    if missing := why_not():
        raise ConfigError(f"--links tun: {missing}", hint="--links proxy needs neither")
    with Cloud(max(len(each.peers) for each in scenarios), options.tcp) as cloud:
        cloud.enter_as_client()  # before there is a second thread
        return _run_all(scenarios, beside, options, cloud)


def _run_all(
    scenarios: Sequence[Scenario],
    beside: Sequence[Row],
    options: argparse.Namespace,
    cloud: "Cloud | None",
) -> list[dict[str, Any]]:
    """One after the other. What a later one, or a picture, fails at loses no rows."""
    from benchmarks.linklab import report

    found: list[dict[str, Any]] = []
    for scenario in scenarios:
        told = asyncio.run(_run(scenario, beside, options, cloud))
        found.append(told)
        if options.json:
            options.json.write_text(in_json(found, len(scenarios)))
        if options.pictures:
            rows = [*map(Row.from_json, told["rows"]), *_theirs(beside, scenario)]
            drawn = report.picture(scenario, rows)
            (options.pictures / f"{scenario.name}.svg").write_text(drawn)
    return found


def in_json(found: Sequence[dict[str, Any]], n_scenarios: int) -> str:
    """What there is so far: a list, or the only one that was asked for."""
    return json.dumps(found[0] if n_scenarios == 1 else found, indent=1) + "\n"


def _theirs(beside: Sequence[Row], scenario: Scenario) -> list[Row]:
    return [row for row in beside if row.scenario == scenario.name]


def _list() -> None:
    for path in sorted(SCENARIOS.glob("*.toml")):
        scenario = read(path)
        print(f"{scenario.name:24} {scenario.title}")


def _chosen(scenario: Scenario, only: Sequence[str] | None) -> Scenario:
    """With these variants, and the goals that they suffice for."""
    if not only:
        return scenario
    kept = tuple(each for each in scenario.variants if each.name in only)
    if missing := set(only) - {each.name for each in kept}:
        known = ", ".join(each.name for each in scenario.variants)
        path = SCENARIOS / f"{scenario.name}.toml"
        raise BadScenario(
            path, 0, "", f"no variant is called {sorted(missing)[0]}; there are {known}"
        )
    names = {"", "floor", "bound", *(each.name for each in kept)}
    goals = tuple(g for g in scenario.goals if {g.of, g.beside, g.plain} <= names)
    return replace(scenario, variants=kept, goals=goals)


def rows_of(path: Path) -> list[Row]:
    """Of a file that we wrote, or somebody else in the same form.

    Raises:
        BadScenario: it is none.
    """
    try:
        told = json.loads(path.read_text())
        files = told if isinstance(told, list) else [told]
        return [
            Row.from_json({"scenario": each.get("scenario", ""), **row})
            for each in files
            for row in each["rows"]
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadScenario(path, 0, "", f"no rows of {SCHEMA}: {error!r}") from error


async def _run(
    scenario: Scenario,
    beside: Sequence[Row],
    options: argparse.Namespace,
    cloud: "Cloud | None",
) -> dict[str, Any]:
    from benchmarks import common
    from benchmarks.linklab import report
    from benchmarks.linklab.running import run  # the scheduler and all: not for a list

    print(f"{scenario.name}: {scenario.title}", file=sys.stderr)
    rounds = options.rounds or scenario.rounds
    if cloud is None:
        rows = await run(scenario, rounds=rounds, is_first=options.first, tell=_tell)
    else:
        from benchmarks.linklab.tun import TunSwarm

        carrier = await cloud.open_links()
        make = type("InCloud", (TunSwarm,), {"cloud": cloud, "carrier": carrier})
        try:
            rows = await run(scenario, make=make, rounds=rounds, is_first=options.first, tell=_tell)
        finally:
            await carrier.aclose()
    theirs = _theirs(beside, scenario)
    verdicts = judged(scenario, [*rows, *theirs])
    print(report.text(scenario, [*rows, *theirs], verdicts), flush=True)
    print(f"{common.machine()}; load {os.getloadavg()[0]:.1f}\n", flush=True)
    return {
        "schema": SCHEMA,
        "scenario": scenario.name,
        "title": scenario.title,
        "machine": common.machine(),
        "links": options.links,
        "first": options.first,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rows": [row.to_json() for row in rows],
        "goals": [verdict.to_json() for verdict in verdicts],
    }


def _tell(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

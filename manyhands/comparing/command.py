"""`manyhands compare`: two models over the same prompts.

In: two models behind OpenAI-style URLs, prompts. Out: a summary on stdout, and reports as files.
Prompts go to both sides in an order drawn from the seed, and each prompt to one side and then the
other, in turns: neither side always comes first.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands.loops import run
from manyhands.options import json_option
from manyhands.progress import say
from protocol.errors import ConfigError, UsageError

if TYPE_CHECKING:
    import httpx2

    from manyhands.comparing.cases import Case
    from manyhands.comparing.side import Asking, Reply, Side

WRITERS = (".md", ".csv", ".html", ".json")
TOLD_EVERY = 25


@click.command(short_help="Two models side by side: quality, latency, cost.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="JSON lines: see docs/compare.md.",
)
@click.option("--judge", metavar="MODEL@URL", help="Asked which of two answers is better.")
@click.option(
    "--human",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A sheet for people: written if it is not there, else read.",
)
@click.option(
    "--from",
    "earlier",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Nobody is asked: the answers are those of an earlier report, FILE.json.",
)
@click.option("--price-a", default="", metavar="IN/OUT", help="For a million tokens of A.")
@click.option("--price-b", default="", metavar="IN/OUT", help="For a million tokens of B.")
@click.option("--key-a", default="", metavar="NAME", help="The variable that holds A's key.")
@click.option("--key-b", default="", metavar="NAME", help="The variable that holds B's key.")
@click.option("--key-judge", default="", metavar="NAME", help="The variable with the judge's key.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, help="Default: 256.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, help="Default: 0.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of everything drawn.")
@click.option("--at-once", type=click.IntRange(1, 256), default=4, help="Prompts. Default: 4.")
@click.option("--timeout", "timeout_s", type=float, default=120.0, help="For an answer, seconds.")
@click.option(
    "--out",
    "outs",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help=f"A report: {', '.join(WRITERS)}. May be given more than once.",
)
@json_option
def compare(
    a: str,
    b: str,
    prompts: Path,
    judge: str | None,
    human: Path | None,
    earlier: Path | None,
    price_a: str,
    price_b: str,
    key_a: str,
    key_b: str,
    key_judge: str,
    seed: int,
    at_once: int,
    outs: tuple[Path, ...],
    as_json: bool,
    **asking: Any,
) -> None:
    """Ask A and B the same, and tell how they differ and how sure that is.

    A and B are MODEL, of the gateway on this machine, or MODEL@URL of any OpenAI-style API.
    """
    from manyhands.comparing.cases import read_cases
    from manyhands.comparing.earlier import read_replies
    from manyhands.comparing.side import Asking, Side

    if unknown := [str(out) for out in outs if out.suffix not in WRITERS]:
        raise UsageError(f"no report ends in {unknown[0]!r}", hint=f"one of {', '.join(WRITERS)}")
    sides = Side.parse("A", a, key_a, price_a), Side.parse("B", b, key_b, price_b)
    third = Side.parse("judge", judge, key_judge, "") if judge else None
    cases = read_cases(prompts)
    wanted = Asking(seed=seed, **asking)
    replies = read_replies(earlier, cases) if earlier else None
    view = run(_compare(sides, cases, wanted, at_once, third, replies, human))
    for out in outs:
        _write(out, view)
    from manyhands.comparing.report import markdown

    click.echo(json.dumps(view) if as_json else markdown(view))
    if not any(side["answered"] for side in view["sides"]):
        raise UsageError("neither side answered anything", hint="see the errors in --out FILE.csv")


async def _compare(
    sides: "tuple[Side, Side]",
    cases: "Sequence[Case]",
    asking: "Asking",
    at_once: int,
    judge: "Side | None",
    replies: "Mapping[str, Sequence[Reply]] | None",
    human: Path | None,
) -> dict[str, Any]:
    import httpx2

    from manyhands.comparing.comparison import Comparison
    from manyhands.comparing.grading import by_judge, by_people, by_rule

    async with httpx2.AsyncClient(timeout=None, trust_env=False) as http:
        replies = replies or await _ask_all(http, sides, cases, asking, at_once)
        grades = {case.id: by_rule(case, replies[case.id]) for case in cases if case.grades_itself}
        left = [case for case in cases if not case.grades_itself]
        if judge is not None:
            for at, case in enumerate(left, 1):
                grades[case.id] = await by_judge(http, judge, case, replies[case.id])
                _tell("judged", at, len(left))
    seed = asking.seed or 0
    if human is not None:
        grades |= by_people(human, left, replies, seed)
    return Comparison(sides=sides, cases=cases, replies=replies, grades=grades, seed=seed).view()


async def _ask_all(
    http: "httpx2.AsyncClient",
    sides: "tuple[Side, Side]",
    cases: "Sequence[Case]",
    asking: "Asking",
    at_once: int,
) -> "dict[str, Sequence[Reply]]":
    from manyhands.comparing.side import ask

    order = list(enumerate(cases))
    random.Random(asking.seed).shuffle(order)
    replies: dict[str, Sequence[Reply]] = {}
    room = asyncio.Semaphore(at_once)

    async def both(at: int, case: "Case") -> None:
        async with room:
            first = at % 2
            one = await ask(http, sides[first], case, asking)
            other = await ask(http, sides[1 - first], case, asking)
            replies[case.id] = (one, other) if first == 0 else (other, one)
            _tell("asked", len(replies), len(cases))

    async with asyncio.TaskGroup() as tasks:
        for at, case in order:
            tasks.create_task(both(at, case))
    return replies


def _tell(what: str, n: int, of: int) -> None:
    if n % TOLD_EVERY == 0 or n == of:
        say(f"{what} {n} of {of}")


def _write(out: Path, view: dict[str, Any]) -> None:
    try:
        out.write_text(_reported(out.suffix, view), encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from error


def _reported(kind: str, view: dict[str, Any]) -> str:
    from manyhands.comparing.report import lines, markdown, page

    if kind == ".json":
        return json.dumps(view) + "\n"
    return {".md": markdown, ".csv": lines, ".html": page}[kind](view)

"""`manyhands doctor`: look at this machine, its home and its ways to others; say what mends what.

In: what a node or client here would be asked to do; nothing at all is enough. Out: a line for each
check, or one JSON object; a line of progress on stderr for each that ends. Ends with 9 when there
are errors, with --strict with 10 when there are warnings.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands import __version__
from manyhands.home import default_home
from manyhands.loops import run
from manyhands.manners import memory_options
from manyhands.options import (
    EndpointType,
    SizeType,
    SpanType,
    home_option,
    join_option,
    json_option,
)
from manyhands.progress import say
from protocol.address import Address
from protocol.messages import Span

if TYPE_CHECKING:
    from manyhands.doctor.examining import Result

ERRORS, WARNINGS = 9, 10  # exit codes
COLOURS = {"ok": "green", "skip": None, "warn": "yellow", "fail": "red"}


@click.command(short_help="What is wrong here, and what mends it.")
@click.argument("model", metavar="[MODEL]", default="")
@click.option("--span", type=SpanType(), default="auto", help="Of MODEL. Default: what fits.")
@join_option
@click.option("--listen", type=EndpointType(), help="Where a node would listen.")
@home_option
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto"
)
@click.option("--quantize", type=click.Choice(["none", "int8", "4bit"]), default="none")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--kv-cache", type=SizeType(), default="1GiB", help="For sessions. Default: 1GiB.")
@memory_options
@click.option("--only", multiple=True, metavar="ID", help="This check alone. Repeat for more.")
@click.option("--without", multiple=True, metavar="ID", help="Not this check. Repeat for more.")
@click.option("--full", "is_full", is_flag=True, help="Read all weights in the cache, no sample.")
@click.option("--fix", "mends", is_flag=True, help="Mend what can be mended without harm.")
@click.option("--strict", is_flag=True, help="End with 10 when there are warnings.")
@json_option
@click.pass_context
def doctor(
    context: click.Context,
    /,
    only: tuple[str, ...],
    without: tuple[str, ...],
    mends: bool,
    strict: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Look at this machine, its home and its ways to other peers, and say what is not well.

    With MODEL also whether it fits here and may be served. docs/doctor.md explains each id.
    """
    from manyhands.doctor.case import Asked, Case
    from manyhands.doctor.examining import count, examine
    from manyhands.doctor.finding import Verdict
    from manyhands.doctor.registry import chosen

    checks = chosen(only, without)
    asked = Asked(environment=dict(os.environ), **_read(**given))

    async def work() -> "list[Result]":
        left = {check.id for check in checks}

        def told(result: "Result") -> None:
            left.discard(result.check.id)
            n_done = len(checks) - len(left)
            say(f"doctor: {n_done} of {len(checks)}, {result.check.id} {result.took_s:.1f} s")

        return await examine(checks, Case(asked), mends=mends, told=told)

    results = run(work())
    n_failed, n_warned = count(results, Verdict.FAIL), count(results, Verdict.WARN)
    if as_json:
        click.echo(json.dumps(view_of(results, n_failed, n_warned)))
    else:
        show(results, n_failed, n_warned)
    if n_failed:
        context.exit(ERRORS)
    if n_warned and strict:
        context.exit(WARNINGS)


def _read(
    home: Path | None,
    span: Span | None,
    join: tuple[Address, ...],
    listen: tuple[str, int] | None,
    kv_cache: int,
    **same: Any,
) -> dict[str, Any]:
    return {
        "home": (home or default_home()).expanduser().absolute(),
        "span": span,
        "join": join,
        "listen": listen,
        "kv_cache_bytes": kv_cache,
        **same,
    }


def view_of(results: "Sequence[Result]", n_failed: int, n_warned: int) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "schema": "manyhands/doctor/v1",
        "version": __version__,
        "errors": n_failed,
        "warnings": n_warned,
        "checks": [
            {
                "id": result.check.id,
                "verdict": result.finding.verdict.value,
                "reason": result.finding.reason,
                "fix": result.finding.fix or None,
                "mendable": result.finding.mend is not None,
                "mended": result.was.reason if result.was is not None else None,
                "took_ms": round(result.took_s * 1000),
            }
            for result in results
        ],
    }


def show(results: "Sequence[Result]", n_failed: int, n_warned: int) -> None:
    """For people: a line for each check, and below what is not well what mends it."""
    for result in results:
        finding = result.finding
        word = finding.verdict.value
        click.secho(f"{word:<5}", nl=False, fg=COLOURS[word], bold=word == "fail")
        click.echo(f"{result.check.id:<13} {finding.reason}")
        if result.was is not None:
            click.echo(f"{'':18} mended: {result.was.reason}")
        if finding.fix:
            can = "  (--fix does it)" if finding.mend is not None else ""
            click.echo(f"{'':18} fix: {finding.fix}{can}")
    errors = f"{n_failed} error{'s' if n_failed != 1 else ''}"
    warnings = f"{n_warned} warning{'s' if n_warned != 1 else ''}"
    click.echo(f"{len(results)} checks: {errors}, {warnings}")

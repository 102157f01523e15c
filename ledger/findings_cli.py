"""`manyhands ledger audit list | show`: what looks at others' work found.

In: a home. Out: looks, and what they come to. `audit run`, which asks peers, is the front door's.
"""

import json
import time
from pathlib import Path
from typing import Any

import click

from ledger import findings_render as render
from ledger.findings import FILE_NAME, Findings
from ledger.findings_view import look_view, standing_view
from ledger.homes import ROLES
from ledger.options import common
from ledger.swarms import swarm_of
from protocol.errors import UsageError


@click.group()
def audit() -> None:
    """Look at work that peers committed to, and see what was found."""


@audit.command("list")
@common
def list_audits(home: Path, role: str | None, as_json: bool) -> None:
    """Each account's standing, by what looks at its work found, and the latest looks."""
    view: dict[str, Any] = {"looks": [], "standings": []}
    for findings in findings_of(home, role):
        with findings:
            view["looks"] += [look_view(look) for look in findings.looks(50)]
            known = findings.standings(time.time()).items()
            view["standings"] += [standing_view(key, standing) for key, standing in known]
    _say("audit-list", home, as_json, view, render.audits)


@audit.command("show")
@click.argument("number", type=int)
@common
def show_audit(number: int, home: Path, role: str | None, as_json: bool) -> None:
    """One look, with the verdict that was signed about it."""
    for findings in findings_of(home, role):
        with findings:
            if (look := findings.look(number)) is not None:
                view = {**look_view(look), "verdict": look.verdict.hex()}
                _say("audit-show", home, as_json, view, render.facts)
                return
    raise UsageError(f"there is no look {number}", hint="list them: manyhands ledger audit list")


def findings_of(home: Path, role: str | None) -> list[Findings]:
    """Those that this home has; nothing is made."""
    swarm_id, _ = swarm_of(home)
    directories = [home / each for each in ((role,) if role else ROLES)]
    return [Findings.open(at, swarm_id) for at in directories if (at / FILE_NAME).exists()]


def _say(schema: str, home: Path, as_json: bool, more: dict[str, Any], show: Any) -> None:
    view = {"schema": f"manyhands/ledger-{schema}/v1", "home": str(home), **more}
    if as_json:
        click.echo(json.dumps(view))
    else:
        show(view)

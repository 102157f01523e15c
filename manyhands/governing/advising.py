"""`manyhands models advise | lift | advisories`: warnings of a swarm's security keys.

In: a model, a reason, this home's keys. Out: an advisory that every member hears of within seconds:
`flag` is told to everybody, `stop` ends what runs and keeps the revision from being served or used.
"""

import json
import secrets
from pathlib import Path
from typing import Any

import click

from manyhands.governing.releasing import models, tell_reach
from manyhands.governing.signing import Signed, fresh_state, revision, sign, signatures
from manyhands.home import Home
from manyhands.options import base_option, json_option
from manyhands.progress import say
from manyhands.swarm import place_of, which_option
from manyhands.swarm_options import DurationType, via_option
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import UsageError
from protocol.membership.advisories import Advisory, Severity
from protocol.membership.gathering import Gathered
from protocol.membership.state import SwarmState


@models.command()
@click.argument("model")
@click.option(
    "--severity",
    type=click.Choice([Severity.FLAG.value, Severity.STOP.value]),
    required=True,
    help="flag: everybody is told. stop: nobody serves or uses it.",
)
@click.option("--reason", required=True, help="For everybody: one line.")
@click.option("--id", "known", default="", metavar="ID", help="Sign or change this one.")
@click.option("--digest", default="", metavar="HEX", help="Of a revision that is not here.")
@click.option("--names", is_flag=True, help="MODEL stands for names, as llama-* or *.")
@click.option("--expires", type=DurationType(), default=0, help="From now. Default: never.")
@via_option
@base_option
@which_option
@json_option
def advise(
    model: str,
    severity: str,
    reason: str,
    known: str,
    digest: str,
    names: bool,
    expires: int,
    via: tuple[Address, ...],
    home: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Warn of MODEL, or stop it, everywhere; it counts when as many have signed as the rules
    want."""
    place = place_of(home, name)
    state, now_ms = fresh_state(place, via), wall_ms()
    about: dict[str, Any] = {"models": model}
    if not names:
        about = {"manifest": revision(model, state, digest=digest).digest}
    id = known or f"{Severity(severity)}-{secrets.token_hex(3)}"

    def make(stamp_ms: int) -> Advisory:
        return Advisory(
            id=id,
            severity=Severity(severity),
            reason=reason,
            stamp_ms=stamp_ms,
            expires_ms=now_ms + expires if expires else 0,
            **about,
        )

    def is_same(record: Advisory) -> bool:
        said = record.severity, record.reason, record.manifest, record.models
        mine = Severity(severity), reason, about.get("manifest", b""), about.get("models", "")
        return said == mine and not expires

    _publish(place, state, make, is_same, via, as_json)


@models.command()
@click.argument("id")
@click.option("--reason", default="", help="Why it counts no more: one line.")
@via_option
@base_option
@which_option
@json_option
def lift(
    id: str,
    reason: str,
    via: tuple[Address, ...],
    home: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Sign that the advisory ID counts no more; it takes as many signatures as the advisory."""
    place = place_of(home, name)
    state = fresh_state(place, via)
    held = [one for one in state.governance.advisories if one.record.id == id]
    if not held:
        raise UsageError(f"there is no advisory {id}", hint="manyhands models advisories")
    about = held[-1].record

    def make(stamp_ms: int) -> Advisory:
        return Advisory(
            id=id,
            severity=Severity.LIFTED,
            reason=reason or about.reason,
            stamp_ms=stamp_ms,
            manifest=about.manifest,
            models=about.models,
        )

    def is_same(record: Advisory) -> bool:
        return record.severity is Severity.LIFTED

    _publish(place, state, make, is_same, via, as_json)


@models.command()
@base_option
@which_option
@json_option
def advisories(home: Path | None, name: str | None, as_json: bool) -> None:
    """All advisories that this home knows of; those that lack signatures, too."""
    rows = [advisory_row(one) for one in fresh_state(place_of(home, name)).governance.advisories]
    if as_json:
        click.echo(json.dumps({"schema": "manyhands/advisories/v1", "advisories": rows}))
        return
    for row in rows:
        about = row["manifest"][:16] if row["manifest"] else row["models"]
        click.echo(f"{row['id']:<16} {row['state']:<24} {about:<16}  {row['reason']}")
    if not rows:
        say("no advisory is known")


def advisory_row(one: Gathered[Advisory]) -> dict[str, Any]:
    record = one.record
    state = record.severity.value
    if not one.stands:
        state += f": {len(one.envelope.signers)} of {one.needs} signatures"
    elif record.severity is not Severity.LIFTED and not record.holds(wall_ms()):
        state = "expired"
    return {
        "id": record.id,
        "severity": record.severity.value,
        "state": state,
        "reason": record.reason,
        "manifest": record.manifest.hex(),
        "models": record.models,
        "stamp_ms": record.stamp_ms,
        "expires_ms": record.expires_ms or None,
        **signatures(one),
    }


def _publish(
    home: Home,
    state: SwarmState,
    make: Any,
    is_same: Any,
    via: tuple[Address, ...],
    as_json: bool,
) -> None:
    quorum = state.governance.rules.advisories
    signed: Signed[Advisory] = sign(
        home, state, quorum, lambda s: s.governance.advisories, make, is_same, via
    )
    row = advisory_row(signed.gathered)
    if as_json:
        view = {"schema": "manyhands/advisory/v1", **row, "told": list(signed.told)}
        click.echo(json.dumps(view))
        return
    click.echo(f"{row['id']}: {row['state']}")
    tell_reach(len(signed.told))

"""`manyhands models release | promote | withdraw | releases`: which revisions a swarm lets in.

In: a model, a channel, this home's keys. Out: a record that stands once enough releasers have given
the same command, each on a machine of theirs; the list of all records.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from manyhands.governing.signing import (
    Named,
    Signed,
    fresh_state,
    recorded,
    revision,
    sign,
    signatures,
)
from manyhands.home import Home
from manyhands.options import Command, base_option, json_option
from manyhands.progress import say
from manyhands.swarm import place_of, which_option
from manyhands.swarm_options import DurationType, via_option
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import UsageError
from protocol.membership.gathering import Gathered
from protocol.membership.releases import Release, Standing
from protocol.membership.rules import Channel
from protocol.membership.state import SwarmState

notes_option = click.option("--notes", default="", help="For those who read it: one line.")


def channel_option(
    flag: str, help: str, default: str = Channel.STABLE.value
) -> Callable[[Command], Command]:
    choice = click.Choice([channel.value for channel in Channel])
    return click.option(flag, type=choice, default=default, help=help)


@click.group(short_help="Which models a swarm lets in, and on what terms.")
def models() -> None:
    """Release revisions of models, warn of them, and accept their terms: docs/governance.md."""


@models.command()
@click.argument("model")
@channel_option("--channel", "Default: stable.")
@click.option("--digest", default="", metavar="HEX", help="Of a revision that is not here.")
@click.option("--name", "called", default="", help="What peers call it. Default: MODEL's name.")
@click.option("--begins", type=DurationType(), default=0, help="From now. Default: at once.")
@click.option("--expires", type=DurationType(), default=0, help="From now. Default: never.")
@notes_option
@via_option
@base_option
@which_option
@json_option
def release(
    model: str,
    channel: str,
    digest: str,
    called: str,
    begins: int,
    expires: int,
    notes: str,
    via: tuple[Address, ...],
    home: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Sign that MODEL may be served. What another releaser began and says the same is signed, too;
    it counts when as many have signed as the swarm's rules want."""
    place = place_of(home, name)
    state = fresh_state(place, via)
    found = revision(model, state, name=called, digest=digest)
    times = (begins, expires)
    _tell(_release(place, state, found, Channel(channel), notes, via, times), place, as_json)


@models.command()
@click.argument("model")
@channel_option("--from", "Where it is released. Default: candidate.", Channel.CANDIDATE.value)
@channel_option("--to", "Default: stable.")
@notes_option
@via_option
@base_option
@which_option
@json_option
def promote(
    model: str,
    to: str,
    notes: str,
    via: tuple[Address, ...],
    home: Path | None,
    name: str | None,
    as_json: bool,
    **given: str,
) -> None:
    """Release MODEL, which is out in one channel, in another one."""
    place, before = place_of(home, name), Channel(given["from"])
    state = fresh_state(place, via)
    found = _known(model, state)
    out = state.governance.released(wall_ms(), [before])
    if found.digest not in [one.manifest for one in out]:
        raise UsageError(
            f"{found.name} {found.digest.hex()[:16]} is not released in channel {before}",
            hint=f"manyhands models release {model} --channel {before}",
        )
    _tell(_release(place, state, found, Channel(to), notes, via), place, as_json)


@models.command()
@click.argument("model")
@channel_option("--channel", "Default: stable.")
@notes_option
@via_option
@base_option
@which_option
@json_option
def withdraw(
    model: str,
    channel: str,
    notes: str,
    via: tuple[Address, ...],
    home: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Sign that MODEL shall not be served any more; it takes as many signatures as its release."""
    place = place_of(home, name)
    state = fresh_state(place, via)
    found, where = _known(model, state), Channel(channel)
    signed = _sign(place, state, found, where, notes, via, Standing.WITHDRAWN)
    _tell(signed, place, as_json)


@models.command()
@base_option
@which_option
@json_option
def releases(home: Path | None, name: str | None, as_json: bool) -> None:
    """All records of releases that this home knows of; those that lack signatures, too."""
    place = place_of(home, name)
    state = fresh_state(place)
    rows = [release_row(one) for one in state.governance.releases]
    if as_json:
        click.echo(json.dumps({"schema": "manyhands/releases/v1", "releases": rows}))
        return
    for row in rows:
        notes = f"  {row['notes']}" if row["notes"] else ""
        click.echo(
            f"{row['model']:<24} {row['manifest'][:16]}  {row['channel']:<9} {row['state']}{notes}"
        )
    if not rows:
        say("nothing was released here, or is about to be")


def release_row(one: Gathered[Release]) -> dict[str, Any]:
    record, now_ms = one.record, wall_ms()
    state = f"{record.standing}"
    if not one.stands:
        what = "release" if record.standing is Standing.RELEASED else "withdrawal"
        state = f"{what}: {len(one.envelope.signers)} of {one.needs} signatures"
    elif record.standing is Standing.RELEASED and not record.holds(now_ms):
        state = "begins later" if now_ms < record.begins_ms else "expired"
    return {
        "model": record.model,
        "manifest": record.manifest.hex(),
        "channel": record.channel.value,
        "standing": record.standing.value,
        "state": state,
        "stamp_ms": record.stamp_ms,
        "begins_ms": record.begins_ms or None,
        "expires_ms": record.expires_ms or None,
        "notes": record.notes,
        **signatures(one),
    }


def _known(text: str, state: SwarmState) -> Named:
    found = recorded(text, state)
    return found or revision(text, state)


def _release(
    home: Home,
    state: SwarmState,
    found: Named,
    channel: Channel,
    notes: str,
    via: tuple[Address, ...],
    times: tuple[int, int] = (0, 0),
) -> Signed[Release]:
    return _sign(home, state, found, channel, notes, via, Standing.RELEASED, times)


def _sign(
    home: Home,
    state: SwarmState,
    found: Named,
    channel: Channel,
    notes: str,
    via: tuple[Address, ...],
    standing: Standing,
    times: tuple[int, int] = (0, 0),
) -> Signed[Release]:
    now_ms, (begins, expires) = wall_ms(), times

    def make(stamp_ms: int) -> Release:
        return Release(
            model=found.name,
            manifest=found.digest,
            channel=channel,
            standing=standing,
            stamp_ms=stamp_ms,
            begins_ms=now_ms + begins if begins else 0,
            expires_ms=now_ms + expires if expires else 0,
            notes=notes,
        )

    def is_same(record: Release) -> bool:
        """Notes are those of whoever began, and so are times that are not given."""
        is_over = bool(record.expires_ms) and record.expires_ms <= now_ms
        return record.standing is standing and not (begins or expires or is_over)

    quorum = state.governance.rules.quorum_for(found.name, channel)
    return sign(home, state, quorum, lambda s: s.governance.releases, make, is_same, via)


def _tell(signed: Signed[Release], home: Home, as_json: bool) -> None:
    row = release_row(signed.gathered)
    if as_json:
        view = {"schema": "manyhands/release/v1", **row, "told": list(signed.told)}
        click.echo(json.dumps(view))
        return
    model, digest, channel = row["model"], row["manifest"], row["channel"]
    click.echo(f"{model} {digest[:16]}, channel {channel}: {row['state']}")
    if not row["stands"]:
        verb = "release" if row["standing"] == Standing.RELEASED else "withdraw"
        more = f" --digest {digest}" if verb == "release" else ""
        say(f"others sign with: manyhands models {verb} {model}{more} --channel {channel}")
    tell_reach(len(signed.told))


def tell_reach(n_told: int) -> None:
    if n_told:
        say(f"told {n_told} member(s), who pass it on")
    else:
        say("warning: no member was reached: it counts once a node of this home runs")

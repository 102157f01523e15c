"""`manyhands models show | accept`: what is known of a model here, and a person's yes to its terms.

In: a model that lies here, on the hub, or with peers. Out: its digest, licence, signature, releases
and advisories, and whether this swarm lets it be served; or a note in the home that its licence and
the swarm's acceptable use were accepted.
"""

import json
from pathlib import Path
from typing import Any

import click

from manyhands.governing.advising import advisory_row
from manyhands.governing.gate import accept_terms, rules_of, signature_of
from manyhands.governing.releasing import models, release_row
from manyhands.home import Home
from manyhands.licences import has_accepted, has_accepted_use, word_for
from manyhands.loops import run
from manyhands.models import HubAway, Model, NotHere, find_model
from manyhands.options import home_option, join_option, json_option, trusted_key_option
from manyhands.party import Party, open_party
from manyhands.progress import say, shown
from manyhands.running import join_addresses
from manyhands.thin import from_swarm
from protocol.address import Address
from protocol.errors import BadSignature

__all__ = ["models"]


@models.command()
@click.argument("model")
@trusted_key_option
@join_option
@home_option
@json_option
def show(
    model: str,
    trusted_keys: tuple[Path, ...],
    join: tuple[Address, ...],
    home: Path | None,
    as_json: bool,
) -> None:
    """Digest, licence, signature, releases and advisories of MODEL, and the swarm's terms."""
    place = Home.at(home)
    party, found = _find(model, place, join)
    view = {"schema": "manyhands/model/v1", **model_view(place, party, found, trusted_keys)}
    if as_json:
        click.echo(json.dumps(view))
        return
    for name in ("name", "digest", "licence", "signature"):
        click.echo(f"{name:<10} {view[name]}")
    for row in view["releases"]:
        click.echo(f"release    {row['channel']}: {row['state']}")
    for row in view["advisories"]:
        click.echo(f"advisory   {row['id']} ({row['state']}): {row['reason']}")
    click.echo(f"{'served':<10} {view['refused'] or 'yes'}")
    for what, is_accepted in view["accepted"].items():
        click.echo(f"{'accepted':<10} {what}: {'yes' if is_accepted else 'not yet'}")
    if text := rules_of(party).acceptable_use:
        click.echo(f"\n{text.rstrip()}")


@models.command()
@click.argument("model")
@join_option
@home_option
@json_option
def accept(model: str, join: tuple[Address, ...], home: Path | None, as_json: bool) -> None:
    """You have read the licence of MODEL, and the swarm's acceptable use if it has one, and accept
    them. Remembered in this home."""
    place = Home.at(home)
    party, found = _find(model, place, join)
    rules = rules_of(party)
    accept_terms(place, rules, found.manifest)
    use = rules.use_hash.hex()
    if as_json:
        view = {
            "name": found.name,
            "digest": found.manifest.digest.hex(),
            "licence": word_for(found.manifest),
        }
        click.echo(json.dumps({"schema": "manyhands/accepted/v1", **view, "acceptable_use": use}))
        return
    say(f"accepted: the licence of {found.name} ({word_for(found.manifest)})")
    if use:
        say(f"accepted: the swarm's acceptable use, {use[:16]}")


def model_view(
    home: Home, party: Party, found: Model, trusted_keys: tuple[Path, ...] = ()
) -> dict[str, Any]:
    manifest, rules = found.manifest, rules_of(party)
    view: dict[str, Any] = {
        "name": found.name,
        "digest": manifest.digest.hex(),
        "licence": word_for(manifest),
        "signature": _signature(found, party, trusted_keys),
        "releases": [],
        "advisories": [],
        "refused": "",
        "accepted": {},
    }
    if rules.asks_licence:
        view["accepted"]["licence"] = has_accepted(home, manifest)
    if rules.use_hash:
        view["accepted"]["acceptable use"] = has_accepted_use(home, rules.use_hash)
    if party.membership is None:
        return view
    governance = party.membership.state.governance
    of_it = [one for one in governance.releases if one.record.manifest == manifest.digest]
    about = [
        one
        for one in governance.advisories
        if one.record.is_about(manifest.digest, [found.name, manifest.name])
    ]
    return {
        **view,
        "releases": [release_row(one) for one in of_it],
        "advisories": [advisory_row(one) for one in about],
        "refused": party.membership.judge(manifest.digest, also=[found.name]).refused,
    }


def _signature(found: Model, party: Party, trusted_keys: tuple[Path, ...]) -> str:
    try:
        return str(signature_of(found, rules_of(party), trusted_keys))
    except BadSignature as error:
        return f"BAD: {error}"


def _find(text: str, home: Home, join: tuple[Address, ...]) -> tuple[Party, Model]:
    """What lies here or on the hub, else what peers serve; and who we are, with fresh news."""
    party = open_party(home, "client")
    run(party.hear(join))
    try:
        with shown(text) as progress:
            return party, find_model(text, progress=progress)
    except (NotHere, HubAway):
        addresses = join_addresses(home, join)
    return party, run(from_swarm(text, party, addresses))[0]

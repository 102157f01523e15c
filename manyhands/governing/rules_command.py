"""`manyhands swarm rules`: what a swarm demands of models, shown, or set by its founder.

In: a file, or nothing. Out: rules that every member hears of within seconds.
"""

import json
from pathlib import Path

import click

import manyhands.swarm_why  # noqa: F401  (its commands, and those it imports, are of this group)
from manyhands.loops import run
from manyhands.membership import founder_key, keep_state, load_state
from manyhands.options import AddressType, base_option, json_option
from manyhands.progress import say
from manyhands.swarm import place_of, swarm, which_option
from protocol.address import Address
from protocol.membership.rules import Rules

__all__ = ["swarm"]


@swarm.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--via", type=AddressType(), multiple=True, help="Whom to tell. Repeat for more.")
@base_option
@which_option
@json_option
def rules(
    file: Path | None, via: tuple[Address, ...], home: Path | None, name: str | None, as_json: bool
) -> None:
    """Who releases models, who warns of them, and on what terms they are served. With FILE, the
    founder replaces all of it; an empty file demands nothing."""
    from manyhands.governing.rules_file import read_rules, view
    from manyhands.swarm_telling import learn_and_tell

    place = place_of(home, name)
    told: list[str] = []
    if file is not None:
        founder, state = founder_key(place), load_state(place)
        new = read_rules(file, state.governance.rules.sequence + 1)
        state.learn(new.seal(state.swarm_id, founder))
        keep_state(place, state)
        told = run(learn_and_tell(place, via))
        say(f"rules {new.sequence}; told {len(told)} member(s), who pass it on")
    held = load_state(place).governance.rules
    if as_json:
        shown = {"schema": "manyhands/swarm-rules/v1", **view(held), "told": told}
        click.echo(json.dumps(shown))
    elif file is None:
        _show(held)


def _show(held: Rules) -> None:
    from manyhands.governing.rules_file import write_rules

    if not held.sequence:
        say("this swarm has no rules about models")
    for line in write_rules(held) if held.sequence else ():
        click.echo(line)

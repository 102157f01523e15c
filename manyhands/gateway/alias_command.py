"""`manyhands gateway alias`: what the names of models mean, also while a gateway runs.

In: NAME=MODEL. Out: a file that gateways of this home read at their next request, so that answers
that run go on with the model they began with, and later ones get the new one.
"""

import json
from pathlib import Path

import click

from manyhands.home import Home
from manyhands.options import home_option, json_option
from manyhands.private_files import changing
from manyhands.progress import say
from protocol.errors import UsageError


@click.command("alias", short_help="Names of models, changed while it runs.")
@click.argument("pairs", metavar="[NAME=MODEL]…", nargs=-1)
@click.option("--remove", multiple=True, metavar="NAME", help="Forget a name; repeat it.")
@json_option
@home_option
def alias(
    pairs: tuple[str, ...], remove: tuple[str, ...], as_json: bool, home: Path | None
) -> None:
    """Let NAME mean MODEL from the next request on; without NAME=MODEL, show the names.

    These names come before those of `--alias` and the built-in `default`, until they are removed.
    """
    from manyhands.gateway.aliases import aliases_path, read, write

    place = Home.at(home)
    path = aliases_path(place)
    if not (pairs or remove):
        names = read(path)
    else:
        with changing(path):
            names = _changed(place, read(path), pairs, remove)
            write(path, names)
        say("a gateway that runs takes it at its next request")
    if as_json:
        click.echo(json.dumps({"schema": "manyhands/gateway-aliases/v1", "aliases": names}))
    elif not (pairs or remove):
        for name, model in names.items():
            click.echo(f"{name}  {model}")


def _changed(
    home: Home, names: dict[str, str], pairs: tuple[str, ...], remove: tuple[str, ...]
) -> dict[str, str]:
    """
    Raises:
        UsageError: what is asked for makes no sense.
    """
    from manyhands.gateway.aliases import require_name

    for name in remove:
        if names.pop(name, None) is None:
            known = ", ".join(names) or "none"
            raise UsageError(f"no alias is called {name[:80]!r}", hint=f"there are: {known}")
    for pair in pairs:
        name, equals, model = pair.partition("=")
        if not (name and equals and model):
            hint = "manyhands gateway alias NAME=MODEL"
            raise UsageError(f"not an alias: {pair[:100]!r}", hint=hint)
        require_name(name)
        require_name(model)
        _require_served(home, name, model)
        names[name] = model
    return names


def _require_served(home: Home, alias: str, model: str) -> None:
    """
    Raises:
        UsageError: gateways run, and none of them serves it.
    """
    from manyhands.running import found_running

    served = [
        name
        for record in found_running(home)
        if record.command in ("gateway", "up")
        for name in record.model.split(" ")
    ]
    if not served:
        say("no gateway runs on this home now: the next one takes it, if it serves the model")
        return
    if alias in served:
        raise UsageError(f"{alias} is a model, so it cannot be an alias of one")
    if model.partition("@")[0] not in served:
        hint = f"it serves: {', '.join(served)}"
        raise UsageError(f"no gateway of this home serves {model[:100]!r}", hint=hint)

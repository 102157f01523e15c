"""`manyhands adapters load | unload | list`: the adapters that the node of this home serves.

In: a directory as PEFT writes it. Out: a copy of it in `HOME/node/adapters/NAME`, which a node
looks at every two seconds; it appears there whole or not at all. A node that runs is asked whether
it took the adapter; the next one finds it when it starts.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from manyhands.home import Home
from manyhands.loops import run
from manyhands.options import AdapterType, home_option, json_option
from manyhands.party import open_party
from manyhands.progress import say
from manyhands.running import found_running
from protocol.adapter_names import bare, is_name, pinned
from protocol.address import Address
from protocol.errors import BadAdapter, ManyhandsError, UsageError

WAIT_S, AGAIN_S = 10.0, 0.25  # for a node to look


@click.group(short_help="The adapters that this home's node serves.")
def adapters() -> None:
    """LoRA adapters in PEFT format, which sessions ask for as MODEL:NAME. See docs/adapters.md."""


@adapters.command()
@click.argument("adapter", metavar="NAME=DIR", type=AdapterType())
@home_option
def load(adapter: tuple[str, Path], home: Path | None) -> None:
    """Serve the adapter in DIR as NAME, now and whenever this home's node runs."""
    from node.engine.adapter_files import CONFIG, WEIGHTS, files_state, read_adapter

    name, source = adapter
    place = Home.at(home)
    named = pinned(name, read_adapter(source).sha256)
    target = place.adapters / name
    scratch = target.with_name(f".{name}.{os.getpid()}")
    scratch.mkdir(parents=True)
    try:
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(source / file, scratch / file)
        _remove(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _until(place, name, named, files_state(target))
    click.echo(named)


@adapters.command()
@click.argument("name", metavar="NAME")
@home_option
def unload(name: str, home: Path | None) -> None:
    """Take no new sessions for NAME; those that have it go on to their end."""
    place = Home.at(home)
    target = place.adapters / name
    if not is_name(name) or not target.is_dir():
        raise UsageError(
            f"there is no adapter {name[:80]!r} in {place.adapters}",
            hint="see what there is: manyhands adapters list",
        )
    _remove(target)
    _until(place, name, "")


@adapters.command("list")
@home_option
@json_option
def show(home: Path | None, as_json: bool) -> None:
    """What lies in this home, and what its node serves of it."""
    from node.engine.adapter_files import WEIGHTS, files_state, read_adapter

    place = Home.at(home)
    status = _node_status(place)
    served = set(status.get("adapters", ())) if status else set()
    rows = []
    for path in sorted(place.adapters.glob("*")) if place.adapters.is_dir() else ():
        if not is_name(path.name):
            continue
        try:
            named, reason = pinned(path.name, read_adapter(path).sha256), ""
        except ManyhandsError as error:
            named, reason = path.name, str(error)
        reason = reason or (refusal(status, path.name, files_state(path)) if status else "")
        n_bytes = (path / WEIGHTS).stat().st_size if (path / WEIGHTS).exists() else 0
        rows.append(
            {"adapter": named, "bytes": n_bytes, "served": named in served, "refused": reason}
        )
    known = {row["adapter"] for row in rows}
    rows += [
        {"adapter": named, "bytes": 0, "served": True, "refused": ""}  # of `serve --adapter`
        for named in sorted(served - known)
    ]
    if as_json:
        view = {"schema": "manyhands/adapters/v1", "running": status is not None, "adapters": rows}
        click.echo(json.dumps(view))
        return
    for row in rows:
        state = "served" if row["served"] else row["refused"] or "not served now"
        click.echo(f"{row['adapter']}  {state}")


def _remove(directory: Path) -> None:
    """Out of sight at once, then away."""
    if directory.exists():
        gone = directory.with_name(f".{directory.name}.{os.getpid()}.gone")
        directory.rename(gone)
        shutil.rmtree(gone)


def refusal(status: Mapping[str, Any], name: str, state: str) -> str:
    """Why a node does not serve these very files; "" when it does, or has not looked yet."""
    if status.get("adapters_seen", {}).get(name) != state:
        return ""
    return str(status.get("adapters_refused", {}).get(name, ""))


def _until(home: Home, name: str, wanted: str, state: str = "") -> None:
    """Wait until the node of this home serves `wanted`, files in `state`, of that name, or nothing
    of it when `wanted` is empty; no longer than for a node's answer, if one runs.

    Raises:
        BadAdapter: it refused.
    """
    deadline = time.monotonic() + WAIT_S
    while (status := _node_status(home)) is not None:
        now = [adapter for adapter in status.get("adapters", ()) if bare(adapter) == name]
        if wanted and (reason := refusal(status, name, state)):
            raise BadAdapter(
                f"the node does not serve it: {reason}",
                hint=f"take it out again: manyhands adapters unload {name}",
            )
        if wanted in now or (not wanted and not now):
            return
        if time.monotonic() > deadline:
            say(f"warning: the node here serves {', '.join(now) or 'none'} of that name until now")
            return
        time.sleep(AGAIN_S)  # a command of its own: no loop waits for it
    say("no node runs on this home now; the next one will look here")


def _node_status(home: Home) -> dict[str, Any] | None:
    """What the node of this home says of itself; None when none answers."""
    party = open_party(home, "client")

    async def ask(address: Address) -> dict[str, Any]:
        connection = await party.transport().dial(address, timeout_s=2.0)
        try:
            told: dict[str, Any] = json.loads(await connection.call("status", b"", timeout_s=2.0))
            return told
        finally:
            await connection.aclose()

    for record in found_running(home):
        if record.command != "serve":
            continue
        for address in record.addresses:
            try:
                return run(ask(Address.parse(address)))
            except (ManyhandsError, ValueError):
                continue
    return None

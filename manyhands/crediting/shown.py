"""Credit for people: what is known of spend logs, and who forked one."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

Json = dict[str, Any]


def plural(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def show_sync(view: Json) -> None:
    policy = view["policy"]
    issuers = plural(len(policy["issuers"]), "issuer")
    witnesses = plural(len(policy["witnesses"]), "witness", "witnesses")
    click.echo(f"swarm {view['swarm']}: {issuers}, {witnesses}, {policy['quorum']} must sign")
    if not view["roles"]:
        click.echo("no spend log is known here yet: manyhands ledger sync")
    for role in view["roles"]:
        click.echo(f"\n{role['role']}: {_own(role['own'])}")
        for log in role["logs"]:
            click.echo(f"  {log['peer']}  {_log(log)}")
        show_forks(role["forks"])


def _own(own: Json | None) -> str:
    if own is None:
        return "no entry of our own"
    signed = plural(len(own["cosigned_by"]), "witness", "witnesses")
    return f"{plural(own['entries'], 'entry', 'entries')} of our own, signed by {signed}"


def _log(log: Json) -> str:
    parts = [plural(log["entries"], "entry", "entries")]
    if log["counted"] != log["entries"]:
        parts.append(f"{log['counted']} count")
    parts.append(f"signed by {log['witnesses']} at {_time(log['time_s'])}")
    if log["is_forked"]:
        parts.append("FORKED: no new business")
    return ", ".join(parts)


def show_forks(forks: Sequence[Json], *, whole: bool = False) -> None:
    for fork in forks:
        sizes = " and ".join(str(head["entries"]) for head in fork["checkpoints"])
        click.echo(
            f"{fork['peer']} signed two versions of its log, of {sizes} entries, "
            f"which differ at entry {fork['differs_at']}"
        )
        for head in fork["checkpoints"] if whole else ():
            click.echo(f"\n{head['checkpoint']}", nl=False)


def _time(time_s: int | None) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M}" if time_s else "no time"

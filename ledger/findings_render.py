"""What was found about others, as tables for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

View = dict[str, Any]

SHOWN = {"match": "as it should be", "mismatch": "wrong", "unopened": "not opened"}


def looks(view: View) -> None:
    table = Table("nr", "peer", "blocks", "window", "found", "deviates by")
    for look in view["looks"]:
        found = SHOWN[look["result"]] + ("" if look["confirmed"] else ", by one opinion")
        table.add_row(
            str(look["number"] or ""),
            _short(look["peer"]),
            "{}:{}".format(*look["span"]),
            str(look["window"]),
            found,
            f"{look['deviation']:.2g}",
        )
    Console().print(table if view["looks"] else "nothing was looked at")


def audits(view: View) -> None:
    looks(view)
    table = Table("peer", "model", "runs", "good", "bad", "reputation")
    for row in view["standings"]:
        counts = f"{row['passed']:g}", f"{row['failed']:g}", f"{row['reputation']:.3f}"
        table.add_row(_short(row["peer"]), row["manifest"][:12], row["profile"], *counts)
    if view["standings"]:
        Console().print(table)


def faults(told: list[View], *, whole: bool = False) -> None:
    """whole: with what there is to show for each."""
    if whole:
        for fault in told:
            facts(fault)
        return
    table = Table("peer", "kind", "what", "rests on")
    for fault in told:
        word = fault["rests_on"]
        rests_on = word if isinstance(word, str) else ", ".join(map(_short, word))
        table.add_row(_short(fault["peer"]), fault["kind"], fault["what"], rests_on)
    if told:
        Console().print(table)


def facts(view: View) -> None:
    """One thing, line by line; bytes are for `--json`."""
    out = Console()
    for name, value in view.items():
        if name in ("schema", "home", "verdict"):
            continue
        if name == "evidence":
            told = ", ".join(
                f"{piece['what']} ({len(piece['bytes']) // 2} bytes)" for piece in value
            )
        else:
            told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        out.print(f"{name}: {told}", highlight=False, soft_wrap=True)


def _short(peer: str) -> str:
    return f"…{peer[-10:]}"

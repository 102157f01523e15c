"""What `status` and `peers` show people: tables that fit a terminal of 80 columns.

In: the same views that `--json` prints. Out: text. Colours only where a terminal shows them; a pipe
gets wide tables, with profiles and addresses.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from manyhands.condition import blocks_of_model
from protocol.identity import PeerId

PIPE_COLUMNS, WIDE_COLUMNS = 160, 120
MAX_BAR = 24
ENDING_CHARS = 6  # of a peer id, which tell peers apart
STYLES = {
    "serving": "green",
    "slow": "yellow",
    "full": "yellow",
    "draining": "yellow",
    "moving": "yellow",
    "paused": "yellow",
    "loading": "cyan",
    "silent": "red",
    "unreachable": "red",
}


def show_status(view: dict[str, Any]) -> None:
    from rich.text import Text

    console = _console()
    console.print(f"manyhands {view['version']}   home {view['home']}", highlight=False)
    for record in view["running"]:
        line = f"running  {record['command']} {record['model']}, pid {record['pid']}"
        console.print(line, highlight=False)
        if record["signature"].startswith("signed"):
            _told("", Text(record["signature"]))
        for why in record["without"]:
            _told("", Text(why, "yellow"))
        for reach in record["reach"] if record["command"] == "serve" else ():
            _show_reach(reach)
        for carrying in record.get("carrying", ()):
            _show_carrying(carrying)
    for model in view["models"]:
        _show_model(model)
    if not view["models"]:
        console.print("swarm    nobody serves anything")
    _show_bans(view.get("bans", ()))
    for row in (*view.get("peers_loading", ()), *view["peers_not_well"]):
        for why in row["why"]:
            _told(f"peer     {short(row['peer'])}", Text(why, STYLES[row["state"]]))


def _show_reach(reach: dict[str, Any]) -> None:
    from rich.text import Text

    style = {"unknown": "", "nat": "yellow", "firewalled": "yellow"}.get(reach["verdict"], "green")
    why = f" ({reach['why']})" if reach["why"] else ""
    _told("reach", Text.assemble(Text(reach["told"], style), why))
    if reach["fix"]:
        _told("", f"fix: {reach['fix']}")


def _show_carrying(carrying: dict[str, Any]) -> None:
    """Of a node of this home: whom it carries, and who carries it."""
    if relay := carrying.get("relay"):
        now = f"{relay['n_reserved']} peers hold a place, {relay['n_open']} connections are open"
        sums = f"{_bytes(relay['n_bytes'])} bytes of {relay['n_peers']} peers so far"
        _told("relay", f"carries for others: {now}; {sums}")
    for place in carrying.get("via", ()):
        until = time.strftime("%H:%M", time.localtime(place["expires_ms"] / 1000))
        _told("", f"carried by {short(place['relay'])} until {until}")
    if tunnels := carrying.get("tunnels"):
        told = f"{tunnels['n_streams']} streams open, {tunnels['n_punched']} holes punched"
        told += f", {_bytes(tunnels['n_bytes'])} bytes"
        if tunnels["n_carried_bytes"]:
            told += f"; {_bytes(tunnels['n_carried_bytes'])} for others"
        _told("tunnels", told)


def _show_model(model: dict[str, Any]) -> None:
    from rich.text import Text

    console = _console()
    if model["complete"]:
        state = Text("READY", "green")
    else:
        missing = ", ".join(f"{start}:{stop}" for start, stop in model["missing"])
        state = Text(f"INCOMPLETE, nobody serves blocks {missing}", "red")
    rest = (
        f", {model['n_blocks']} blocks on {model['peers']} peers, {model['sessions']} open sessions"
    )
    line = Text.assemble(f"{model['model']}: ", state, rest)
    if model["complete"]:
        limits = ", ".join(f"{start}:{stop}" for start, stop in model["limited_by"])
        line.append(f", up to {_number(model['tokens_per_s'])} tokens/s, limited by {limits}")
    _told("swarm", line)
    for start, stop, n_hosts in model["coverage"]:
        style = "red" if n_hosts == 0 else "yellow" if n_hosts == 1 else "green"
        bar = Text("#" * min(n_hosts, MAX_BAR), style)
        blocks = f"{start}:{stop}"
        count = f"{n_hosts:>4} host{' ' if n_hosts == 1 else 's'} "
        console.print(Text.assemble(f"         {blocks:<9}", count, bar))
    for start, stop, n_coming in model["coming"]:
        blocks = f"{start}:{stop}"
        coming = Text(f"{n_coming:>4} coming", STYLES["loading"])
        console.print(Text.assemble(f"         {blocks:<9}", coming))
    for warning in model["warnings"]:
        _told("", Text(f"warning: {warning}", "yellow"))


def _show_bans(bans: Sequence[dict[str, Any]]) -> None:
    from rich.text import Text

    for ban in bans:
        left_min = max(0.0, ban["until_ms"] / 1000 - time.time()) / 60
        why = f"banned here for {left_min:.0f} more minutes: {ban['why']}"
        _told(f"peer     {short(ban['peer'])}", Text(why, "yellow"))
    if bans:
        _told("", Text(f"to hear one again: manyhands peers unban {short(bans[0]['peer'])}"))


def show_peers(rows: Sequence[dict[str, Any]], bans: Sequence[dict[str, Any]] = ()) -> None:
    from rich.table import Table
    from rich.text import Text

    console = _console()
    is_wide = console.width >= WIDE_COLUMNS
    for title, of_model in _by_model(rows):
        table = Table(
            box=None, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left"
        )
        table.title_style = "bold"
        for name, justify in COLUMNS.items():
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a str
        if is_wide:
            table.add_column("REACH", no_wrap=True)
            table.add_column("PROFILE", no_wrap=True)
            table.add_column("ADDRESS", overflow="fold")
        for row in of_model:
            more = [row["reach"], row["profile"], _address(row)] if is_wide else []
            state = Text(row["state"], STYLES[row["state"]])
            table.add_row(short(row["peer"]), _span(row), state, *_cells(row), *more)
        console.print(table)
    for row in rows:
        for why in row["why"]:
            _told(short(row["peer"]), Text(why, STYLES[row["state"]]))
    _show_bans(bans)


COLUMNS = {
    "PEER": "left",
    "BLOCKS": "left",
    "STATE": "left",
    "STEP": "right",
    "PREFILL": "right",
    "QUEUE": "right",
    "KV FREE": "right",
    "SESS": "right",
    "PATH": "right",
    "AGE": "right",
    "VERSION": "left",
}


def _cells(row: dict[str, Any]) -> Iterator[str]:
    """From STEP to VERSION."""
    yield _milliseconds(row["decode_us"])
    yield f"{_number(1e6 / row['prefill_us_per_row'])}/s" if row["prefill_us_per_row"] else "-"
    yield _milliseconds(row["queue_us"], nothing="0")
    yield _bytes(row["kv_free_bytes"])
    yield str(row["sessions"])
    yield _path(row["path"], row["rtt_ms"])
    yield f"{row['age_s']:.0f}s"
    version = re.match(r"manyhands/(\S+)", row["software"])
    yield version[1][:8] if version else row["software"][:8]


def _path(path: str, rtt_ms: float | None) -> str:
    """How far it is; by what path, where that is not the direct one."""
    if rtt_ms is None:
        return path
    far = _milliseconds(rtt_ms * 1000)
    return far if path == "direct" else f"{path} {far}"


def short(peer: str) -> str:
    """The end of a peer id, which is what differs."""
    return f"…{peer[-ENDING_CHARS:]}"


def ending_in(text: str, peers: Iterable[PeerId]) -> list[PeerId]:
    """Whom a person may mean by the end of an id, as tables show it."""
    ending = text.rpartition("…")[2]
    return [peer for peer in peers if len(ending) >= ENDING_CHARS and peer.endswith(ending)]


def _by_model(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for manifest in dict.fromkeys(row["manifest"] for row in rows):
        of_model = [row for row in rows if row["manifest"] == manifest]
        n_blocks = blocks_of_model(row["n_blocks"] for row in of_model)
        yield f"{of_model[0]['model']}, {n_blocks} blocks", of_model


def _span(row: dict[str, Any]) -> str:
    span = row["span"] or row["loading"]
    return f"{span[0]}:{span[1]}" if span else "-"


def _address(row: dict[str, Any]) -> str:
    return str(row["addresses"][0]).split("/p2p/")[0] if row["addresses"] else "-"


def _milliseconds(us: float, *, nothing: str = "-") -> str:
    if not us:
        return nothing
    ms = us / 1000
    return f"{ms:.1f}ms" if ms < 99.95 else f"{ms:.0f}ms" if ms < 9999.5 else f"{ms / 1000:.0f}s"


def _number(value: float) -> str:
    """To three digits or so: 0.85, 12.3, 456, 1.2k, 3.4M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.{int(value < 10 * size)}f}{unit}"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"


def _bytes(n_bytes: int) -> str:
    for unit, size in (("G", 2**30), ("M", 2**20), ("k", 2**10)):
        if n_bytes >= size:
            return (
                f"{n_bytes / size:.1f}{unit}" if n_bytes < 10 * size else f"{n_bytes // size}{unit}"
            )
    return str(n_bytes)


def _told(label: str, text: Any) -> None:
    """A label, and text that wraps beside it."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=8 if len(label) <= 8 else None, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(label, text)
    _console().print(grid)


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)

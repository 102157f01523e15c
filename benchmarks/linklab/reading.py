"""Scenario files: TOML to values, with errors that name the file, the line and the key.

In: a path, or the name of a scenario that comes with the lab. Out: a `Scenario`. A variant says
only what differs: its tables `workload`, `links`, `client` and `nodes` lie over the scenario's.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.linklab.scenario import (
    ELSEWHERE,
    LLAMA,
    MANYHANDS,
    MEASURES,
    TRANSFORMERS,
    Distances,
    Fault,
    Goal,
    Model,
    NodeOptions,
    Peer,
    Scenario,
    Variant,
    Workload,
)
from benchmarks.linklab.ways import Way
from protocol.errors import ConfigError
from protocol.messages import Span

SCENARIOS = Path(__file__).with_name("scenarios")
T = TypeVar("T")


class BadScenario(ConfigError):
    """A scenario file that says nothing we can run. line: 0 where it is none in particular."""

    def __init__(self, path: Path, line: int, key: str, reason: str) -> None:
        where = f"{path}:{line}" if line else str(path)
        super().__init__(
            f"{where}: {key + ': ' if key else ''}{reason}",
            hint="scenarios to learn from: python -m benchmarks.linklab --list",
        )
        self.path, self.line, self.key = path, line, key


class _Table:
    """One table of the file, and how to complain about it. Unknown keys are errors."""

    def __init__(self, path: Path, text: str, at: str, values: dict[str, Any]) -> None:
        self.path, self.text, self.at, self._values = path, text, at, dict(values)
        self._known: list[str] = []

    def bad(self, key: str, reason: str) -> BadScenario:
        name = ".".join(filter(None, (self.at, key)))
        return BadScenario(self.path, _line_of(self.text, self.at, key), name, reason)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        self._known.append(key)
        if key not in self._values:
            if default is None:
                raise self.bad(key, "is missing")
            return default
        value = self._values.pop(key)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.bad(key, f"is to be {_KINDS.get(kind, kind.__name__)}, got {value!r}")
        if isinstance(value, (int, float)) and not 0 <= value < 1e12:
            raise self.bad(key, f"is 0 or more, got {value!r}")
        return value  # type: ignore[no-any-return]  # its type was looked at

    def one_of(self, key: str, choices: Sequence[str], default: str) -> str:
        value = self.get(key, str, default)
        if value not in choices:
            raise self.bad(key, f"is one of {', '.join(choices)}, got {value!r}")
        return value

    def maybe(self, key: str, kind: type[T]) -> T | None:
        self._known.append(key)
        return self.get(key, kind) if key in self._values else None

    def table(self, key: str) -> "_Table":
        at = ".".join(filter(None, (self.at, key)))
        return _Table(self.path, self.text, at, self.get(key, dict, {}))

    def tables(self, key: str) -> list["_Table"]:
        found = self.get(key, list, [])
        at = ".".join(filter(None, (self.at, key)))
        if not all(isinstance(each, dict) for each in found):
            raise self.bad(key, f"is to be written as [[{at}]]")
        return [_Table(self.path, self.text, f"{at}[{i}]", each) for i, each in enumerate(found)]

    def done(self) -> None:
        for key in self._values:
            close = difflib.get_close_matches(key, self._known, 1)
            guess = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(self._known)}"
            raise self.bad(key, f"is no key of this table{guess}")

    def make(self, build: Callable[[], T], key: str = "") -> T:
        """What checks itself, with its complaint put to this table."""
        try:
            return build()
        except ValueError as error:
            raise self.bad(key, str(error)) from error


_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_KINDS |= {list: "a list", dict: "a table"}


def find(name: str) -> Path:
    """A file by its path, or a scenario of ours by its name.

    Raises:
        BadScenario: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    ours = SCENARIOS / f"{name.removesuffix('.toml')}.toml"
    if ours.is_file():
        return ours
    close = difflib.get_close_matches(name, [each.stem for each in SCENARIOS.glob("*.toml")], 1)
    raise BadScenario(path, 0, "", f"no such file{f'; did you mean {close[0]}?' if close else ''}")


def read(path: Path) -> Scenario:
    """
    Raises:
        BadScenario: it cannot be read, or says something that cannot be.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise BadScenario(path, 0, "", f"cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        raise BadScenario(path, int(found[1]) if found else 0, "", f"no TOML: {error}") from error
    return _scenario(_Table(path, text, "", values))


def _scenario(top: _Table) -> Scenario:
    title, why = top.get("title", str), top.get("why", str, "")
    seed, rounds = top.get("seed", int, 1), top.get("rounds", int, 3)
    picture = top.one_of("picture", MEASURES, "tpot_ms")
    model = _model(top.table("model"))
    peers = tuple(map(_peer, top.tables("peers")))
    if not peers:
        raise top.bad("peers", "there are none; write [[peers]] with a span each")
    _require_cover(top, model, peers)
    tables = {key: top.table(key) for key in ("workload", "links", "client", "nodes")}
    base = {key: dict(table._values) for key, table in tables.items()}
    plain = _plain(top, base, len(peers))  # first: what is wrong with it is said where it stands
    variants = tuple(_variant(each, base, len(peers)) for each in top.tables("variants"))
    variants = variants or (plain,)
    if len({each.name for each in variants}) < len(variants):
        raise top.bad("variants", "two have the same name")
    faults = tuple(_fault(each, len(peers)) for each in top.tables("faults"))
    goals = tuple(_goal(each, [each.name for each in variants]) for each in top.tables("goals"))
    top.done()
    if rounds < 1:
        raise top.bad("rounds", "is 1 or more")
    return Scenario(
        name=top.path.stem, title=title, why=why, seed=seed, rounds=rounds, model=model,
        peers=peers, variants=variants, faults=faults, goals=goals, picture=picture,
    )  # fmt: skip


def _model(table: _Table) -> Model:
    name = table.get("name", str, "")
    sizes = {key: table.get(key, int, size) for key, size in LLAMA.items()}
    table.done()
    return Model(name=name, sizes=sizes)


def _span(table: _Table) -> Span:
    found = table.get("span", list)
    if len(found) != 2 or not all(type(each) is int for each in found):
        raise table.bad("span", f"is [first block, block after the last], got {found!r}")
    return table.make(lambda: Span(*found), "span")


def _peer(table: _Table) -> Peer:
    span, slow = _span(table), table.get("slow", float, 1.0)
    uplink = table.get("uplink_mbit_per_s", float, 0.0)
    table.done()
    return table.make(lambda: Peer(span=span, slow=slow, uplink_mbit_per_s=uplink))


def _require_cover(top: _Table, model: Model, peers: Sequence[Peer]) -> None:
    covered = {block for peer in peers for block in range(peer.span.start, peer.span.stop)}
    missing = set(range(model.n_blocks)) - covered
    if missing:
        raise top.bad("peers", f"nobody serves the blocks {sorted(missing)}")
    if beyond := sorted(block for block in covered if block >= model.n_blocks):
        raise top.bad("peers", f"the model has {model.n_blocks} blocks, not the blocks {beyond}")


def _over(base: dict[str, dict[str, Any]], key: str, over: _Table) -> _Table:
    """A variant's table, with what it leaves open from the scenario's."""
    own = over.table(key)
    return _Table(over.path, over.text, own.at, base[key] | own._values)


def _plain(top: _Table, base: dict[str, dict[str, Any]], n_peers: int) -> Variant:
    return _variant(_Table(top.path, top.text, "", {"name": "plain"}), base, n_peers)


def _variant(table: _Table, base: dict[str, dict[str, Any]], n_peers: int) -> Variant:
    name = table.get("name", str)
    system = table.one_of("system", (MANYHANDS, TRANSFORMERS, ELSEWHERE), MANYHANDS)
    workload = _workload(_over(base, "workload", table))
    nodes = _nodes(_over(base, "nodes", table))
    links = _over(base, "links", table)
    between = {
        pair: way for each in links.tables("between") for pair, way in _between(each, n_peers)
    }
    distances = Distances(
        link=_way(links), client=_way(_over(base, "client", table)), between=between
    )
    is_lossless = table.get("lossless", bool, nodes.wire != "int8-64")
    table.done()
    return Variant(
        name=name, system=system, workload=workload, nodes=nodes, distances=distances,
        is_lossless=is_lossless,
    )  # fmt: skip


def _workload(table: _Table) -> Workload:
    plain = Workload()
    numbers = {
        key: table.get(key, int, getattr(plain, key))
        for key in ("prompt_tokens", "tokens", "sessions")
    }
    words = {key: table.get(key, str, getattr(plain, key)) for key in ("text", "drafter", "ends")}
    table.done()
    made = table.make(lambda: Workload(**numbers, **words))  # type: ignore[arg-type]  # read as such
    table.make(lambda: made.oracle, "drafter")
    return made


def _nodes(table: _Table) -> NodeOptions:
    pack = table.one_of("pack", ("auto", "always", "never"), "auto")
    wires = ("auto", "float32", "bfloat16", "float16", "int8-64")
    wire = table.one_of("wire", wires, "auto")
    whole = table.get("whole_prompts", bool, False)
    table.done()
    return NodeOptions(pack=pack, wire=wire, whole_prompts=whole)


def _way(table: _Table) -> Way:
    one_way_ms, jitter_ms = table.get("one_way_ms", float, 0.0), table.get("jitter_ms", float, 0.0)
    loss, rate = table.get("loss", float, 0.0), table.get("mbit_per_s", float, 0.0)
    table.done()
    return table.make(lambda: Way(one_way_ms, rate * 1e6 / 8, jitter_ms, loss))


def _between(table: _Table, n_peers: int) -> list[tuple[tuple[int, int], Way]]:
    a, b = (_place(table, key, n_peers) for key in ("from", "to"))
    is_both = table.get("both_ways", bool, True)
    way = _way(table)
    return [((a, b), way), *([((b, a), way)] if is_both else [])]


def _place(table: _Table, key: str, n_peers: int) -> int:
    place = table.get(key, int)
    if place >= n_peers:
        raise table.bad(key, f"there is no peer {place}: they are numbered from 0 to {n_peers - 1}")
    return place


def _fault(table: _Table, n_peers: int) -> Fault:
    kill = _place(table, "kill", n_peers)
    at_token, at_s = table.maybe("at_token", int), table.maybe("at_s", float)
    table.done()
    return table.make(lambda: Fault(kill=kill, at_token=at_token, at_s=at_s))


def _goal(table: _Table, variants: Sequence[str]) -> Goal:
    name, measure = table.get("name", str), table.get("measure", str)
    of = table.one_of("of", variants, "")
    beside = table.one_of("beside", ("", "floor", "bound", *variants), "")
    plain = table.one_of("plain", ("", *variants), "")
    at_most, at_least = table.maybe("at_most", float), table.maybe("at_least", float)
    table.done()
    return table.make(
        lambda: Goal(
            name=name, measure=measure, of=of, beside=beside, plain=plain,
            at_most=at_most, at_least=at_least,
        )
    )  # fmt: skip


def _line_of(text: str, at: str, key: str) -> int:
    """Where that key of a table such as `variants[1].links` stands; else the table's heading."""
    here, heading, seen = "", 0, dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*(\[\[?)\s*([\w.-]+)\s*\]", line):
            here = found[2]
            if found[1] == "[[":
                seen[here] = seen.get(here, -1) + 1
            here = ".".join(
                f"{part}[{seen[path]}]" if path in seen else part for part, path in _paths(here)
            )
            if here == at and not key:
                return number
            heading = number if here == at else heading
        elif here == at and re.match(rf"\s*{re.escape(key)}\s*[=.]", line):
            return number
        elif found := re.match(r"\s*([\w-]+)\s*=\s*\{.*", line):  # an inline table
            inline = ".".join(filter(None, (here, found[1])))
            if inline == at and (not key or re.search(rf"\b{re.escape(key)}\s*=", line)):
                return number
    return heading


def _paths(name: str) -> list[tuple[str, str]]:
    """Each part of `a.b`, with all up to it."""
    parts = name.split(".")
    return [(part, ".".join(parts[: i + 1])) for i, part in enumerate(parts)]

"""docs/compatibility.md: what was tried with which client, and how it went.

Rows of clients that were not run this time stay as they were, also where that could not be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
HEAD = """# Compatibility

Written by `python -m tests.conformance`, which runs each client, in an environment of its own,
against a gateway in front of a swarm of two nodes that serve `tiny`.

| client | version | what was tried | result |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Row:
    client: str
    version: str
    tried: str
    result: str
    is_tried: bool = True

    def __str__(self) -> str:
        cells = (self.client, self.version, self.tried, self.result)
        return "| " + " | ".join(" ".join(cell.replace("|", "/").split()) for cell in cells) + " |"


def row(client: str, version: str, told: Sequence[Mapping[str, str]]) -> Row:
    """told: of each check `what`, and `why` it failed."""
    if not told:
        return Row(client, version, "", "its program checked nothing")
    failed = [each for each in told if each["why"]]
    result = "passed" if not failed else "; ".join(f"{e['what']}: {e['why']}" for e in failed)
    return Row(client, version, ", ".join(each["what"] for each in told), result[:400])


def write(rows: Sequence[Row], order: Sequence[str], page: Path = PAGE) -> None:
    known = dict(_written(page))
    kept = known | {
        each.client: str(each) for each in rows if each.is_tried or each.client not in known
    }
    lines = [kept[name] for name in order if name in kept]
    page.write_text(HEAD + "\n".join(lines) + "\n")


def _written(page: Path) -> list[tuple[str, str]]:
    if not page.exists():
        return []
    lines = page.read_text().splitlines()
    cells = [(line.split("|")[1].strip(), line) for line in lines if line.startswith("| ")]
    return cells[1:]

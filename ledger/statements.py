"""A statement: the lines of a period, what they come to, and what the account stood at before.

In: lines in the order of their log, and what to choose of them. Out: a value, summed as the balance
is: of several receipts of one tab the highest counts, so that a statement of everything closes at
exactly the balance. Periods are days of UTC, as each receipt's signers dated it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

from ledger.lines import Line, peer_name
from protocol.errors import UsageError

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which lines: within `[from_ms, until_ms)`, with a counterparty, of a model."""

    from_ms: int = 0
    until_ms: int | None = None
    peer: str | None = None
    model: str = ""  # how its manifest's digest begins, in hexadecimal

    def __post_init__(self) -> None:
        if self.until_ms is not None and self.until_ms <= self.from_ms:
            raise UsageError("the period ends before it begins")
        if self.model.strip("0123456789abcdef"):
            raise UsageError(
                f"a model is named by its digest in hexadecimal, not {self.model[:40]!r}",
                hint="manyhands ledger statement --json shows it as `manifest`",
            )

    @classmethod
    def of(
        cls, since: date | None, until: date | None, peer: str | None, model: str | None
    ) -> Self:
        """Days from and up to, both included."""
        return cls(
            from_ms=_midnight_ms(since) if since else 0,
            until_ms=_midnight_ms(until) + DAY_MS if until else None,
            peer=peer,
            model=(model or "").lower(),
        )

    @property
    def is_everything(self) -> bool:
        return self == Choice()

    def is_about(self, line: Line) -> bool:
        """Whether the line is between these parties, of this model, whenever it was."""
        return self.peer in (None, peer_name(line.counterparty)) and (
            line.manifest.hex().startswith(self.model)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "from": _day(self.from_ms) if self.from_ms else None,
            "to": _day(self.until_ms - 1) if self.until_ms is not None else None,
            "peer": self.peer,
            "model": self.model or None,
        }


EVERYTHING = Choice()


@dataclass(slots=True)
class Sum:
    """What some lines come to."""

    n_tabs: int = 0
    earned: int = 0
    spent: int = 0
    token_layers: int = 0

    def add(self, line: Line, counted: int) -> None:
        self.n_tabs += 1
        self.earned += counted * line.earned
        self.spent += counted * (not line.earned)
        self.token_layers += line.token_layers

    @property
    def net(self) -> int:
        return self.earned - self.spent

    def to_json(self) -> dict[str, int]:
        return {
            "n_tabs": self.n_tabs,
            "token_layers": self.token_layers,
            "earned_ncr": self.earned,
            "spent_ncr": self.spent,
            "net_ncr": self.net,
        }


@dataclass(slots=True)
class Statement:
    """What was chosen, oldest first. `counted` is what each line adds beyond earlier receipts of
    its tab: as a rule all of it."""

    choice: Choice
    lines: list[Line] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    before: Sum = field(default_factory=Sum)  # of the same parties and model, ahead of the period
    within: Sum = field(default_factory=Sum)

    @property
    def opening(self) -> int:
        return self.before.net

    @property
    def closing(self) -> int:
        return self.before.net + self.within.net

    def groups(self, by: str) -> list[dict[str, Any]]:
        """Sums by `day`, `month`, `peer` or `model`, in the order of their names."""
        found: dict[str, Sum] = {}
        for line, counted in zip(self.lines, self.counted, strict=True):
            found.setdefault(_NAMES[by](line), Sum()).add(line, counted)
        return [{by: name, **found[name].to_json()} for name in sorted(found)]

    def to_json(self) -> dict[str, Any]:
        return {
            "period": self.choice.to_json(),
            "opening_ncr": self.opening,
            "closing_ncr": self.closing,
            **self.within.to_json(),
        }


def make_statement(lines: Iterable[Line], choice: Choice = EVERYTHING) -> Statement:
    """Of a log's lines in its order."""
    made = Statement(choice)
    highest: dict[tuple[bytes, bytes, bytes, bool], int] = {}
    for line in lines:
        tab = (line.tab_id, line.asset, line.counterparty, line.earned)
        before = highest.get(tab, 0)
        highest[tab] = max(before, line.amount)
        counted = max(0, line.amount - before)
        if not choice.is_about(line):
            continue
        if line.closed_ms < choice.from_ms:
            made.before.add(line, counted)
        elif choice.until_ms is None or line.closed_ms < choice.until_ms:
            made.lines.append(line)
            made.counted.append(counted)
            made.within.add(line, counted)
    return made


def day_of(line: Line) -> str:
    return _day(line.closed_ms)


def _day(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):  # a signer's clock may say anything
        return "9999-12-31"


_NAMES: dict[str, Callable[[Line], str]] = {
    "day": day_of,
    "month": lambda line: day_of(line)[:7],
    "peer": lambda line: peer_name(line.counterparty),
    "model": lambda line: line.manifest.hex(),
}
GROUPS: Sequence[str] = tuple(_NAMES)


def _midnight_ms(day: date) -> int:
    return (day - date(1970, 1, 1)) // timedelta(milliseconds=1)

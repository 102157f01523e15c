"""A statement: the lines of a period, what they come to, and what the account stood at before.

In: what a log has, in its order, and what to choose of it. Out: a value, summed as the balance is:
of several receipts of one tab the highest counts, so that a statement of everything closes at
exactly the balance. Periods are days of UTC, as each receipt's signers dated it: the epochs of a
log's entries. Receipts are read for the lines that are shown alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Protocol, Self

from ledger.days import day_name
from ledger.lines import Line, peer_name
from ledger.noted import NOTHING_NOTED, Noted
from protocol.errors import UsageError

_FIRST_DAY = date(1970, 1, 1)


class Kept(Protocol):
    """As much of an entry of a log as sums need, and the line it gives when it is read."""

    @property
    def tab_id(self) -> bytes: ...
    @property
    def asset(self) -> bytes: ...
    @property
    def counterparty(self) -> bytes: ...
    @property
    def earned(self) -> bool: ...
    @property
    def amount(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def line(self) -> Line: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which lines: of days `first` to `last`, with a counterparty, of a model.

    first, last: epochs, both included. model: how its manifest's digest begins, in hexadecimal.
    """

    first: int = 0
    last: int | None = None
    peer: str | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if self.last is not None and self.last < self.first:
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
        return cls(
            first=_epoch(since) if since else 0,
            last=_epoch(until) if until else None,
            peer=peer,
            model=(model or "").lower(),
        )

    @property
    def is_everything(self) -> bool:
        return self == EVERYTHING

    def is_about(self, kept: Kept) -> bool:
        """Whether it is between these parties, of this model, whenever it was."""
        if self.peer not in (None, peer_name(kept.counterparty)):
            return False
        return not self.model or kept.line.manifest.hex().startswith(self.model)

    def to_json(self) -> dict[str, Any]:
        return {
            "from": day_name(self.first) if self.first else None,
            "to": None if self.last is None else day_name(self.last),
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
    its tab, less what its payee takes off: as a rule all of it."""

    choice: Choice
    lines: list[Line] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    credited: list[int] = field(default_factory=list)  # what credit notes take off each line
    opening: int = 0  # of the same parties and model, ahead of the period
    within: Sum = field(default_factory=Sum)

    @property
    def closing(self) -> int:
        return self.opening + self.within.net

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


def make_statement(
    kept: Iterable[Kept], choice: Choice = EVERYTHING, noted: Noted = NOTHING_NOTED
) -> Statement:
    """Of what a log has, in its order. noted: what is taken off its tabs."""
    made, all_parties = Statement(choice), choice.peer is None and not choice.model
    highest: dict[tuple[bytes, bytes, bytes, bool], int] = {}
    for each in kept:
        tab = (each.tab_id, each.asset, each.counterparty, each.earned)
        before = highest.get(tab, 0)
        highest[tab] = max(before, each.amount)
        more = max(0, each.amount - before)
        off = noted.of(each.counterparty, each.tab_id, earned=each.earned)
        counted = max(0, before + more - off) - max(0, before - off) if off else more
        if choice.last is not None and each.epoch > choice.last:
            continue
        if not all_parties and not choice.is_about(each):
            continue
        if each.epoch < choice.first:
            made.opening += counted if each.earned else -counted
            continue
        line = each.line
        made.lines.append(line)
        made.counted.append(counted)
        made.credited.append(more - counted)
        made.within.add(line, counted)
    return made


_NAMES: dict[str, Callable[[Line], str]] = {
    "day": lambda line: day_name(line.epoch),
    "month": lambda line: day_name(line.epoch)[:7],
    "peer": lambda line: peer_name(line.counterparty),
    "model": lambda line: line.manifest.hex(),
}
GROUPS: Sequence[str] = tuple(_NAMES)


def _epoch(day: date) -> int:
    return (day - _FIRST_DAY) // timedelta(days=1)

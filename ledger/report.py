"""What verifying a log found: how much was looked at, and each thing that does not hold."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that does not hold, and the entry it belongs to, when it belongs to one."""

    entry: int | None
    receipt_id: str | None
    part: str
    reason: str

    def __str__(self) -> str:
        where = "" if self.entry is None else f"entry {self.entry}"
        which = f"(receipt {self.receipt_id[:16]}…)" if self.receipt_id else ""
        return ": ".join(filter(None, (f"{where} {which}".strip(), self.part, self.reason)))


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found."""

    directory: Path
    account: bytes
    n_entries: int = 0
    n_checkpoints: int = 0
    n_open_tabs: int = 0
    n_pruned: int = (
        0  # entries whose receipts were erased: leaves and sums hold, nothing else is said
    )
    failures: list[Failure] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.failures

    def add(
        self, part: str, reason: object, entry: int | None = None, id_: bytes | None = None
    ) -> None:
        shown = id_.hex() if isinstance(id_, bytes) else None
        self.failures.append(Failure(entry, shown, part, str(reason)))

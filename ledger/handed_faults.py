"""Faults as somebody hands them over in a file: what `dispute show --json` prints, read elsewhere.

In: JSON from anybody. Out: faults that convince, each judged here; in this home they are then kept
as if they had been found here. Nothing of the file is believed but what the evidence proves.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.errors import BadProof
from ledger.findings import Findings
from ledger.findings_view import finding_view
from ledger.forks import KIND as FORK
from ledger.homes import ROLES
from ledger.judging import Finding, judge
from ledger.spend_books import SpendBooks
from ledger.spend_verify import has_books
from ledger.spending import Fault
from ledger.swarms import policy_at, swarm_of
from protocol.errors import IntegrityError, UsageError
from protocol.signing import SigningKey

Json = dict[str, Any]
LISTS = ("faults", "disputes")  # of a view, see `dispute_command.py`
MAX_FAULTS = 100  # at once


@dataclass(frozen=True, slots=True)
class Handed:
    """A fault that convinced here, and what it shows."""

    fault: Fault
    finding: Finding

    def view(self, is_new: bool) -> Json:
        return {**finding_view(self.finding), "is_new": is_new}


def read_faults(text: bytes, swarm_id: bytes) -> list[Handed]:
    """All that the file has, in its order.

    Raises:
        UsageError: it has none, or is no such file. BadProof: one of them does not convince.
    """
    told = _listed(text)
    if not 0 < len(told) <= MAX_FAULTS:
        raise UsageError(
            f"the file has {len(told)} faults, not 1 to {MAX_FAULTS}",
            hint="manyhands ledger dispute show ACCOUNT --json > FILE, where they are known",
        )
    found = []
    for number, each in enumerate(told, 1):
        try:
            fault = _read(each)
            found.append(Handed(fault, judge(fault, swarm_id)))
        except IntegrityError as error:
            why = f"number {number} of the file proves nothing in this home's swarm: {error}"
            raise BadProof(why) from error
    return found


def keep_faults(home: Path, handed: Sequence[Handed], key: SigningKey) -> list[bool]:
    """As told by this key, for all parties that the home has. Whether each was news to one."""
    swarm_id, _ = swarm_of(home)
    news = [False] * len(handed)
    for directory in (home / role for role in ROLES if (home / role).is_dir()):
        with Findings.open(directory, swarm_id) as findings:
            for place, each in enumerate(handed):
                told = each.fault.seal(swarm_id, key)
                news[place] |= findings.add(told, trusted=told.signers)
        forks = [each.fault for each in handed if each.fault.kind == FORK]
        if forks and has_books(directory):
            with SpendBooks.open(directory, swarm_id, policy_at(home).quorum()) as books:
                for fork in forks:
                    books.believe(fork)
    return news


def _listed(text: bytes) -> list[Any]:
    try:
        view = json.loads(text)
    except (ValueError, RecursionError):
        view = None
    lists: list[Any] = [view.get(name, []) for name in LISTS] if isinstance(view, dict) else [None]
    if not all(isinstance(each, list) for each in lists):
        raise UsageError(
            "that is not what `dispute show --json` prints",
            hint="manyhands ledger dispute show ACCOUNT --json > FILE, where it is known",
        )
    return [each for told in lists for each in told]


def _read(told: Any) -> Fault:
    """
    Raises:
        IntegrityError: it is none.
    """
    try:
        pieces = tuple(bytes.fromhex(piece["bytes"]) for piece in told["evidence"])
        return Fault(kind=told["kind"], accused=bytes.fromhex(told["accused"]), evidence=pieces)
    except (KeyError, TypeError, ValueError) as error:
        raise BadProof("a fault has a kind, an account that is accused, and evidence") from error

"""What a party of a home found out about others, and was told of them: looks at work, and faults.

In: looks (what an audit found, with the verdict it signed), faults (from anybody; only those that
convince are kept). Out: how far each account's work is to be trusted, who is suspect, and who is at
fault with the evidence. It survives restarts, and several processes may share it.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from ledger.errors import BadProof
from ledger.judging import COMPUTE, Finding, judge
from ledger.looks import MAX_LOOKS, Key, Look, Looks
from ledger.looks import SCHEMA as LOOKS
from ledger.reputation import Standing
from ledger.spending import Fault
from ledger.store import Store
from protocol.canonical import decode
from protocol.signing import Envelope

FILE_NAME = "findings.db"
MAX_FAULTS = 10_000  # anybody may hand us some; each is proven, and who reports it costs us a row
MAX_OPINIONS = 16  # of one account: faults on the word of others, whoever those are

SCHEMA = """
CREATE TABLE IF NOT EXISTS fault (
    id BLOB PRIMARY KEY,
    at_s REAL NOT NULL,
    kind TEXT NOT NULL,
    accused BLOB NOT NULL,
    reporter BLOB NOT NULL,
    what TEXT NOT NULL,
    auditors BLOB NOT NULL,
    envelope BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS fault_of ON fault (accused)
"""


@dataclass(frozen=True, slots=True)
class KeptFault:
    """A fault that convinced, who told it, and when."""

    id: bytes
    at_s: float
    reporter: bytes
    finding: Finding
    fault: Fault


class KeptOpen:
    """One connection to the findings in a directory, for who looks again and again, on any thread.

    Where somebody put another file in its place, that is opened.
    """

    def __init__(self, directory: Path, swarm_id: bytes) -> None:
        self._directory, self._swarm_id, self._lock = directory, swarm_id, Lock()
        self._held: tuple[int, Findings] | None = None

    def get(self) -> "Findings":
        """Not to be closed.

        Raises:
            ConfigError, DamagedLedger: they cannot be used.
        """
        with self._lock:
            place = self._place()
            if self._held is None or self._held[0] != place:  # who still reads the old one may
                opened = Findings.open(self._directory, self._swarm_id)
                self._held = self._place(), opened
            return self._held[1]

    def _place(self) -> int:
        """Of the file on its disk; -1: there is none."""
        try:
            return (self._directory / FILE_NAME).stat().st_ino
        except OSError:
            return -1


class Findings:
    """Of one party, in its directory."""

    def __init__(self, store: Store, swarm_id: bytes) -> None:
        self._store, self._swarm_id = store, swarm_id
        self._looks = Looks(store)

    @classmethod
    def open(cls, directory: Path, swarm_id: bytes) -> Self:
        """Make them if they are not there.

        Raises:
            ConfigError, DamagedLedger: they cannot be used.
        """
        store = Store.open(directory / FILE_NAME, create=True, schema=LOOKS + SCHEMA)
        return cls(store, swarm_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._store.close()

    # --- looks ------------------------------------------------------------------------------------

    def note(self, looks: Iterable[Look], now_s: float | None = None) -> None:
        self._looks.note(looks, time.time() if now_s is None else now_s)

    def looks(self, n: int = MAX_LOOKS) -> list[Look]:
        """The latest, in the order in which they were made."""
        return self._looks.latest(n)

    def look(self, number: int) -> Look | None:
        """None: there is none of this number, or no longer."""
        return self._looks.look(number)

    def standings(self, now_s: float) -> dict[Key, Standing]:
        """What is known of each account, by model and profile."""
        return self._looks.standings(now_s)

    def suspects(self, now_s: float) -> set[bytes]:
        """Accounts with a mismatch, lately, that nobody bore out or ruled out."""
        return self._looks.suspects(now_s)

    # --- faults -----------------------------------------------------------------------------------

    def add(
        self, told: Envelope, now_s: float | None = None, *, trusted: Collection[bytes] = ()
    ) -> bool:
        """Keep a fault that somebody signed, if it is wanted. Whether it is kept now and was not.

        Of each account and kind one is kept, that with the lowest id, so that all keep the same;
        of those on auditors' word, one for each set of auditors. What these are enough for is
        looked at first: nothing that is not wanted costs a signature.

        trusted: what they report, or what rests on their verdicts, is kept however much is.

        Raises:
            IntegrityError: it is malformed, or does not convince.
        """
        if len(told.signers) != 1:
            raise BadProof("a fault is told by one reporter")
        id_, said = told.object_id(self._swarm_id), Fault.from_fields(decode(told.payload))
        is_opinion = said.kind == COMPUTE
        is_sure = told.signers[0] in trusted
        if not (self._is_wanted(id_, said) or is_sure or (is_opinion and trusted)):
            return False
        fault = Fault.open(told, self._swarm_id, *told.signers)
        finding = judge(fault, self._swarm_id)
        is_sure = is_sure or not frozenset(trusted).isdisjoint(finding.auditors)
        at_s = time.time() if now_s is None else now_s
        auditors = b"".join(finding.auditors)
        row = (id_, at_s, fault.kind, fault.accused, *told.signers, finding.what, auditors)
        with self._store.transaction():
            if not (self._is_wanted(id_, fault) or is_sure):
                return False
            same = "accused = ? AND kind = ? AND auditors = ?"
            about = (fault.accused, fault.kind, auditors)
            sql = f"SELECT 1 FROM fault WHERE {same} AND id <= ?"
            if self._store.execute(sql, (*about, id_)):
                return False
            self._store.execute(f"DELETE FROM fault WHERE {same}", about)
            self._store.execute(
                "INSERT INTO fault VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, told.encode())
            )
        return True

    def _is_wanted(self, id_: bytes, fault: Fault) -> bool:
        """Whether there is room for it, or it stands for what is kept."""
        sql = "SELECT id FROM fault WHERE accused = ? AND kind = ?"
        known = [known for (known,) in self._store.execute(sql, (fault.accused, fault.kind))]
        if known and fault.kind != COMPUTE:
            return all(id_ < each for each in known)
        if id_ in known or len(known) >= MAX_OPINIONS:
            return False
        ((n_kept,),) = self._store.execute("SELECT count(*) FROM fault")
        return int(n_kept) < MAX_FAULTS

    def faults(self) -> list[KeptFault]:
        """All that are kept, the earliest first. What the file says is judged anew.

        Raises:
            IntegrityError: the file was changed.
        """
        rows = self._store.execute("SELECT id, at_s, reporter, envelope FROM fault ORDER BY at_s")
        kept = []
        for id_, at_s, reporter, data in rows:
            fault = Fault.open(Envelope.decode(data), self._swarm_id, reporter)
            kept.append(KeptFault(id_, at_s, reporter, judge(fault, self._swarm_id), fault))
        return kept

    def ids(self) -> frozenset[bytes]:
        """Of all faults that are kept."""
        return frozenset(id_ for (id_,) in self._store.execute("SELECT id FROM fault"))

    def told_by(self, reporter: bytes) -> list[bytes]:
        """The ids of faults that this key told, in a fixed order."""
        sql = "SELECT id FROM fault WHERE reporter = ? ORDER BY id"
        return [id_ for (id_,) in self._store.execute(sql, (reporter,))]

    def told(self, ids: Iterable[bytes]) -> list[Envelope]:
        """These faults as they were signed, for others."""
        rows = [
            row
            for id_ in ids
            for row in self._store.execute("SELECT envelope FROM fault WHERE id = ?", (id_,))
        ]
        return [Envelope.decode(data) for (data,) in rows]

    def at_fault(self, trusted: Iterable[bytes]) -> dict[bytes, Finding]:
        """Accounts that broke a rule provably, or by the word of an auditor among `trusted`."""
        believed, found = frozenset(trusted), {}
        rows = self._store.execute("SELECT kind, accused, auditors, what FROM fault")
        for kind, accused, keys, what in rows:  # they were judged when they came
            auditors = tuple(keys[at : at + 32] for at in range(0, len(keys), 32))
            if not auditors or believed.intersection(auditors):
                found[accused] = Finding(kind, accused, auditors, what)
        return found

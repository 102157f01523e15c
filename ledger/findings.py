"""What a party of a home found out about others, and was told of them: looks at work, and faults.

In: looks (what an audit found, with the verdict it signed), faults (from anybody; only those that
convince are kept). Out: how far each account's work is to be trusted, who is suspect, and who is at
fault with the evidence. It survives restarts, and several processes may share it.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ledger.errors import BadProof
from ledger.judging import COMPUTE, Finding, judge
from ledger.reputation import HALF_LIFE_S, UNSEEN, Standing
from ledger.spending import Fault
from ledger.store import Row, Store
from ledger.verdicts import MATCH, MISMATCH
from protocol.canonical import decode
from protocol.signing import Envelope

FILE_NAME = "findings.db"
MAX_FAULTS = 10_000  # anybody may hand us some; each is proven, and who reports it costs us a row
MAX_OPINIONS = 16  # of one account: faults on the word of others, whoever those are

SCHEMA = """
CREATE TABLE IF NOT EXISTS look (
    id INTEGER PRIMARY KEY,
    at_s REAL NOT NULL,
    account BLOB NOT NULL,
    manifest BLOB NOT NULL,
    profile TEXT NOT NULL,
    session_id BLOB NOT NULL,
    window_no INTEGER NOT NULL,
    span TEXT NOT NULL,
    result TEXT NOT NULL,
    confirmed INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    verdict BLOB NOT NULL
) STRICT;
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

Key = tuple[bytes, bytes, str]  # account, manifest, execution profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One committed window that was computed again.

    confirmed: false for a mismatch that nobody else bore out: a suspicion, which is no evidence.
    parts: the deviation that was found, in parts of a million.
    """

    account: bytes
    manifest: bytes
    profile: str
    session_id: bytes
    window_no: int
    span: str
    result: str
    parts: int
    verdict: bytes
    confirmed: bool = True
    at_s: float = 0.0
    number: int = 0  # in the order of the book

    @property
    def key(self) -> Key:
        return self.account, self.manifest, self.profile


@dataclass(frozen=True, slots=True)
class KeptFault:
    """A fault that convinced, who told it, and when."""

    id: bytes
    at_s: float
    reporter: bytes
    finding: Finding
    fault: Fault


class Findings:
    """Of one party, in its directory."""

    def __init__(self, store: Store, swarm_id: bytes) -> None:
        self._store, self._swarm_id = store, swarm_id

    @classmethod
    def open(cls, directory: Path, swarm_id: bytes) -> Self:
        """Make them if they are not there.

        Raises:
            ConfigError, DamagedLedger: they cannot be used.
        """
        store = Store.open(directory / FILE_NAME, create=True, schema=SCHEMA)
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
        at_s = time.time() if now_s is None else now_s
        rows = [
            (
                *(at_s, look.account, look.manifest, look.profile, look.session_id),
                *(look.window_no, look.span, look.result, int(look.confirmed)),
                *(look.parts, look.verdict),
            )
            for look in looks
        ]
        with self._store.transaction():
            self._store.execute_many(
                "INSERT INTO look VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )

    def looks(self) -> list[Look]:
        """In the order in which they were made."""
        return [_look(row) for row in self._store.execute("SELECT * FROM look ORDER BY id")]

    def standings(self, now_s: float) -> dict[Key, Standing]:
        """What is known of each account, by model and profile."""
        found: dict[Key, Standing] = {}
        for look in self.looks():
            if look.confirmed:
                known = found.get(look.key, UNSEEN)
                found[look.key] = known.after(look.result == MATCH, look.at_s)
        return {key: standing.aged(now_s) for key, standing in found.items()}

    def suspects(self, now_s: float) -> set[bytes]:
        """Accounts with a mismatch, lately, that nobody bore out or ruled out."""
        return {
            look.account
            for look in self.looks()
            if look.result == MISMATCH and not look.confirmed and now_s - look.at_s < HALF_LIFE_S
        }

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


def _look(row: Row) -> Look:
    number, at_s, account, manifest, profile, session, window, span, result, sure, parts, v = row
    return Look(
        account=account,
        manifest=manifest,
        profile=profile,
        session_id=session,
        window_no=window,
        span=span,
        result=result,
        parts=parts,
        verdict=v,
        confirmed=bool(sure),
        at_s=at_s,
        number=number,
    )

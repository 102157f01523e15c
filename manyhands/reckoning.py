"""What the books of all parties say after the work is done, and whether all of it holds.

In: the directories of ledgers, and whose node was killed. Out: a line per party, and counts of what
was checked. Every ledger is re-derived on its own (`ledger.verify`); then the two sides of each tab
are compared: what the client says it owes is what the node says it earned. A killed node may hold
an older voucher than the client sent, never a higher one, and may lack its last tab altogether.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.entries import LogEntry
from ledger.log import Ledger
from ledger.reader import LedgerReader
from ledger.receipts import Receipt, open_receipt
from ledger.verify import verify_ledger
from manyhands.home import KEY_NAME
from protocol.identity import load_identity, peer_id_from_public_key
from protocol.passphrases import ask
from protocol.signing import OPEN_SWARM_ID


@dataclass(frozen=True, slots=True)
class Party:
    """One ledger: whose, what it earned and spent, and for how many tokens through how many
    blocks."""

    name: str
    peer: str
    earned_ncr: int
    spent_ncr: int
    n_tabs: int
    token_blocks: int

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Reckoning:
    """What was checked, and what was found."""

    parties: list[Party] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    n_receipts: int = 0
    n_signatures: int = 0
    n_proofs: int = 0

    @property
    def holds(self) -> bool:
        return not self.failures


def reckon(
    client: Path, nodes: Sequence[tuple[str, Path]], *, killed: Collection[str] = ()
) -> Reckoning:
    """Verify every ledger, and the tabs between them.

    Args:
        client: the directory of the client's ledger, all of whose counterparties are `nodes`.
        nodes: names and directories.
        killed: the names of those that could not file their last receipts themselves.
    """
    result = Reckoning()
    owed = _read("client", client, result)
    earned: dict[bytes, tuple[int, str]] = {}
    for name, directory in nodes:
        for entry in _read(name, directory, result):
            earned[entry.session_id] = (entry.net, name)
    by_peer = {party.peer: party.name for party in result.parties}
    for entry in owed:
        payee = by_peer.get(_peer(entry.payee), "nobody we know")
        amount, _ = earned.pop(entry.session_id, (None, payee))
        agrees = amount == entry.net or (payee in killed and (amount or 0) <= entry.net)
        if not agrees:
            result.failures.append(
                f"tab {entry.session_id.hex()[:12]}: the client owes {entry.net} ncr, "
                f"{payee} has {'nothing' if amount is None else f'{amount} ncr'} on record"
            )
    for session_id, (amount, name) in earned.items():
        if amount:
            result.failures.append(
                f"tab {session_id.hex()[:12]}: {name} claims {amount} ncr the client never signed"
            )
    return result


def _read(name: str, directory: Path, result: Reckoning) -> list[LogEntry]:
    """One ledger's entries, once it is verified; its line is added to the result."""
    identity = load_identity(directory / KEY_NAME, ask)
    Ledger.open(directory, identity.key, OPEN_SWARM_ID).close()  # files what a kill left open
    report = verify_ledger(directory, identity.public_key)
    result.failures += [f"{name}: {failure}" for failure in report.failures]
    with LedgerReader.read(directory) as reader:
        entries = list(reader.entries())
        receipts = [reader.receipt(entry.receipt_id) for entry in entries]
    tabs = [open_receipt(receipt, OPEN_SWARM_ID) for receipt in receipts]
    mine = identity.public_key
    result.n_receipts += len(receipts)
    result.n_proofs += len(entries)
    result.n_signatures += sum(map(_n_signatures, receipts)) + report.n_checkpoints
    result.parties.append(
        Party(
            name,
            identity.peer_id,
            earned_ncr=sum(tab.amount for tab in tabs if tab.terms.payee == mine),
            spent_ncr=sum(tab.amount for tab in tabs if tab.terms.payer_key == mine),
            n_tabs=len(tabs),
            token_blocks=sum(tab.meter.prefill_tl + tab.meter.decode_tl for tab in tabs),
        )
    )
    return entries


def _n_signatures(receipt: Receipt) -> int:
    parts = (receipt.offer, receipt.terms, receipt.statement, receipt.voucher)
    return sum(len(part.signatures) for part in parts if part is not None)


def _peer(public_key: bytes) -> str:
    return peer_id_from_public_key(public_key)

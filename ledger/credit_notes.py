"""Credit notes: a payee takes off a tab what its vouchers promise too much.

In: a payee's log, what it settled, which tab and how much. Out: the note to sign and log, or why
there can be none. It counts for whoever hears the payee's spend log, and in the settlement of the
tab; what was taken in already cannot be given back so.
"""

from pathlib import Path

from ledger.owed import owed_entries
from ledger.policy import Policy
from ledger.reader import LedgerReader
from ledger.settled import SettledBook, read_settlement
from ledger.settling import OwedTab, Pair, with_notes
from ledger.spend_log import SpendLog
from ledger.spending import CreditNote
from protocol.errors import UsageError

BACK = "give it back instead: manyhands ledger allot PAYER AMOUNT --role node"
MIN_PREFIX = 6


def make_note(
    directory: Path, policy: Policy, log: SpendLog, tab_id: bytes, amount: int, reason: str
) -> CreditNote:
    """amount: of the tab, in all, with what earlier notes took off it.

    Raises:
        UsageError: no such tab pays us; it does not promise so much; it is credited so much
            already; or it is settled.
    """
    with (
        LedgerReader.read(directory) as reader,
        SettledBook.open(directory, log.swarm_id) as kept,
    ):
        pair, tab = _best(reader, policy, log.account, tab_id)
        if amount > tab.amount:
            raise UsageError(f"tab {_name(tab)} promises {tab.amount} ncr, no more can come off it")
        noted = kept.notes(log.account)
        if amount < noted.get(tab_id, 0):  # as much: it was killed before it was logged, or is
            raise UsageError(
                f"{noted[tab_id]} ncr are taken off tab {_name(tab)} already",
                hint="say how much it is in all, with what was credited before",
            )
        signed = (read_settlement(each) for each in kept.between(pair))
        oid = tab.allot_oid
        if any(each.epoch >= tab.epoch and oid in dict(each.claims) for each in signed):
            raise UsageError(f"tab {_name(tab)} is settled by both sides", hint=BACK)
        noted[tab_id] = amount
        if log.asked(oid) > _net(reader, policy, log.account, oid, noted):
            raise UsageError(f"what tab {_name(tab)} promises was taken in already", hint=BACK)
    return CreditNote(session_id=tab_id, amount_cum=amount, reason=reason)


def find_tab(directory: Path, policy: Policy, payee: bytes, prefix: str) -> bytes:
    """The one tab that pays us whose id, or a receipt's of it, begins so.

    Raises:
        UsageError: there is none, or there are several.
    """
    wanted, found = prefix.lower(), set[bytes]()
    if len(wanted) < MIN_PREFIX:
        raise UsageError("too short to name a tab", hint=f"give {MIN_PREFIX} digits or more")
    with LedgerReader.read(directory) as reader:
        for index, _, tab in owed_entries(reader, policy, payee=payee):
            receipt_id = reader.id_at(index) or b""
            if any(id_.hex().startswith(wanted) for id_ in (tab.session_id, receipt_id)):
                found.add(tab.session_id)
    if len(found) != 1:
        which = "no tab that an allotment pays for" if not found else f"{len(found)} tabs"
        raise UsageError(
            f"{which} in this log: {prefix[:64]}",
            hint="list them: manyhands ledger statement --role node --json",
        )
    return found.pop()


def _best(
    reader: LedgerReader, policy: Policy, payee: bytes, tab_id: bytes
) -> tuple[Pair, OwedTab]:
    found = owed_entries(reader, policy, payee=payee, session_id=tab_id)
    best = max(((pair, tab) for _, pair, tab in found), key=lambda each: each[1].rank, default=None)
    if best is None:
        raise UsageError(f"no tab {tab_id.hex()} pays us by an allotment")
    return best


def _net(
    reader: LedgerReader, policy: Policy, payee: bytes, oid: bytes, noted: dict[bytes, int]
) -> int:
    """What all tabs on an allotment come to."""
    best: dict[bytes, OwedTab] = {}
    for _, _, tab in owed_entries(reader, policy, payee=payee):
        known = best.get(tab.session_id)
        if tab.allot_oid == oid and (known is None or known.rank < tab.rank):
            best[tab.session_id] = tab
    return sum(tab.net for tab in with_notes(best.values(), noted))


def _name(tab: OwedTab) -> str:
    return tab.session_id.hex()[:16]

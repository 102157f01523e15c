"""Parts of the ledger page that one look makes: what the page draws without knowing what it is.

In: a ledger of a home, its reader. Out: sections of tiles and rows, where there is anything to
show. A new part is a function here, in `SECTIONS`; the page's script stays as it is. A cell is
text, a number, a peer (`{"peer": id}`) or a bar (`{"bar": share of 1, "text", "tone"}`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ledger.credit_views import credit_views, sync_views
from ledger.debts import Debts
from ledger.findings import FILE_NAME, Findings
from ledger.findings_view import fault_view, standing_view
from ledger.homes import Book
from ledger.lines import peer_name
from ledger.objects import Offer, Statement, Terms, Voucher
from ledger.reader import LedgerReader
from ledger.receipts import Receipt
from ledger.tallies import FILE_NAME as TALLIES
from ledger.tallies import Tallies
from manyhands.costing.budget import view_of as budget_view
from manyhands.costing.floor_file import read_floor
from manyhands.costing.own_price import read_price
from manyhands.home import Home
from protocol.canonical import decode

Section = dict[str, Any]
MOST_OPEN = 50
WARN_SHARE = 0.75  # of a window that is used
FREE = "free"


def sections_of(home: Home, book: Book, reader: LedgerReader) -> list[Section]:
    """Those that have something to show, in order."""
    made = (make(home, book, reader) for make in SECTIONS)
    return [section for section in made if section is not None]


def open_sessions(home: Home, book: Book, reader: LedgerReader) -> Section | None:
    """Tabs that are open now, and how much of what a node works unpaid is used."""
    receipts = reader.open_tabs()[:MOST_OPEN]
    if not receipts:
        return None
    title, rows = "Open sessions", [_open_row(receipt, reader.account) for receipt in receipts]
    if all(row[-1] == FREE for row in rows):
        why = "Sessions that run now. Nobody asks anything for them."
        return _table(title, why, ("Peer", "Blocks"), [row[:2] for row in rows])
    return _table(
        title,
        "What was stated and is not promised yet, of the most that a node works unpaid.",
        ("Peer", "Blocks", "Promised", "Unpaid", "Of the window"),
        rows,
    )


def price(home: Home, book: Book, reader: LedgerReader) -> Section | None:
    """What the node asks when it is told no price, beside what its electricity costs."""
    if book.role != "node":
        return None
    asked, floor = read_price(home), read_floor(home)
    if asked is None and floor is None:
        return None
    rows = []
    for name, part in (("Prompts", "prefill"), ("Answers", "decode")):
        ncr = getattr(asked, part) if asked else 0
        least = getattr(floor.price, part) if floor else None
        times = f"{ncr / least:.2g} times" if least else "–"
        rows.append([name, ncr, "–" if least is None else least, times])
    about = "The floor is not known: manyhands price suggest tells it."
    if floor is not None:
        about = f"The floor is electricity alone, of {floor.model}, measured on {floor.day}."
    title, heads = "Price", ("Of", "Asked", "Electricity floor", "Asked is")
    return _table(title, f"Nanocredits for a million token-layers. {about}", heads, rows)


def budget(home: Home, book: Book, reader: LedgerReader) -> Section | None:
    """What this home's own answers may cost."""
    view = budget_view(home) if book.role == "client" else {}
    if view.get("per_day_ncr") is None and view.get("per_answer_ncr") is None:
        return None
    limit, spent = view["per_day_ncr"], view["spent_today_ncr"]
    tiles = [["An answer, at most", view["per_answer_ncr"]], ["A day, at most", limit]]
    tiles += [["Spent today", spent], ["Held", view["held_ncr"]]]
    return {
        "title": "Budget",
        "why": "Of this home's own answers; a day is one of UTC.",
        "tiles": tiles,
    }


def credit(home: Home, book: Book, reader: LedgerReader) -> Section | None:
    """What an issuer's credit comes to, where the swarm has issuers."""
    rows = [
        [
            {"peer": view["issuer"]},
            view["available_ncr"],
            view["held_ncr"],
            view["allotted_to_us_ncr"],
            "forked" if view["is_forked"] else "sound",
        ]
        for view in credit_views(home.root, [book.role])
    ]
    heads = ("Issuer", "Available", "Held for others", "Set aside for us", "Log")
    return _table("Granted credit", "By the spend logs that this home knows.", heads, rows)


def settled_outside(home: Home, book: Book, reader: LedgerReader) -> Section | None:
    """What was made good in no tab, as the one to whom it was owed signed."""
    if not (book.directory / TALLIES).exists():
        return None
    held, keys = Debts([reader.account], {}), set[bytes]()
    with Tallies.open(book.directory, reader.swarm_id) as tallies:
        for tally, _ in tallies.all():
            held.take(tally)
            if reader.account in (tally.payer, tally.payee):
                keys |= {tally.payer, tally.payee} - {reader.account}
    pairs = ((key, held.with_(key)) for key in sorted(keys))
    rows = [[{"peer": peer_name(key)}, it.got, it.gave] for key, it in pairs if it.got or it.gave]
    why = "In ncr, beside the tabs. What is owed after that: manyhands ledger debts."
    return _table("Settled outside", why, ("Peer", "It settled", "We settled"), rows[:MOST_OPEN])


def spend_logs(home: Home, book: Book, reader: LedgerReader) -> Section | None:
    """The spend logs that are known, and how many witnesses signed how far."""
    rows = [
        [
            {"peer": log["peer"]},
            log["entries"],
            log["counted"],
            f"{log['witnesses']} of {log['quorum']} needed",
            "forked" if log["is_forked"] else "one",
        ]
        for view in sync_views(home.root, [book.role])
        for log in view["logs"]
    ]
    heads = ("Account", "Entries", "That count", "Witnesses", "Versions")
    why = "An entry counts once enough witnesses signed that the log only grew."
    return _table("Spend logs", why, heads, rows)


def audits(home: Home, book: Book, reader: LedgerReader) -> Section | None:
    """What looks at others' work found, by account and profile."""
    rows = []
    for found in _findings(book, reader):
        for key, standing in sorted(found.standings(time.time()).items()):
            view = standing_view(key, standing)
            numbers = (view["passed"], view["failed"], f"{view['reputation']:.0%}")
            rows.append([{"peer": view["peer"]}, view["profile"], *numbers])
    heads = ("Peer", "Profile", "Matched", "Did not", "Reputation")
    why = "Committed work that was computed again elsewhere. Evidence halves in 14 days."
    return _table("Audits", why, heads, rows[:MOST_OPEN])


def faults(home: Home, book: Book, reader: LedgerReader) -> Section | None:
    """Who broke a rule, with proof."""
    rows = []
    for found in _findings(book, reader):
        for kept in found.faults()[:MOST_OPEN]:
            view = fault_view(kept)
            on = view["rests_on"]
            told = on if isinstance(on, str) else f"{len(on)} auditors"
            rows.append([{"peer": view["peer"]}, view["kind"], view["what"], told])
    why = "The evidence: manyhands ledger dispute list."
    return _table("Faults", why, ("Peer", "Kind", "What", "Rests on"), rows)


def _findings(book: Book, reader: LedgerReader) -> Iterator[Findings]:
    if (book.directory / FILE_NAME).exists():
        with Findings.open(book.directory, reader.swarm_id) as found:
            yield found


SECTIONS: Sequence[Callable[[Home, Book, LedgerReader], Section | None]] = (
    *(open_sessions, price, budget, settled_outside, credit, spend_logs, audits, faults),
)


def _open_row(receipt: Receipt, account: bytes) -> list[Any]:
    """Of our own database, whose envelopes were checked when they came."""
    terms = Terms.from_fields(decode(receipt.terms.payload))
    offer = Offer.from_fields(decode(receipt.offer.payload))
    stated = promised = 0
    if receipt.statement is not None:
        stated = offer.price(Statement.from_fields(decode(receipt.statement.payload)).meter)
    if receipt.voucher is not None:
        promised = Voucher.from_fields(decode(receipt.voucher.payload)).amount
    other = terms.payer if terms.payee == account else terms.payee
    unpaid, window = max(0, stated - promised), terms.credit_window
    share = min(1.0, unpaid / window) if window else 0.0
    told = f"{share:.0%} of {window:,}" if window else "none"
    tone = "warn" if share >= WARN_SHARE else "well"
    used = {"bar": round(share, 4), "text": told, "tone": tone}
    return [
        {"peer": peer_name(other)},
        f"{terms.layer_lo}–{terms.layer_hi - 1}",
        promised,
        unpaid,
        FREE if offer.rates.is_free else used,
    ]


def _table(title: str, why: str, heads: Sequence[str], rows: list[list[Any]]) -> Section | None:
    if not rows:
        return None
    return {"title": title, "why": why, "head": list(heads), "rows": rows}

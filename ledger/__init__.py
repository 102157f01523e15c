"""Who did what for whom, and can it be proved?

Two parties open a tab per hop (`propose_terms`, `accept_terms`), keep it with bounded exposure
(`ProviderTab`, `PayerTab`), and close it into a receipt that each appends to its own Merkle log
(`Ledger`). Balances are a pure fold over receipts; `verify_ledger` re-derives all of it. Nothing
here opens a socket, runs an event loop or touches a tensor.
"""

from ledger.balances import Balance, Claim, balances
from ledger.checkpoint import Checkpoint
from ledger.entries import LogEntry, Proof, verify_proof
from ledger.log import Ledger
from ledger.meter import Meter, Rates, Usage, head_rows, lease_quanta, price
from ledger.objects import NO_ASSET, Offer, Route, Statement, Terms, Voucher, tab_id
from ledger.opening import Wanted, accept_terms, check_accepted, lend_prompt, propose_terms
from ledger.reader import LedgerReader
from ledger.receipts import ClosedTab, Receipt, open_receipt
from ledger.report import Failure, Report
from ledger.roots import RowRoot, differing_links
from ledger.tab import PayerTab, ProviderTab
from ledger.verify import verify_ledger
from ledger.writer import LedgerWriter

__all__ = [
    "NO_ASSET",
    "Balance",
    "Checkpoint",
    "Claim",
    "ClosedTab",
    "Failure",
    "Ledger",
    "LedgerReader",
    "LedgerWriter",
    "LogEntry",
    "Meter",
    "Offer",
    "PayerTab",
    "Proof",
    "ProviderTab",
    "Rates",
    "Receipt",
    "Report",
    "Route",
    "RowRoot",
    "Statement",
    "Terms",
    "Usage",
    "Voucher",
    "Wanted",
    "accept_terms",
    "balances",
    "check_accepted",
    "differing_links",
    "head_rows",
    "lease_quanta",
    "lend_prompt",
    "open_receipt",
    "price",
    "propose_terms",
    "tab_id",
    "verify_ledger",
    "verify_proof",
]

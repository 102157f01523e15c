"""What the ledger commands say, as plain values: the same for scripts (`--json`) and for people.

These shapes are a contract for scripts: additions are fine, a change is a new version.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ledger.balances import Balance, Claim, balances
from ledger.checkpoint import Checkpoint
from ledger.entries import Proof, verify_proof
from ledger.homes import Book
from ledger.line_rows import N_ENTRY, line_of
from ledger.line_states import tab_states
from ledger.lines import Line, peer_name
from ledger.noted import Noted, noted_at
from ledger.places import is_there
from ledger.reader import LedgerReader
from ledger.receipts import ClosedTab, open_receipt, receipt_id
from ledger.report import Report
from ledger.spend_books import FILE_NAME as BOOKS_NAME
from ledger.spend_books import SpendBooks
from ledger.statements import EVERYTHING, Choice, Kept, make_statement
from ledger.store import Row
from ledger.swarms import policy_at
from ledger.worth import Worth, decimal_text
from protocol.errors import IntegrityError, UsageError
from protocol.identity import public_key_from_peer_id

Json = dict[str, Any]
Tab = tuple[bytes, bytes, bytes, bytes]

PROOF_SCHEMA = "manyhands/ledger-proof/v1"


def balance_view(
    book: Book, peer: bytes | None = None, asset: bytes | None = None, last: int | None = None
) -> Json:
    """peer, asset: only with this one, in this one. last: of tabs that ended by this day's end."""
    with book.reader() as reader:
        claims = _claims(reader, noted_at(book, reader), last)
        rows = balances(reader.account, claims)
        return balances_view(book, reader, rows_with(rows, peer, asset))


def _claims(reader: LedgerReader, noted: Noted, last: int | None) -> Iterator[Claim]:
    """Up to this day's end by the rule of statements: of several receipts of one tab each counts
    for what it adds to those logged before it, on its own day. So one day's end is the next one's
    beginning, whatever days signers say."""
    highest: Counter[Tab] = Counter()
    later: Counter[Tab] = Counter()
    for entry in reader.entries():
        for claim in noted.less((entry.claim(reader.account),)):
            if last is None:
                yield claim
                continue
            tab = (claim.session_id, claim.payer, claim.payee, claim.asset)
            more = max(0, claim.amount - highest[tab])
            highest[tab] += more
            if entry.epoch > last:
                later[tab] += more
            else:
                yield replace(claim, amount=highest[tab] - later[tab])


def rows_with(
    rows: Sequence[Balance], peer: bytes | None, asset: bytes | None = None
) -> list[Balance]:
    """Those with one counterparty, in one asset, or all."""
    return [row for row in rows if peer in (None, row.counterparty) and asset in (None, row.asset)]


def balances_view(book: Book, reader: LedgerReader, rows: Sequence[Balance]) -> Json:
    """Of what somebody folded who follows the ledger."""
    return balance_rows(book.role, reader.account, len(reader), rows)


def balance_rows(role: str, account: bytes, n_entries: int, rows: Sequence[Balance]) -> Json:
    return {
        "role": role,
        "peer": peer_name(account),
        "entries": n_entries,
        "balances": [_balance(row) for row in rows],
        "earned_ncr": sum(row.earned for row in rows),
        "spent_ncr": sum(row.spent for row in rows),
        "net_ncr": sum(row.net for row in rows),
    }


def _balance(row: Balance) -> Json:
    return {
        "peer": peer_name(row.counterparty),
        "asset": row.asset.hex(),
        "tabs": row.n_tabs,
        "earned_ncr": row.earned,
        "spent_ncr": row.spent,
        "net_ncr": row.net,
    }


def statement_view(
    book: Book, choice: Choice = EVERYTHING, by: str | None = None, worth: Worth | None = None
) -> Json:
    """The tabs of a ledger that are chosen, oldest first, and what they come to: in money, too,
    where a credit is worth some."""
    with book.reader() as reader:
        made = make_statement(kept_by(reader), choice, noted_at(book, reader))
        states, blocks = _states(book, reader), model_blocks(made.lines)
        return {
            "role": book.role,
            "peer": peer_name(reader.account),
            **made.to_json(),
            "model_tokens": model_tokens(made.lines, blocks),
            "credit_ncr": sum(made.credited),
            **({"groups": made.groups(by)} if by else {}),
            **(_money(made.to_json(), worth) if worth else {}),
            "tabs": [
                line.to_json()
                | {"model_tokens": model_tokens([line], blocks)}
                | ({"amount": worth.of(line.amount)} if worth else {})
                | states.get(line.index, {})
                for line in made.lines
            ],
            "open_tabs": reader.n_open_tabs(),
            "head": _head(reader),
        }


def model_blocks(lines: Iterable[Line]) -> dict[bytes, int]:
    """How many blocks models have, by their manifests, as far as these tabs tell: where one ran the
    head, it ran the last block.
    """
    found: dict[bytes, int] = {}
    for line in lines:
        if line.meter.head_tok:
            found[line.manifest] = max(line.layer_hi, found.get(line.manifest, 0))
    return found


def model_tokens(lines: Iterable[Line], blocks: Mapping[bytes, int]) -> str | None:
    """As how many tokens through whole models these count, to 3 places: token-layers by the number
    of blocks. None: how many some model has is not known.
    """
    work: Counter[bytes] = Counter()
    for line in lines:
        work[line.manifest] += line.token_layers
    if any(n and manifest not in blocks for manifest, n in work.items()):
        return None
    parts = (Fraction(n, blocks[manifest]) for manifest, n in work.items() if n)
    return decimal_text(round(1000 * sum(parts, Fraction())), 3)


def _states(book: Book, reader: LedgerReader) -> dict[int, Json]:
    """What became of each tab, by entry, where allotments pay for tabs."""
    policy = policy_at(book.directory.parent)
    if not policy.issuers or not is_there(book.directory, BOOKS_NAME):
        return {}
    with SpendBooks.open(book.directory, reader.swarm_id, policy.quorum()) as books:
        return {
            index: {
                "allotment": each.allot_oid.hex(),
                "state": each.state,
                "unfunded_ncr": each.unfunded,
                "credit_ncr": each.credit,
            }
            for index, each in tab_states(reader, books, policy).items()
        }


def _money(sums: Json, worth: Worth) -> Json:
    """What a statement comes to, as exact decimals of the swarm's currency."""
    names = ("opening", "earned", "spent", "net", "closing")
    held = {name: sums.get(f"{name}_ncr") for name in names}
    amounts = {name: None if ncr is None else worth.of(ncr) for name, ncr in held.items()}
    return {"money": {"currency": worth.currency, **amounts}}


def kept_by(reader: LedgerReader, start: int = 0) -> Iterator[Kept]:
    """What a ledger has from this entry on, in order, for `make_statement`: from accounting rows.

    What has none yet is read from its receipt, and verified: it raises IntegrityError where it does
    not hold. Whether rows say what receipts do is asked of `verify.py`.
    """
    return (_Unread(reader, row) for row in reader.rows(start))


class _Unread:
    """An entry whose line is made, once, when somebody asks for it."""

    __slots__ = (
        "_line", "_reader", "_row",
        "amount", "asset", "counterparty", "earned", "epoch", "tab_id",
    )  # fmt: skip

    def __init__(self, reader: LedgerReader, row: Row) -> None:
        self._reader, self._row = reader, row
        self._line: Line | None = None
        _, _, self.tab_id, self.epoch, payer, payee, self.asset, self.amount = row[:N_ENTRY]
        self.earned = payee == reader.account
        self.counterparty = payer if self.earned else payee

    @property
    def line(self) -> Line:
        if self._line is None:
            reader, row = self._reader, self._row
            is_whole = len(row) > N_ENTRY
            self._line = line_of(reader.account, row) if is_whole else _read(reader, row[1])
        return self._line


def recent_view(book: Book, most: int) -> Json:
    """The latest tabs of a ledger, the newest first, and the tree head that its owner signed."""
    with book.reader() as reader:
        latest = list(kept_by(reader, max(0, len(reader) - most)))
        return {
            "tabs": [kept.line.to_json() for kept in reversed(latest)],
            "open_tabs": reader.n_open_tabs(),
            "head": _head(reader),
        }


def _head(reader: LedgerReader) -> Json | None:
    """The tree head that the log's owner signed last."""
    head = reader.checkpoint()
    return {"origin": head.origin, "size": head.size, "root": head.root.hex()} if head else None


def _read(reader: LedgerReader, id_: bytes) -> Line:
    tab = open_receipt(reader.receipt(id_), reader.swarm_id)
    return Line.of(reader.account, reader.entry(id_), tab)


def report_view(what: str, report: Report) -> Json:
    """what: whose ledger it is, `node` or `client`; or which of its other books."""
    return {
        "role": what,
        "peer": peer_name(report.account),
        "ok": report.holds,
        "entries": report.n_entries,
        "checkpoints": report.n_checkpoints,
        "open_tabs": report.n_open_tabs,
        "pruned": report.n_pruned,
        "failures": [
            {
                "entry": failure.entry,
                "receipt": failure.receipt_id,
                "part": failure.part,
                "reason": failure.reason,
            }
            for failure in report.failures
        ],
    }


def proof_view(account: bytes, swarm_id: bytes, proof: Proof) -> Json:
    """A proof that travels: who holds it needs nothing but to know the owner's peer id."""
    return {
        "schema": PROOF_SCHEMA,
        "peer": peer_name(account),
        "swarm": swarm_id.hex(),
        "entry": proof.index,
        "receipt": receipt_id(proof.receipt, swarm_id).hex(),
        "salt": proof.salt.hex(),
        "body": proof.receipt.hex(),
        "path": [hash_.hex() for hash_ in proof.path],
        "checkpoint": proof.checkpoint,
    }


def check_proof_view(view: object) -> tuple[Checkpoint, ClosedTab]:
    """Read a proof somebody handed over, and check all of it.

    Raises:
        IntegrityError: it proves nothing.
    """
    if not isinstance(view, dict) or view.get("schema") != PROOF_SCHEMA:
        raise IntegrityError(f"this is no {PROOF_SCHEMA}")
    try:
        account = public_key_from_peer_id(view["peer"])
        swarm_id = bytes.fromhex(view["swarm"])
        proof = Proof(
            index=int(view["entry"]),
            salt=bytes.fromhex(view["salt"]),
            receipt=bytes.fromhex(view["body"]),
            path=tuple(map(bytes.fromhex, view["path"])),
            checkpoint=str(view["checkpoint"]),
        )
        tab = verify_proof(proof, account, swarm_id)
        named = bytes.fromhex(view["receipt"])
    except (KeyError, TypeError, ValueError, OverflowError, UsageError) as error:
        raise IntegrityError(f"the proof cannot be read: {error}") from error
    if named != receipt_id(proof.receipt, swarm_id):
        raise IntegrityError("the proof is of another receipt than it names")
    return Checkpoint.open(proof.checkpoint, account), tab

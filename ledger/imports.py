"""Reading an exported statement back: what its lines claim, and the balances they come to.

In: a file that `exports.py` wrote, as CSV, FOCUS or JSON lines. Out: the account and its claims. A
file is only what somebody says: nothing in it is signed, and what is proven travels as a bundle.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from ledger.balances import Claim
from ledger.exports import COLUMNS, CREDIT_NOTE, FOCUS_COLUMNS, TAB
from protocol.canonical import MAX_UINT
from protocol.errors import UsageError
from protocol.identity import public_key_from_peer_id

MAX_LINE_CHARS = 1 << 16
MAX_LINES = 5_000_000


def read_export(path: Path) -> tuple[bytes | None, list[Claim]]:
    """Whose statement it is (None: an empty one says nothing), and what it claims.

    Raises:
        UsageError: which line is not as it was written.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            is_json = file.read(1) in ("{", "")  # an empty statement has no header either
            file.seek(0)
            read = _json_rows if is_json else _csv_rows
            return _claims(path, read(_bounded(file)))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _claims(path: Path, rows: Iterable[Mapping[str, Any]]) -> tuple[bytes | None, list[Claim]]:
    owner: bytes | None = None
    claims = []
    off: defaultdict[Claim, int] = defaultdict(int)  # of tabs, by what is the same of their claims
    for number, row in enumerate(rows, 1):
        try:
            account, claim = _claim(row)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
        if owner not in (None, account):
            raise UsageError(f"{path}, line {number}: it is of another account than those before")
        owner = account
        if claim.amount < 0:
            off[replace(claim, amount=0)] -= claim.amount
        else:
            claims.append(claim)
    less = ((each, off.get(replace(each, amount=0), 0)) for each in claims) if off else ()
    return owner, [replace(c, amount=max(0, c.amount - n)) for c, n in less] if off else claims


def _claim(row: Mapping[str, Any]) -> tuple[bytes, Claim]:
    if not isinstance(row["account"], str) or not isinstance(row["peer"], str):
        raise TypeError("a peer is named by text")
    account, peer = public_key_from_peer_id(row["account"]), public_key_from_peer_id(row["peer"])
    amount = _whole(row["amount_ncr"])
    tab, asset = bytes.fromhex(row["tab"]), bytes.fromhex(row["asset"])
    if row.get("kind", TAB) not in (TAB, CREDIT_NOTE):
        raise ValueError("neither a tab nor a credit note")
    if (amount < 0) != (row.get("kind", TAB) == CREDIT_NOTE):
        raise ValueError("a credit note, and nothing else, takes something off")
    if not abs(amount) <= MAX_UINT or len(tab) != 16 or len(asset) not in (0, 32):
        raise ValueError("an amount, tab or asset that no receipt can have")
    if row["direction"] not in ("earned", "spent"):
        raise ValueError("neither earned nor spent")
    earned = row["direction"] == "earned"
    payer, payee = (peer, account) if earned else (account, peer)
    return account, Claim(tab, payer, payee, asset, amount)


def _whole(told: object) -> int:
    if type(told) is int:
        return told
    if not isinstance(told, str) or not re.fullmatch("-?[0-9]+", told):
        raise ValueError(f"not an amount in ncr: {str(told)[:40]}")
    return int(told)


def _json_rows(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UsageError("a line of it is no JSON object")
        yield row


def _csv_rows(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    rows = csv.reader(lines, strict=True)
    columns = next(rows, None)
    if columns not in (COLUMNS, COLUMNS[:-1], FOCUS_COLUMNS):  # once without `kind`
        raise UsageError(
            "it is no statement: its columns are others",
            hint="make one: manyhands ledger export csv",
        )
    for row in rows:
        if len(row) != len(columns):
            raise UsageError(f"a line has {len(row)} cells instead of {len(columns)}")
        named = dict(zip(columns, row, strict=True))
        yield _from_focus(named) if columns == FOCUS_COLUMNS else named


def _from_focus(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "account": row["BillingAccountId"],
        "peer": row["ProviderName"],
        "direction": "spent",
        "amount_ncr": row["x_AmountNcr"],
        "tab": row["x_TabId"],
        "asset": row["x_Asset"],
        "kind": CREDIT_NOTE if row["ChargeCategory"] == "Credit" else TAB,
    }


def _bounded(file: TextIO) -> Iterator[str]:
    for _ in range(MAX_LINES):
        line = file.readline(MAX_LINE_CHARS + 1)
        if not line:
            return
        if len(line) > MAX_LINE_CHARS:
            raise UsageError("a line of it is longer than any of a statement")
        yield line
    raise UsageError(f"it has more than {MAX_LINES} lines")

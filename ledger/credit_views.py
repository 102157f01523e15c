"""What a home's books say of credit, as plain values: balances, logs, forks.

In: a home of a swarm with issuers. Out: the same for scripts and for people. What is known is what
was heard so far: each says as of which checkpoint, and how many witnesses signed that. These shapes
are a contract for scripts: additions are fine, a change is a new version.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ledger.checkpoint import Checkpoint, origin
from ledger.forks import check_fork
from ledger.homes import ROLES
from ledger.lines import peer_name
from ledger.notes import Note
from ledger.places import open_store
from ledger.policy import Policy
from ledger.report import Report
from ledger.spend_books import SpendBooks
from ledger.spend_log import FILE_NAME as LOG_NAME
from ledger.spend_verify import has_books, has_spend_log, verify_books, verify_spend_log
from ledger.spending import Fault
from ledger.swarms import policy_at, swarm_of
from protocol.canonical import decode
from protocol.key_files import read_public_key

Json = dict[str, Any]
KEY_NAME = "identity.key"


@contextmanager
def books_at(home: Path, role: str) -> Iterator[SpendBooks | None]:
    """None: this party of the home has heard of no spend log."""
    directory = home / role
    if not has_books(directory):
        yield None
        return
    with SpendBooks.open(directory, swarm_of(home)[0], policy_at(home).quorum()) as books:
        yield books


def credit_views(
    home: Path,
    roles: Sequence[str] = ROLES,
    peer: bytes | None = None,
    asset: bytes | None = None,
) -> list[Json]:
    """Of each party: what it has, what is set aside, as of which checkpoint.

    peer: of what is set aside, only what is for this one or from it. asset: only this one.
    """
    policy, views = policy_at(home), []
    assets = [each for each in policy.assets if asset in (None, each)]
    for role in roles if policy.issuers else ():
        key = home / role / KEY_NAME
        with books_at(home, role) as books:
            if books is not None and key.exists():
                account = read_public_key(key)
                views += [_credit(role, account, each, books, peer) for each in assets]
    return views


def _credit(role: str, account: bytes, asset: bytes, books: SpendBooks, peer: bytes | None) -> Json:
    found = books.books()
    allotted = [each for each in found.allotted.values() if each.asset == asset]
    ours = [x for x in allotted if x.payer == account and peer in (None, x.payee)]
    for_us = [x for x in allotted if x.payee == account and peer in (None, x.payer)]
    return {
        "role": role,
        "peer": peer_name(account),
        "account": account.hex(),
        "asset": asset.hex(),
        "issuer": peer_name(asset),
        "available_ncr": found.available.get((account, asset), 0),
        "held_ncr": sum(each.held for each in ours),
        "allotted_to_us_ncr": sum(each.held for each in for_us),
        "as_of": _as_of(account, books),
        "is_forked": account in found.forked,
    }


def _as_of(account: bytes, books: SpendBooks) -> Json | None:
    head = books.shelf.head(account)
    if head is None:
        return None
    return next(log for log in log_views(books) if log["account"] == account.hex())


def log_views(books: SpendBooks) -> list[Json]:
    """Every log that is known, and how far it counts."""
    found, views = books.books(), []
    for head in books.shelf.heads():
        note = books.shelf.fetch(head.account, "checkpoint").decode()
        name = origin(books.swarm_id, head.account, "spend")
        cosigned = books.witnesses.open(note, name, head.account)
        views.append(
            {
                "account": head.account.hex(),
                "peer": peer_name(head.account),
                "entries": head.size,
                "counted": found.counted.get(head.account, 0),
                "root": head.root.hex(),
                "witnesses": len(cosigned.times_s),
                "quorum": books.witnesses.quorum_k,
                "time_s": cosigned.time_s or None,
                "is_forked": head.account in found.forked,
            }
        )
    return sorted(views, key=lambda view: str(view["account"]))


def spending_reports(home: Path, roles: Sequence[str] = ROLES) -> list[tuple[str, Report]]:
    """What verifying each party's spend log and books found, where there are any."""
    policy, swarm_id, found = policy_at(home), swarm_of(home)[0], []
    for role in roles if policy.issuers else ():
        directory, key = home / role, home / role / KEY_NAME
        account = read_public_key(key) if key.exists() else None
        if has_spend_log(directory):
            found.append((f"{role} spend log", verify_spend_log(directory, account, swarm_id)))
        if has_books(directory):
            books = verify_books(directory, account, swarm_id, policy.quorum())
            found.append((f"{role} books", books))
    return found


def sync_views(home: Path, roles: Sequence[str] = ROLES) -> list[Json]:
    """Of each party: its own log, and all that it knows of others'."""
    views = []
    for role in roles:
        with books_at(home, role) as books:
            if books is not None:
                own = _own(home / role)
                forks = [fork_view(fault, books.swarm_id) for fault in books.faults()]
                views.append({"role": role, "own": own, "logs": log_views(books), "forks": forks})
    return views


def _own(directory: Path) -> Json | None:
    """How long our own log is, and how far its witnesses signed it; None: we wrote nothing."""
    if not has_spend_log(directory):
        return None
    with closing(open_store(directory, LOG_NAME)) as store:
        rows = store.execute("SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1")
    if not rows:
        return None
    names = [each.name for each in Note.parse(str(rows[0][1])).signatures[1:]]
    return {"entries": int(rows[0][0]), "cosigned_by": names}


def fork_view(fault: Fault, swarm_id: bytes) -> Json:
    """Who, and the two checkpoints that no one log can have."""
    heads = []
    for piece in fault.evidence:
        note = bytes(decode(piece)[1]).decode()
        head = Checkpoint.parse(Note.parse(note).text)
        heads.append({"entries": head.size, "root": head.root.hex(), "checkpoint": note})
    return {
        "kind": fault.kind,
        "accused": fault.accused.hex(),
        "peer": peer_name(fault.accused),
        "differs_at": check_fork(fault, swarm_id),
        "checkpoints": heads,
        "evidence": [{"what": "side of a fork", "bytes": side.hex()} for side in fault.evidence],
    }


def policy_view(policy: Policy) -> Json:
    return {
        "mode": policy.mode,
        "issuers": [peer_name(issuer) for issuer in policy.issuers],
        "witnesses": [name for name, _ in policy.witnesses],
        "quorum": policy.quorum_k,
        "epoch_s": policy.epoch_s,
        "grace_epochs": policy.grace_epochs,
        "retain_epochs": policy.retain_epochs,
        "holdback_epochs": policy.holdback_epochs,
    }

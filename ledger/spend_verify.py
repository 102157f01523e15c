"""Do a home's spend log and its books still hold? Everything is derived again, and compared.

In: a party's directory. Out: a report that names each entry that does not hold. Of its own log:
each leaf's place, signature and rule, each node of the tree, each checkpoint. Of the books: each
log's leaves against its tree and the checkpoint that a quorum signed, and all balances against the
reference fold of the same leaves. No key is needed, and nothing is changed.
"""

from contextlib import closing
from pathlib import Path

from ledger.beside import read_meta
from ledger.chain import ChainReader
from ledger.checkpoint import origin
from ledger.cosigning import Witnesses, open_head
from ledger.errors import BadObject
from ledger.fold import Branch, fold
from ledger.merkle import appended, leaf_hash, root
from ledger.notes import Note
from ledger.places import is_there, open_store
from ledger.report import Report
from ledger.spend_books import FILE_NAME as BOOKS_NAME
from ledger.spend_books import SpendBooks
from ledger.spend_leaf import NO_LEAF, SpendLeaf
from ledger.spend_log import FILE_NAME as LOG_NAME
from ledger.store import Store
from protocol.errors import IntegrityError

Nodes = dict[tuple[int, int], bytes]


def has_spend_log(directory: Path) -> bool:
    return is_there(directory, LOG_NAME)


def has_books(directory: Path) -> bool:
    return is_there(directory, BOOKS_NAME)


def verify_spend_log(directory: Path, account: bytes | None, swarm_id: bytes) -> Report:
    """
    Raises:
        ConfigError: there is none, or it cannot be opened.
    """
    report = Report(directory, account or b"")
    try:
        with closing(open_store(directory, LOG_NAME)) as store, store.snapshot():
            meta = read_meta(store)
            report.account = account or meta.get("account", b"")
            if (meta.get("account"), meta.get("swarm")) != (report.account, swarm_id):
                report.add("meta", "names another account than its key, or another swarm")
            _OwnLog(store, report, swarm_id).run()
    except IntegrityError as error:
        report.add("database", error)
    return report


class _OwnLog:
    """One pass over the log of the home itself."""

    def __init__(self, store: Store, report: Report, swarm_id: bytes) -> None:
        self._store, self._report, self._swarm_id = store, report, swarm_id
        self._leaves: dict[int, SpendLeaf] = {}
        self._nodes: Nodes = {}

    def run(self) -> None:
        self._check_leaves()
        self._check_nodes()
        self._check_checkpoints()

    def _check_leaves(self) -> None:
        reader = ChainReader(self._report.account, self._swarm_id)
        previous, holds = NO_LEAF, True
        for place, (index, oid, data) in enumerate(
            self._store.execute("SELECT idx, oid, data FROM leaf ORDER BY idx")
        ):
            self._report.n_entries += 1
            hash_ = leaf_hash(data)
            for level, number, node in appended(place, hash_, lambda *at: self._nodes[at]):
                self._nodes[level, number] = node
            try:
                leaf = SpendLeaf.decode(data)
                self._leaves[place] = leaf
                if (leaf.index, leaf.previous, index) != (place, previous, place):
                    raise BadObject("it does not follow the one before")
                if leaf.envelope.object_id(self._swarm_id) != oid:
                    raise BadObject("it is filed under another id")
                if holds:  # after the first that breaks a rule, none counts: one is told
                    reader.read(leaf, lambda at: self._leaves[at])
            except IntegrityError as error:
                holds = False
                self._report.add("leaf", error, place)
            previous = hash_

    def _check_nodes(self) -> None:
        stored: Nodes = {
            (level, index): hash_
            for level, index, hash_ in self._store.execute("SELECT level, idx, hash FROM node")
        }
        for level, index in sorted(stored.keys() | self._nodes.keys()):
            if stored.get((level, index)) != self._nodes.get((level, index)):
                entry = min(index << level, max(0, self._report.n_entries - 1))
                reason = f"node {level}/{index} is not what the entries give"
                self._report.add("tree", reason, entry)

    def _check_checkpoints(self) -> None:
        name = origin(self._swarm_id, self._report.account, "spend")
        latest = 0
        for size, note in self._store.execute("SELECT size, note FROM checkpoint ORDER BY size"):
            self._report.n_checkpoints += 1
            latest = int(size)
            try:
                head = open_head(Note.parse(str(note)), name, self._report.account)
                if head.size != size or size > self._report.n_entries:
                    raise BadObject(f"it is of {head.size} entries, kept as of {size}")
                if head.root != root(size, lambda *at: self._nodes[at]):
                    raise BadObject("its root is not that of the entries")
            except IntegrityError as error:
                self._report.add(f"checkpoint of {size}", error, max(0, int(size) - 1))
        if latest != self._report.n_entries:
            reason = f"the last one is of {latest} entries, there are {self._report.n_entries}"
            self._report.add("checkpoint", reason)


def verify_books(
    directory: Path, account: bytes | None, swarm_id: bytes, witnesses: Witnesses
) -> Report:
    """n_entries: of all logs in the books; n_checkpoints: one for each log.

    Raises:
        ConfigError: there are none, or they cannot be opened.
    """
    report = Report(directory, account or b"")
    try:
        with SpendBooks.open(directory, swarm_id, witnesses) as books:
            _check_books(books, report)
    except IntegrityError as error:
        report.add("database", error)
    return report


def _check_books(books: SpendBooks, report: Report) -> None:
    branches = []
    for account, data in books.shelf.logs():
        report.n_entries += len(data)
        report.n_checkpoints += 1
        leaves = _check_log(books, account, data, report)
        branches.append(Branch(account, tuple(leaves), counts=True))
    ours, again = books.books(), fold(branches, books.swarm_id)
    counted = {account: n for account, n in ours.counted.items() if n}
    if counted != {account: n for account, n in again.counted.items() if n}:
        report.add("balances", "other entries count than the logs give")
    if ours.available != again.available or ours.granted != again.granted:
        report.add("balances", "they are not what the logs give")


def _check_log(
    books: SpendBooks, account: bytes, data: list[bytes], report: Report
) -> list[SpendLeaf]:
    """One account's; its leaves, up to the first that is none."""
    nodes: Nodes = {}
    for place, each in enumerate(data):
        for level, number, node in appended(place, leaf_hash(each), lambda *at: nodes[at]):
            nodes[level, number] = node
    try:
        size, signed = books.shown(account)
        if size != len(data) or signed != root(size, lambda *at: nodes[at]):
            part = f"log of {account.hex()[:16]}"
            reason = "its entries do not give the root that was signed"
            report.add(part, reason, max(0, len(data) - 1))
    except IntegrityError as error:
        report.add(f"log of {account.hex()[:16]}", error)
    leaves = []
    for each in data:
        try:
            leaves.append(SpendLeaf.decode(each))
        except IntegrityError:
            break  # what counts of the log ends here, for everybody
    return leaves

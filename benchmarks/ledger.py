"""What ledgers, spend logs and balances cost here: python -m benchmarks.ledger [--entries N]

Times are of CPU, in one process, so that they mean the same on a busy machine; what waits for the
disk is told as wall time. Entries are made, not signed, where signatures are not what is measured.
"""

import argparse
import random
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path

from benchmarks.receipts import CLIENT, NOW_MS, open_tab, usages
from ledger import Ledger
from ledger.chain import Kind
from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Witness, Witnesses, cosign, with_cosignatures
from ledger.filling import fill_lines
from ledger.homes import Book
from ledger.merkle import (
    appended,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from ledger.reader import FILE_NAME
from ledger.receipts import Receipt, open_bond
from ledger.reconciliation import Answerer, Asker, IdSet
from ledger.spend_books import SpendBooks
from ledger.spend_leaf import NO_LEAF, SpendLeaf
from ledger.spending import Allotment, Grant
from ledger.statements import make_statement
from ledger.store import Store
from ledger.views import kept_by, statement_view
from ledger.witness import AddCheckpoint, WitnessBook
from protocol.signing import OPEN_SWARM_ID, Envelope, SigningKey, signed_bytes, verify

ISSUER, PAYER, PAYEE = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
WITNESSES = tuple(SigningKey.from_seed(bytes([n]) * 32) for n in range(11, 15))
NAMED = tuple(Witness(f"w{i}", key.public_key) for i, key in enumerate(WITNESSES))
N_PROOFS = 2000
OPEN_TABS = 200  # at once, on a busy node


def cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def row(what: str, measured: str, goal: str, holds: bool | None = None) -> None:
    verdict = "" if holds is None else ("yes" if holds else "**no**")
    print(f"| {what} | {measured} | {goal} | {verdict} |", flush=True)


def tree(n: int) -> None:
    """Append n entries of 608 bytes, and prove things about them."""
    nodes: dict[tuple[int, int], bytes] = {}

    def node_at(level: int, index: int) -> bytes:
        return nodes[level, index]

    filler = bytes(600)

    def grow() -> None:
        for size in range(n):
            leaf = leaf_hash(size.to_bytes(8, "big") + filler)
            for level, index, hash_ in appended(size, leaf, node_at):
                nodes[level, index] = hash_

    per_s = n / cpu_s(grow)
    row(f"Merkle append, {n:,} entries of 608 B", f"{per_s:,.0f}/s", "150,000/s", per_s >= 150_000)
    rng, head = random.Random(1), root(n, node_at)
    places = [rng.randrange(n) for _ in range(N_PROOFS)]
    sizes = [rng.randrange(1, n + 1) for _ in range(N_PROOFS)]
    paths = [inclusion_proof(place, n, node_at) for place in places]
    longer = [consistency_proof(size, n, node_at) for size in sizes]
    roots = [root(size, node_at) for size in sizes]
    leaves = [nodes[0, place] for place in places]
    for what, work, goal in (
        ("inclusion proof, make", lambda: [inclusion_proof(p, n, node_at) for p in places], 15_000),
        (
            "inclusion proof, verify",
            lambda: [
                verify_inclusion(leaf, place, n, path, head)
                for leaf, place, path in zip(leaves, places, paths, strict=True)
            ],
            25_000,
        ),
        (
            "consistency proof, make",
            lambda: [consistency_proof(s, n, node_at) for s in sizes],
            None,
        ),
        (
            "consistency proof, verify",
            lambda: [
                verify_consistency(size, n, path, old, head)
                for size, path, old in zip(sizes, longer, roots, strict=True)
            ],
            None,
        ),
    ):
        per_s = N_PROOFS / cpu_s(work)
        goal_text = f"{goal:,}/s" if goal else "-"
        row(f"{what}, at {n:,}", f"{per_s:,.0f}/s", goal_text, per_s >= goal if goal else None)


def spend_leaves(n: int) -> list[bytes]:
    """Allotments of one payer, signed."""
    previous, made = NO_LEAF, []
    for number in range(n):
        envelope = Allotment(
            payer=PAYER.public_key,
            asset=ISSUER.public_key,
            payee=PAYEE.public_key,
            allot_no=number,
            amount=1,
            expires_epoch=1,
        ).seal(OPEN_SWARM_ID, PAYER)
        data = SpendLeaf(number, previous, envelope).encode()
        made.append(data)
        previous = leaf_hash(data)
    return made


def signed(key: SigningKey, leaves: list[bytes]) -> str:
    nodes: dict[tuple[int, int], bytes] = {}
    for size, data in enumerate(leaves):
        for level, index, hash_ in appended(size, leaf_hash(data), lambda lv, ix: nodes[lv, ix]):
            nodes[level, index] = hash_
    name = origin(OPEN_SWARM_ID, key.public_key, "spend")
    head = Checkpoint(name, len(leaves), root(len(leaves), lambda lv, ix: nodes[lv, ix]))
    lines = [
        cosign(head.text(), witness, signer, 1_790_000_000)
        for witness, signer in zip(NAMED, WITNESSES, strict=True)
    ]
    return with_cosignatures(head.sign(key), lines)


def learning(directory: Path, n: int) -> None:
    """Take in a log, then one more entry of it."""
    leaves = spend_leaves(n + 20)
    grant = Grant(
        issuer=ISSUER.public_key,
        account=PAYER.public_key,
        asset=ISSUER.public_key,
        grant_no=0,
        amount=2**40,
    )
    granted = [SpendLeaf(0, NO_LEAF, grant.seal(OPEN_SWARM_ID, ISSUER)).encode()]
    with SpendBooks.open(directory, OPEN_SWARM_ID, Witnesses.of(*NAMED)) as books:
        books.learn(ISSUER.public_key, signed(ISSUER, granted), granted)
        note = signed(PAYER, leaves[:n])
        per_s = n / cpu_s(lambda: books.learn(PAYER.public_key, note, leaves[:n]))
        row(f"spend log taken in, {n:,} entries", f"{per_s:,.0f}/s", "-")
        walls, cpus = [], []
        for size in range(n + 1, n + 21):
            note, more = signed(PAYER, leaves[:size]), leaves[size - 1 : size]
            began, ran = time.perf_counter(), time.process_time()
            books.learn(PAYER.public_key, note, more, start=size - 1)
            walls.append(1000 * (time.perf_counter() - began))
            cpus.append(1000 * (time.process_time() - ran))
        ms = sorted(cpus)[10]
        text = f"{ms:.1f} ms ({sorted(walls)[10]:.1f} ms wall)"
        row("  one entry more, checked, posted, durable", text, "5 ms", ms <= 5)


def folding(directory: Path, n: int) -> None:
    """Balances of n entries: a thousand accounts pay and are paid, one allotment each in turn."""
    with SpendBooks.open(directory, OPEN_SWARM_ID, Witnesses()) as books:
        store = books._store
        n_accounts = 1000
        with store.transaction():
            store.execute_many(
                "INSERT INTO account VALUES (?, ?)",
                ((i, sha256(b"%d" % i).digest()) for i in range(1, n_accounts + 2)),
            )
            issuer, per_log = n_accounts + 1, n // n_accounts // 2
            rows = [
                (issuer, i - 1, 0, int(Kind.GRANT), sha256(b"g%d" % i).digest(), i, issuer, 2**40)
                for i in range(1, n_accounts + 1)
            ]
            places = dict.fromkeys(range(1, n_accounts + 1), 0)
            for number in range(per_log):
                for payer in range(1, n_accounts + 1):
                    payee = payer % n_accounts + 1
                    oid = sha256(b"%d/%d" % (payer, number)).digest()
                    rows.append(
                        (payer, places[payer], 0, int(Kind.ALLOT), oid, payee, issuer, 1000)
                    )
                    places[payer] += 1
                    rows.append((payee, places[payee], 0, int(Kind.LEVEL), oid, payer, issuer, 900))
                    places[payee] += 1
            store.execute_many("INSERT INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            store.execute_many(
                "INSERT INTO log VALUES (?, ?, ?, NULL, 0, '')",
                ((a, size, size) for a, size in {**places, issuer: n_accounts}.items()),
            )
        took = cpu_s(books.refold)
        row(f"all balances folded anew, {len(rows):,} entries", f"{took:.2f} s", "3 s", took <= 3)
        name, asset = sha256(b"7").digest(), sha256(b"%d" % issuer).digest()
        ms = cpu_s(lambda: [books.available(name, asset) for _ in range(1000)])
        row("one balance asked for", f"{ms:.3f} ms", "5 ms", ms <= 5)


def ingesting(directory: Path, n: int) -> None:
    """Closed tabs: decoded, signatures checked, logged under a signed head, durable.

    A stranger's receipt has five signatures: the offer's, that many tabs cite and that is checked
    once, two on the terms, the statement's and the voucher's. The terms of a node's own tabs were
    checked when they were opened, so that filing one checks two: what the goal describes.
    """
    receipts = list(closed(n))

    def file(ledger: Ledger, group: Sequence[bytes]) -> None:
        ledger.append_all([Receipt.decode(data) for data in group])

    with Ledger.open(directory / "foreign", CLIENT, OPEN_SWARM_ID) as ledger:
        foreign_s = sum(cpu_s(partial(file, ledger, group)) for group in batched(receipts, 500))
    own_s = 0.0
    with Ledger.open(directory / "own", CLIENT, OPEN_SWARM_ID) as ledger:
        for group in batched(receipts, OPEN_TABS):
            for data in group:  # as when the tabs were opened
                receipt = Receipt.decode(data)
                open_bond(receipt.offer, receipt.terms, OPEN_SWARM_ID)
            own_s += cpu_s(partial(file, ledger, group))
    for what, took_s in (
        (f"receipts logged, 2 signatures to check, groups of {OPEN_TABS}", own_s),
        ("receipts of others logged, 4 signatures to check, groups of 500", foreign_s),
    ):
        goal = 3000 if took_s is own_s else None
        text = f"{n / took_s:,.0f}/s"
        row(what, text, f"{goal:,}/s" if goal else "-", n / took_s >= goal if goal else None)
    verifying(receipts)
    stating(Book("client", directory / "own"), n)


def closed(n: int) -> Iterator[bytes]:
    for number in range(n):
        payer, provider = open_tab(number.to_bytes(16, "big"))
        used = next(usages()).meter()
        payer.check_statement(
            provider.make_statement(
                used, epoch=0, last_step=0, in_root=bytes(32), out_root=bytes(32), now_ms=NOW_MS
            ),
            now_ms=NOW_MS,
        )
        provider.accept_voucher(payer.make_voucher(used, now_ms=NOW_MS, final=True), now_ms=NOW_MS)
        yield payer.receipt().encode()


def verifying(receipts: Sequence[bytes]) -> None:
    """What of it are signatures, and nothing but."""
    vouchers = [envelope for data in receipts if (envelope := Receipt.decode(data).voucher)]
    signed = [
        (envelope.signatures[0], signed_bytes(envelope.type, OPEN_SWARM_ID, envelope.payload))
        for envelope in vouchers[:N_PROOFS]
    ]
    took_s = cpu_s(lambda: [verify(key, message, sig) for (key, sig), message in signed])
    row("  of that, each signature checked", f"{1e6 * took_s / len(signed):.0f} µs", "-")


def stating(book: Book, n: int) -> None:
    """A statement of all lines: from their rows, as what `--json` prints, and without rows."""

    def state() -> None:
        with book.reader() as reader:
            assert len(make_statement(kept_by(reader)).lines) == n

    def median_ms(work: Callable[[], object]) -> float:
        return 1000 * statistics.median(cpu_s(work) for _ in range(9))

    ms = median_ms(state)
    row(f"statement of {n:,} lines", f"{ms:.0f} ms", "50 ms", ms <= 50)
    ms = median_ms(lambda: statement_view(book))
    row("  with its JSON", f"{ms:.0f} ms", "-")
    with closing(sqlite3.connect(book.directory / FILE_NAME)) as database, database:
        database.execute("DELETE FROM line")
    row("  from receipts, as before there were rows", f"{1000 * cpu_s(state):,.0f} ms", "-")
    store = Store.open(book.directory / FILE_NAME)
    row("  rows written for an older log", f"{n / cpu_s(lambda: fill_lines(store)):,.0f}/s", "-")
    store.close()


def paying(n: int) -> None:
    """A voucher for each statement of one tab, from fields to bytes and back."""
    payer, provider = open_tab(bytes(16))
    sent: list[bytes] = []
    make_s = check_s = 0.0
    for usage, _ in zip(usages(), range(n), strict=False):
        meter = usage.meter()
        roots = {"in_root": bytes(32), "out_root": bytes(32)}
        stated = provider.make_statement(meter, epoch=0, last_step=0, now_ms=NOW_MS, **roots)
        payer.check_statement(stated, now_ms=NOW_MS)
        make_s += cpu_s(lambda m=meter: sent.append(payer.make_voucher(m, now_ms=NOW_MS).encode()))
        check_s += cpu_s(lambda: provider.accept_voucher(Envelope.decode(sent[-1]), now_ms=NOW_MS))
    for what, took_s, goal in (("made", make_s, 150), ("checked", check_s, 250)):
        us = 1e6 * took_s / n
        row(f"voucher {what}", f"{us:.0f} µs", f"{goal} µs", us <= goal)


def reconciling(n: int, n_differences: int = 10) -> None:
    """Two parties with n ids each, nearly the same ones; half the differences on either side."""
    ids = [(number // 5000, sha256(b"%d" % number).digest()) for number in range(n)]
    places = random.Random(3).sample(range(n), n_differences)
    ours, theirs = set(places[::2]), set(places[1::2])
    here = IdSet(each for place, each in enumerate(ids) if place not in ours)
    asker = Asker(here)
    answerer = Answerer(IdSet(each for place, each in enumerate(ids) if place not in theirs))
    n_bytes = 0

    def compare() -> None:
        nonlocal n_bytes
        while not asker.is_over:
            message = asker.message()
            answer = answerer.answer(message)
            asker.take(answer)
            n_bytes += len(message) + len(answer)

    ms = 1000 * cpu_s(compare)
    found = len(asker.lacking | asker.unknown)
    kib, holds = n_bytes / 1024, asker.n_rounds <= 6 and n_bytes <= 32 * 1024
    told = f"{asker.n_rounds} rounds, {kib:.1f} KiB, {ms:.1f} ms for both"
    what = f"reconciliation of {n:,} ids, {found} of {n_differences} differences found"
    row(what, told, "6 rounds, 32 KiB", holds and found == n_differences)


def batched(items: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def witnessing(directory: Path, n: int) -> None:
    leaves = [b"%d" % i for i in range(n)]
    nodes: dict[tuple[int, int], bytes] = {}
    name = origin(OPEN_SWARM_ID, PAYER.public_key, "spend")
    requests = []
    for size, data in enumerate(leaves):
        for level, index, hash_ in appended(size, leaf_hash(data), lambda lv, ix: nodes[lv, ix]):
            nodes[level, index] = hash_
        proof = consistency_proof(size, size + 1, lambda lv, ix: nodes[lv, ix]) if size else []
        head = Checkpoint(name, size + 1, root(size + 1, lambda lv, ix: nodes[lv, ix]))
        requests.append(AddCheckpoint(size, tuple(proof), head.sign(PAYER)).encode())
    book = WitnessBook.open(directory, "w0", WITNESSES[0], {name: PAYER.public_key}.get)
    began = time.perf_counter()
    cpu = cpu_s(lambda: [book.add_checkpoint(AddCheckpoint.parse(r), 0) for r in requests])
    wall = time.perf_counter() - began
    book.close()
    row(
        "checkpoint cosigned, durable",
        f"{1000 * wall / n:.1f} ms wall, {1e6 * cpu / n:.0f} µs CPU",
        "-",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--receipts-only", action="store_true", help="vouchers, receipts, lines")
    given = parser.parse_args()
    n = given.entries
    print("| what | measured (CPU) | goal | holds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        if not given.receipts_only:
            folding(Path(directory, "fold"), n)
            learning(Path(directory, "learn"), min(n, 5000))
            witnessing(Path(directory, "witness"), 200)
        paying(2000)
        ingesting(Path(directory, "receipts"), min(n, 5000))
    if not given.receipts_only:
        tree(n)
        reconciling(n)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nPeak memory: {peak:,.0f} MiB.")


if __name__ == "__main__":
    main()

"""The books on disk are the fold of what they were told, however and in whatever order it came."""

import random
import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Witness, Witnesses, cosign, with_cosignatures
from ledger.errors import BadProof, DamagedLedger, ForeignLedger
from ledger.fold import Branch, TabClaim, fold
from ledger.merkle import appended, inclusion_proof, leaf_hash, root
from ledger.notes import NoteSignature
from ledger.parting import Parting
from ledger.spend_books import FILE_NAME, SpendBooks
from ledger.spend_shelf import PARTING
from ledger.spending import Fault
from protocol.errors import IntegrityError, OutOfMemory
from tests.ledger.logs import worlds
from tests.ledger.spenders import (
    ANN,
    ASSET,
    BEN,
    CY,
    ISSUER,
    SWARM,
    WITNESSES,
    allot,
    chained,
    deposit,
    grant,
    settle,
)

KEYS = {key.public_key: key for key in (ISSUER, ANN, BEN, CY)}
NAMED = [Witness(f"w{i}.example", key.public_key) for i, key in enumerate(WITNESSES)]
NOBODY, FOUR = Witnesses(), Witnesses.of(*NAMED)


def tree(leaves):
    nodes = {}
    for size, data in enumerate(leaves):
        for level, index, hash_ in appended(size, leaf_hash(data), lambda lv, ix: nodes[lv, ix]):
            nodes[level, index] = hash_
    return lambda level, index: nodes[level, index]


def tree_root(leaves):
    return root(len(leaves), tree(leaves))


def signed(account, leaves, signers=()):
    """A checkpoint over these leaves, with the cosignatures of the witnesses of these numbers."""
    head = Checkpoint(origin(SWARM, account, "spend"), len(leaves), tree_root(leaves))
    lines = [cosign(head.text(), NAMED[i], WITNESSES[i], 1_790_000_000) for i in signers]
    return with_cosignatures(head.sign(KEYS[account]), lines)


def learn(books, account, leaves, *, upto=None, start=0, signers=()):
    data = [leaf.encode() for leaf in leaves[:upto]]
    return books.learn(account, signed(account, data, signers), data[start:], start=start)


@contextmanager
def opened(witnesses=NOBODY, at=Path):
    with (
        TemporaryDirectory() as directory,
        SpendBooks.open(at(Path(directory)), SWARM, witnesses) as books,
    ):
        yield books


def compared(books):
    """What both ways say; logs of which nothing counts are told by one of them only."""
    return replace(books, counted={a: n for a, n in books.counted.items() if n})


@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(world=worlds(), random=st.randoms())
def test_9_and_10_balances_in_sql_are_the_fold_after_any_interleaving(at, world, random):
    with opened(at=at) as books:
        logs = {log.account: log.leaves for log in world.branches()}
        known = dict.fromkeys(logs, 0)
        for tab in world.tabs:
            books.claim([tab])
        while open_ := [account for account in logs if known[account] < len(logs[account])]:
            account = random.choice(open_)
            start, known[account] = (
                known[account],
                random.randint(known[account] + 1, len(logs[account])),
            )
            learn(books, account, logs[account], upto=known[account], start=start)
            so_far = [Branch(a, logs[a][:n], True) for a, n in known.items() if n]
            if random.random() < 0.4:
                assert compared(books.books()) == compared(fold(so_far, SWARM, world.tabs))

        whole = fold(world.branches(), SWARM, world.tabs)
        assert compared(books.books()) == compared(whole)
        books.refold()
        assert compared(books.books()) == compared(whole)


@pytest.mark.slow
@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(world=worlds(max_entries=30), random=st.randoms())
def test_9_and_10_at_length(at, world, random):
    test_9_and_10_balances_in_sql_are_the_fold_after_any_interleaving.hypothesis.inner_test(
        at, world, random
    )


@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(world=worlds(max_entries=10), data=st.data())
def test_10_also_when_branches_that_count_part(at, world, data):
    """Without witnesses whoever signs can show two branches; what they share is left."""
    branches = world.branches()
    for log in list(branches):
        if data.draw(st.booleans()):
            kept = data.draw(st.integers(0, len(log.leaves)))
            envelopes = [leaf.envelope for leaf in log.leaves[:kept]]
            other = grant(KEYS[log.account], 7, no=7000, issuer=KEYS[log.account])
            branches.append(Branch(log.account, tuple(chained(*envelopes, other)), True))
    shuffled = data.draw(st.permutations(branches))

    with opened(at=at) as books:
        books.claim(world.tabs)
        for branch in shuffled:
            learn(books, branch.account, branch.leaves)

        assert compared(books.books()) == compared(fold(branches, SWARM, world.tabs))


@settings(deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_10_versions_that_come_in_pieces_are_cut_where_whole_ones_are(at, data):
    """Also where a piece of one is all there is when another comes, which parts before its end."""
    shared = [allot(ANN, CY, 1, no=n) for n in range(data.draw(st.integers(0, 5)))]
    versions = [
        [
            leaf.encode()
            for leaf in chained(
                *shared,
                *(allot(ANN, payee, 2, no=90 + n) for n in range(data.draw(st.integers(1, 6)))),
            )
        ]
        for payee in (BEN, ISSUER)
    ]
    with opened(at=at) as whole, opened(at=at) as pieces:
        for books in (whole, pieces):
            learn(books, ASSET, chained(grant(ANN, 10)))
        for leaves in versions:
            whole.learn(ANN.public_key, signed(ANN.public_key, leaves), leaves)
        for leaves in (*versions, *versions[:1]):
            note, n = signed(ANN.public_key, leaves), len(leaves)
            for stop in sorted(data.draw(st.sets(st.integers(1, n - 1))) if n > 1 else ()):
                path = inclusion_proof(stop - 1, n, tree(leaves))
                pieces.learn(ANN.public_key, note, leaves[:stop], path=path)
            if data.draw(st.booleans()):
                pieces.learn(ANN.public_key, note, leaves)
        for leaves in versions:
            pieces.learn(ANN.public_key, signed(ANN.public_key, leaves), leaves)

        assert pieces.books() == whole.books()
        assert pieces.shelf.fork(ANN.public_key) == whole.shelf.fork(ANN.public_key)
        assert pieces.cut(ANN.public_key) == len(shared)
        parting = Parting.decode(pieces.shelf.fetch(ANN.public_key, PARTING))
        assert parting.index == len(shared)
        with opened(at=at) as told:
            learn(told, ASSET, chained(grant(ANN, 10)))
            if shared:
                assert not told.part(parting)
                told.learn(ANN.public_key, signed(ANN.public_key, versions[0]), versions[0])
            assert told.part(parting)
            assert told.books() == whole.books()


@pytest.mark.slow
@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_10_versions_in_pieces_at_length(data):
    test_10_versions_that_come_in_pieces_are_cut_where_whole_ones_are.hypothesis.inner_test(
        Path, data
    )


def test_a_log_without_a_quorum_changes_no_balance(at):
    leaves = chained(grant(ANN, 100))
    with opened(FOUR, at=at) as books:
        for signers in ((), (0, 1)):
            with pytest.raises(BadProof, match="3 must"):
                learn(books, ASSET, leaves, signers=signers)
        assert books.available(ANN.public_key, ASSET) == 0

        assert learn(books, ASSET, leaves, signers=(0, 1, 3)) == 1
        assert books.available(ANN.public_key, ASSET) == 100


def test_leaves_that_do_not_give_the_root_are_refused_and_nothing_is_kept(at):
    leaves = [leaf.encode() for leaf in chained(grant(ANN, 100), grant(BEN, 5, no=1))]
    note = signed(ASSET, leaves)
    other = [leaf.encode() for leaf in chained(grant(ANN, 100), grant(BEN, 6, no=1))]
    with opened(at=at) as books:
        for start, sent in (
            (0, other),
            (0, leaves[:1]),
            (1, leaves[1:]),
            (0, leaves[::-1]),
            (-1, leaves),
        ):
            with pytest.raises(IntegrityError):
                books.learn(ASSET, note, sent, start=start)
        with pytest.raises(IntegrityError):
            books.learn(ASSET, signed(ANN.public_key, leaves), leaves)

        assert (books.size(ASSET), books.books().available) == (0, {})
        assert books.learn(ASSET, note, leaves) == 2
        assert books.learn(ASSET, note, []) == 2  # known already


def test_what_is_in_the_tree_and_breaks_the_chain_ends_what_counts(at):
    first, second, third = chained(grant(ANN, 1), grant(ANN, 2, no=1), grant(ANN, 4, no=2))
    with opened(at=at) as books:
        learn(books, ASSET, [first])
        data = [first.encode(), b"no leaf", third.encode()]

        assert books.learn(ASSET, signed(ASSET, data), data[1:], start=1) == 1
        data.append(second.encode())
        assert books.learn(ASSET, signed(ASSET, data), data[3:], start=3) == 1
        assert books.available(ANN.public_key, ASSET) == 1


def test_27_two_nodes_that_heard_in_another_order_fund_the_same_allotment(at):
    first, second = allot(ANN, BEN, 60), allot(ANN, CY, 60)
    logs = [(ASSET, chained(grant(ANN, 100))), (ANN.public_key, chained(first, second))]
    winners = []
    for order in (logs, logs[::-1]):
        with opened(FOUR, at=at) as books:
            for account, leaves in order:
                learn(books, account, leaves, signers=(0, 1, 2))
            winners.append(
                [books.allotted(made.object_id(SWARM)) is not None for made in (first, second)]
            )

    assert winners == [[True, False]] * 2


def test_45_a_claim_beyond_an_allotment_is_told_as_unfunded(at):
    made = allot(ANN, BEN, 50)
    oid = made.object_id(SWARM)
    settled = settle(ANN, BEN, (oid, 80))
    with opened(at=at) as books:
        learn(books, BEN.public_key, chained(settled, deposit(BEN, settled, 80)))
        learn(books, ANN.public_key, chained(made))
        books.claim([TabClaim(bytes(16), oid, 2**63 - 1), TabClaim(b"1" * 16, oid, 2**63 - 1)])
        assert books.allotted(oid) is None
        learn(books, ASSET, chained(grant(ANN, 100)))

        told = books.allotted(oid)

        assert (told.deposited, told.claimed, told.unfunded) == (50, 50, 2**64 - 2 - 50)
        assert books.available(BEN.public_key, ASSET) == 50


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("is_cosigned", [False, True])
def test_28_a_second_version_of_a_log_comes_back_as_proof_for_everybody(at, n, is_cosigned):
    """One version is known; another comes: its beginning, one of its size, a longer one."""
    shared = [allot(ANN, BEN, 5)]
    ours = [leaf.encode() for leaf in chained(*shared, allot(ANN, BEN, 60, no=1))]
    shown = chained(*shared, *(allot(ANN, CY, 60, no=i) for i in range(n)))[: n + (n == 4)]
    theirs = [leaf.encode() for leaf in shown]
    signers = (0, 1, 2) if is_cosigned else ()
    with opened(FOUR, at=at) as books, opened(FOUR, at=at) as elsewhere:
        books.learn(ANN.public_key, signed(ANN.public_key, ours, (0, 1, 2)), ours)
        note = signed(ANN.public_key, theirs, signers)
        if is_cosigned:  # too many witnesses lied
            books.learn(ANN.public_key, note, theirs)
            faults = books.faults()
        else:
            found = books.compare(ANN.public_key, note, theirs)
            faults = [found] if found else []

        if n == 1:  # the beginning of ours
            assert faults == books.faults() == []
            return
        assert faults == books.faults()
        elsewhere.believe(faults[0])
        for each in (books, elsewhere):
            assert each.is_forked(ANN.public_key)
            assert not each.is_forked(BEN.public_key)
        assert elsewhere.books().forked == {ANN.public_key}
        assert books.books().counted.get(ANN.public_key, 0) == 0  # nobody granted anything


def test_28_what_is_no_proof_is_not_believed(at):
    leaves = [leaf.encode() for leaf in chained(allot(ANN, BEN, 5))]
    with opened(at=at) as books:
        with pytest.raises(IntegrityError):
            books.believe(Fault(kind="fork", accused=ANN.public_key, evidence=(b"1", b"2")))
        assert books.compare(ANN.public_key, signed(ANN.public_key, leaves), leaves) is None
        learn(books, ANN.public_key, chained(allot(ANN, BEN, 5)))
        with pytest.raises(IntegrityError):
            books.compare(ANN.public_key, signed(BEN.public_key, leaves), leaves)
        assert books.faults() == []


def test_43_books_on_a_full_disk_keep_what_they_had_and_go_on_with_room():
    few, many = chained(grant(ANN, 100)), [grant(ANN, 1, no=i) for i in range(1, 60)]
    with opened() as books:
        learn(books, ASSET, few)
        pages = books._store.execute("PRAGMA page_count")[0][0]
        books._store.execute(f"PRAGMA max_page_count = {pages}")
        theirs = chained(*(allot(ANN, BEN, 1, no=i) for i in range(60)))

        with pytest.raises(OutOfMemory):
            learn(books, ANN.public_key, theirs)
        assert books.books().available == {(ANN.public_key, ASSET): 100}

        books._store.execute("PRAGMA max_page_count = 1000000")
        assert learn(books, ASSET, chained(*many, after=few)) == 60
        assert learn(books, ANN.public_key, theirs) == 60
        assert books.available(ANN.public_key, ASSET) == 99


def test_books_outlive_their_process_and_are_of_one_swarm(home):
    with SpendBooks.open(home, SWARM, NOBODY) as books:
        learn(books, ASSET, chained(grant(ANN, 100)))
    with SpendBooks.open(home, SWARM, NOBODY) as books:
        assert (books.available(ANN.public_key, ASSET), books.size(ASSET)) == (100, 1)
    with pytest.raises(ForeignLedger):
        SpendBooks.open(home, bytes(32), NOBODY)


def test_random_bytes_for_leaves_never_count(at):
    rng = random.Random(7)
    with opened(at=at) as books:
        for _ in range(20):
            data = [rng.randbytes(rng.randint(0, 200)) for _ in range(3)]
            account = ANN.public_key if rng.random() < 0.5 else BEN.public_key
            if books.size(account) == 0:
                assert books.learn(account, signed(account, data), data) == 0


@pytest.mark.parametrize("order", [1, -1])
def test_28_lines_that_somebody_wrote_below_a_checkpoint_hide_no_fork(at, order):
    """Lines under the log's own name, of keys that nobody has, more than an object holds."""
    name = origin(SWARM, ANN.public_key, "spend")
    junk = [NoteSignature(name, bytes([i]) * 4, b"x" * 900) for i in range(40)]
    with opened(FOUR, at=at) as books:
        learn(books, ASSET, chained(grant(ANN, 100)), signers=(0, 1, 2))
        for payee in (BEN, CY)[::order]:  # too many witnesses lied
            leaves = [leaf.encode() for leaf in chained(allot(ANN, payee, 60))]
            note = with_cosignatures(signed(ANN.public_key, leaves, (0, 1, 2)), junk)
            books.learn(ANN.public_key, note, leaves)

        assert books.is_forked(ANN.public_key)
        assert books.books().allotted == {}
        assert books.available(ANN.public_key, ASSET) == 100


SPOILED = [
    "UPDATE leaf SET data = x'00' WHERE acct = ? AND idx = 0",
    "UPDATE leaf SET data = x'00' WHERE acct = ? AND idx = 1",
    "DELETE FROM leaf WHERE acct = ? AND idx = 1",
    "DELETE FROM node WHERE acct = ? AND idx = 1",
    "UPDATE node SET hash = zeroblob(32) WHERE acct = ? AND level = 0 AND idx = 0",
]


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("sends_all", [False, True])
def test_a_disk_that_lost_a_leaf_is_not_taken_for_a_broken_rule(tmp_path, spoil, sends_all):
    made = allot(ANN, BEN, 60)
    settled = settle(ANN, BEN, (made.object_id(SWARM), 50))
    logs = [(ASSET, chained(grant(ANN, 100))), (ANN.public_key, chained(made))]
    bens = chained(settled, grant(CY, 1, issuer=BEN), deposit(BEN, settled, 50))
    with SpendBooks.open(tmp_path, SWARM, NOBODY) as books:
        for account, leaves in logs:
            learn(books, account, leaves)
        learn(books, BEN.public_key, bens, upto=2)
        acct = books._names.find(BEN.public_key)
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute(spoil, (acct,))

    with SpendBooks.open(tmp_path, SWARM, NOBODY) as books:
        before = books.books()
        try:
            learn(books, BEN.public_key, bens, start=0 if sends_all else 2)
        except DamagedLedger:
            assert books.books() == before
        else:  # what was lost was not needed
            assert books.available(BEN.public_key, ASSET) == 50
        assert not books.is_forked(BEN.public_key)


def test_a_log_that_was_cut_is_cut_again_without_reading_it_anew(at):
    """And what is left is what a fold of all branches leaves, also after it was reopened."""
    base = chained(*(grant(BEN, 1, issuer=ANN, no=i) for i in range(40)))
    branches = [Branch(ANN.public_key, tuple(base), True)]
    with opened(at=at) as books:
        learn(books, ANN.public_key, base)
        for cut in range(39, 9, -1):
            other = chained(grant(CY, 2, issuer=ANN, no=1000 + cut), after=base[:cut])
            learn(books, ANN.public_key, other, start=cut)
            branches.append(Branch(ANN.public_key, tuple(other), True))
            if cut in (39, 32, 17, 10):
                assert compared(books.books()) == compared(fold(branches, SWARM))
        assert books._store.execute("SELECT count(*) FROM node")[0][0] == 10 + 5 + 2 + 1
        learn(books, ANN.public_key, base[:10])
        books.refold()
        assert books.available(BEN.public_key, ANN.public_key) == 10


def test_what_a_judgement_reads_does_not_grow_with_the_accounts_known():
    """Counted in instructions of the database, hundreds at a time."""
    made, read = allot(ANN, BEN, 60), []
    with opened() as books:
        learn(books, ASSET, chained(grant(ANN, 100)))
        learn(books, ANN.public_key, chained(made))
        for n in (0, 5000):
            rows = [(i.to_bytes(32, "big"),) for i in range(n)]
            books._store.execute_many("INSERT INTO account (name) VALUES (?)", rows)
            ticks: list[int] = []
            books._store._connection.set_progress_handler(partial(ticks.append, 1), 100)
            assert books.allotted(made.object_id(SWARM)).free == 60
            books._store._connection.set_progress_handler(None, 0)
            read.append(len(ticks))

    assert read[1] <= read[0] + 2

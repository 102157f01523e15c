"""Hearing of spend logs: long ones over several visits, and two versions that a quorum signed."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import spend_reading
from ledger.cosigning import Witnesses
from ledger.errors import BadProof
from ledger.fold import Branch, fold
from ledger.merkle import inclusion_proof
from ledger.notes import Note
from ledger.parting import Parting
from ledger.spend_books import SpendBooks
from ledger.spend_learning import Learner
from ledger.spend_log import SpendLog
from ledger.spend_news import Changes
from ledger.spend_shelf import PARTING, Forked
from ledger.spend_words import NEWS, PUBLISH, Known, Published, Since, Wanted
from node import hearing
from node.hearing import hear, publish
from protocol.errors import PeerMisbehaved, PeerRefused, UsageError
from tests.ledger.spenders import ANN, ASSET, BEN, CY, DOT, ISSUER, SWARM, allot, chained, grant
from tests.ledger.test_spend_books import NAMED, compared, signed, tree_root

ONE = Witnesses.of(NAMED[0])  # who lies, where it signs two versions
ANNS = ANN.public_key


class Peer:
    """What a node knows and tells; also the connection by which others ask it."""

    def __init__(self, directory, name, stack):
        self.peer_id, self.heard, self.calls = name, {}, []
        self.books = stack.enter_context(SpendBooks.open(directory / name, SWARM, ONE))
        self.learner, self.shelf = Learner(self.books), self.books.shelf
        self.changes = Changes(name.encode().rjust(8), self.shelf)
        self.books.watch(self.changes.look)

    def learn(self, account, leaves):
        data = [leaf.encode() for leaf in leaves]
        self.books.learn(account, signed(account, data, (0,)), data)

    async def call(self, method, request, *, timeout_s):
        self.calls.append((method, request))
        if method == NEWS:
            return self.changes.since(Since.decode(request)).encode()
        if method == PUBLISH:
            learned = self.learner.take(Published.decode(request))
            if learned.error is not None and not learned.is_forked:
                raise PeerRefused("", str(learned.error))
            return Known(learned.size, learned.is_forked).encode()
        wanted = Wanted.decode(request)
        try:
            if wanted.path == hearing.FAULT_PATH:
                return self.shelf.fault(wanted.account) or b""
            return self.shelf.fetch(wanted.account, wanted.path)
        except UsageError as error:
            raise PeerRefused("", str(error)) from error

    def hear(self, other):
        since = self.heard.get(other.peer_id, Since())
        self.heard[other.peer_id] = asyncio.run(hear(other, self.learner, since))


@pytest.fixture
def peers(tmp_path):
    with ExitStack() as stack:
        yield lambda *names: [Peer(tmp_path, name, stack) for name in names]


@pytest.fixture
def in_pieces(monkeypatch):
    """Limits that a log of hundreds of entries is beyond, as a long one is beyond the real ones."""
    monkeypatch.setattr(spend_reading, "PIECE", 256)
    monkeypatch.setattr(spend_reading, "MAX_GROWTH", 256)
    monkeypatch.setattr(hearing, "PIECE", 200)


GRANTS = chained(*(grant(ANN, 1, no=number) for number in range(700)))


def test_a_log_that_is_far_ahead_is_learned_over_several_visits(peers, in_pieces):
    old, new = peers("old", "new")
    old.learn(ASSET, GRANTS)
    old.learn(BEN.public_key, chained(grant(CY, 5, issuer=BEN)))

    sizes = []
    for _ in range(3):
        new.hear(old)
        sizes.append((new.books.size(ASSET), new.books.available(ANNS, ASSET)))
        assert new.books.size(BEN.public_key) == 1  # others wait for none of it

    assert sizes == [(256, 256), (512, 512), (700, 700)]
    assert new.books.books() == old.books.books()
    assert new.shelf.heads() == old.shelf.heads()
    asked = len(old.calls)
    new.hear(old)
    assert len(old.calls) == asked + 1  # nothing is new


def test_what_is_known_of_a_log_so_far_is_told_only_up_to_what_was_signed(peers, in_pieces):
    """It grew from what they know: that is served on, and what is beyond it when it is whole."""
    old, new, third = peers("old", "new", "third")
    old.learn(ASSET, GRANTS[:100])
    new.hear(old)
    old.learn(ASSET, GRANTS)
    new.hear(old)

    third.hear(new)
    assert (new.books.size(ASSET), third.books.size(ASSET)) == (512, 100)
    new.hear(old)
    third.hear(new)
    third.hear(new)
    third.hear(new)
    assert third.books.books() == old.books.books()


def test_a_long_log_is_published_in_pieces_from_where_it_is_known(peers, in_pieces, tmp_path):
    (node,) = peers("node")
    with SpendLog.open(tmp_path / "own", ISSUER, SWARM) as own:
        own.append(*(leaf.envelope for leaf in GRANTS))
        lines = Note.parse(signed(ASSET, own.leaves(), (0,))).signatures
        own.add_cosignatures(lines, ONE)

        known = asyncio.run(publish(node, own))

    assert (known.size, known.is_forked) == (700, False)
    assert node.books.available(ANNS, ASSET) == 700
    assert [len(Published.decode(each).leaves) for _, each in node.calls] == [0, 200, 200, 200, 100]


def test_pieces_that_are_no_beginning_of_what_was_signed_are_refused(peers):
    node, whole = peers("node", "whole")
    data = [leaf.encode() for leaf in GRANTS]
    note = signed(ASSET, data, (0,))
    other = [leaf.encode() for leaf in chained(*(grant(BEN, 1, no=n) for n in range(700)))]
    whole.books.learn(ASSET, note, data)
    _, tree = whole.books.tree(ASSET)
    path = inclusion_proof(299, 700, tree)

    for leaves, shown in (
        (other[:300], path),
        ([*other[:299], data[299]], path),
        (data[:299], path),
        (data[:300], path[:-1]),
        (data[:300], [bytes(32) for _ in path]),
        ([], path),
    ):
        with pytest.raises(BadProof):
            node.books.learn(ASSET, note, leaves, path=shown)
    assert node.books.size(ASSET) == 0
    node.books.learn(ASSET, note, data[:300], path=path)
    assert node.books.size(ASSET) == 300
    assert node.shelf.heads() == []


def test_who_serves_other_leaves_than_were_signed_is_caught_at_the_first_piece(peers, in_pieces):
    liar, new = peers("liar", "new")
    liar.learn(ASSET, GRANTS)
    honest = liar.shelf.fetch
    liar.shelf.fetch = lambda *asked: honest(*asked).replace(b"mh/grant/1", b"mh/grant/2")

    with pytest.raises(PeerMisbehaved):
        new.hear(liar)
    assert new.books.size(ASSET) == 0


def versions(shared, *payees, more=2):
    """Branches of Ann's log that part after `shared` entries."""
    common = chained(*(allot(ANN, DOT, 1, no=n) for n in range(shared)))
    return [
        chained(*(allot(ANN, payee, 3, no=900 + n) for n in range(more)), after=common)
        for payee in payees
    ]


def test_both_versions_that_a_quorum_signed_end_at_one_place_for_everybody(peers):
    a, b, late = peers("a", "b", "late")
    to_ben, to_cy = versions(2, BEN, CY)
    for each in (a, b):
        each.learn(ASSET, chained(grant(ANN, 100)))
    a.learn(ANNS, to_ben)
    b.learn(ANNS, to_cy)

    a.hear(b)
    b.hear(a)
    late.hear(b)

    assert a.books.books() == b.books.books() == late.books.books()
    assert a.books.available(ANNS, ASSET) == 98
    assert late.shelf.forked() == [Forked(ANNS, 2)]
    shown = Parting.decode(late.shelf.fetch(ANNS, PARTING))
    assert shown.check(ONE, SWARM) == tree_root([leaf.encode() for leaf in to_ben[:2]])


@st.composite
def hearings(draw):
    """Branches of one account that a lying quorum signed, who knows which, and who hears whom."""
    branches = [chained()]
    for number in range(draw(st.integers(2, 4))):
        base = draw(st.sampled_from(branches))
        kept = base[: draw(st.integers(0, len(base)))]
        fresh = [allot(ANN, DOT, 1 + number, no=100 * number + n) for n in range(1, 4)]
        branches.append(chained(*fresh[: draw(st.integers(1, 3))], after=kept))
    known = [draw(st.integers(0, len(branches) - 1)) for _ in range(4)]
    known[: len(branches) - 1] = range(1, min(5, len(branches)))
    order = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
    return branches, known, order


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(case=hearings())
def test_10_nodes_that_heard_versions_in_any_order_end_with_the_fold_of_all_of_them(case):
    branches, known, order = case
    grants = chained(grant(ANN, 10))
    with TemporaryDirectory() as directory, ExitStack() as stack:
        nodes = [Peer(Path(directory), f"n{n}", stack) for n in range(5)]
        for node, which in zip(nodes, known, strict=False):  # the last one knows nothing
            node.learn(ASSET, grants)
            if branches[which]:
                node.learn(ANNS, branches[which])
        for one, other in order:
            nodes[one].hear(nodes[other])
        for _ in range(3):
            for one in nodes:
                for other in nodes:
                    one.hear(other)

        told = {tuple(branches[which]) for which in known if branches[which]}
        whole = [Branch(ANNS, leaves, counts=True) for leaves in told]
        expected = fold([Branch(ASSET, tuple(grants), counts=True), *whole], SWARM)
        for node in nodes:
            found = compared(node.books.books())
            assert (found.available, found.counted) == (
                expected.available,
                {account: n for account, n in expected.counted.items() if n},
            )
            assert found.forked == expected.forked

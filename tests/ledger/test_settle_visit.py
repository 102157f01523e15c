"""Payer and payee settle from two logs: what differs is handed over, what was killed goes on."""

import sqlite3
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger, LedgerReader
from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Witnesses
from ledger.credit_notes import find_tab, make_note
from ledger.errors import BadObject, NotAgreed
from ledger.fold import Branch, fold
from ledger.merkle import appended, leaf_hash, root
from ledger.meter import Meter
from ledger.objects import Voucher
from ledger.policy import OPEN_POLICY
from ledger.pruning import plan
from ledger.reader import FILE_NAME
from ledger.settle_desk import MAX_OF_A_TAB, SettleDesk
from ledger.settle_visit import Visit
from ledger.settle_words import GIVE, PROPOSE, SIGNED, TABS, TAKE, Asked, Page, Proposed
from ledger.settled import SettledBook, read_settlement
from ledger.settling import OwedTab, Pair
from ledger.spend_books import SpendBooks
from ledger.spend_leaf import SpendLeaf
from ledger.spend_log import SpendLog
from protocol.canonical import MAX_UINT, decode, encode
from protocol.errors import IntegrityError, ManyhandsError, PeerBusy, PeerRefused, UsageError
from protocol.signing import Envelope
from tests.ledger.logs import branch
from tests.ledger.parties import CLIENT, NOW_MS, PROVIDER, STRANGER, SWARM, closed_receipt
from tests.ledger.spenders import ASSET, ISSUER, allot, chained, grant

ALLOTTED = allot(CLIENT, PROVIDER, 5000)
OID = ALLOTTED.object_id(SWARM)
PAIR = Pair(CLIENT.public_key, PROVIDER.public_key, ASSET)
TODAY = OPEN_POLICY.epoch_of(NOW_MS)


def receipt(number, positions=20, *, oid=OID):
    return closed_receipt(
        positions,
        nonce=bytes([number]) * 16,
        asset=ASSET,
        allot_oid=oid,
        checkpoint_hash=bytes(32),
    )


class Side:
    """One party's home: its log, and how it files what it is handed."""

    def __init__(self, directory, key, *receipts):
        self.directory, self.key = directory, key
        self.epoch = TODAY + 1
        self.file(*receipts)

    def file(self, *receipts):
        with Ledger.open(self.directory, self.key, SWARM) as ledger:
            ledger.append_all(receipts)

    def desk(self):
        rules = (self.directory, self.key, SWARM, OPEN_POLICY)
        return SettleDesk(*rules, lambda: self.epoch, self.file)

    def visit(self, epoch=TODAY):
        return Visit(self.directory, self.key, SWARM, OPEN_POLICY, PAIR, epoch, self.file)

    def credit(self, tab, amount):
        with SpendLog.open(self.directory, self.key, SWARM) as log:
            note = make_note(self.directory, OPEN_POLICY, log, tab, amount, "too slow")
            with SettledBook.open(self.directory, SWARM) as kept:
                kept.note(self.key.public_key, [(tab, amount)])
            log.append(note.seal(SWARM, self.key))

    def settled(self):
        with SettledBook.open(self.directory, SWARM) as kept:
            return [read_settlement(each) for each in kept.of(self.key.public_key)]

    def spent(self):
        """The leaves of its spend log."""
        with SpendLog.open(self.directory, self.key, SWARM) as log:
            return [SpendLeaf.decode(data) for data in log.leaves()]

    def n_receipts(self):
        with LedgerReader.read(self.directory) as reader:
            return len(reader)


@pytest.fixture
def sides(tmp_path):
    def make(ours, theirs):
        return Side(tmp_path / "a", CLIENT, *ours), Side(tmp_path / "b", PROVIDER, *theirs)

    return make


def talk(payer, payee, *, upto=None, spoil=None):
    """All of a visit, or its first requests; what was settled. spoil: what the answers become."""
    steps, desk, told = payer.visit().steps(), payee.desk(), None
    try:
        for _ in range(upto if upto is not None else 1000):
            asked = steps.send(told)
            ask = partial(desk.answer, CLIENT.public_key, asked)
            told = spoil(asked, ask) if spoil else ask()
            desk.deposit()
    except StopIteration as done:
        return done.value
    steps.close()
    return None


def learn(books, who, leaves):
    """Books without witnesses hear of a log: what its owner signed counts."""
    data = [leaf.encode() for leaf in leaves]
    nodes = {}
    for size, each in enumerate(data):
        for level, index, hash_ in appended(size, leaf_hash(each), lambda lv, ix: nodes[lv, ix]):
            nodes[level, index] = hash_
    top = root(len(data), lambda lv, ix: nodes[lv, ix])
    head = Checkpoint(origin(SWARM, who.public_key, "spend"), len(data), top)
    books.learn(who.public_key, head.sign(who), data)


def earned(payee):
    """What the payee has, by the books that everybody keeps."""
    logs = [
        branch(ISSUER, grant(CLIENT, 9000)),
        branch(CLIENT, ALLOTTED),
        Branch(PROVIDER.public_key, tuple(payee.spent()), True),
    ]
    return fold(logs, SWARM).available.get((PROVIDER.public_key, ASSET), 0)


def test_both_sides_sign_one_settlement_and_the_payee_deposits_it(sides):
    payer, payee = sides([receipt(1), receipt(2)], [receipt(1), receipt(2)])

    (made,) = talk(payer, payee)

    assert payer.settled() == payee.settled() == [made]
    assert (made.net, made.n_sessions) == (368, 2)
    assert earned(payee) == 368


def test_settling_again_changes_nothing_and_more_tabs_add_what_they_add(sides):
    payer, payee = sides([receipt(1)], [receipt(1)])
    talk(payer, payee)
    before = len(payee.spent())

    assert talk(payer, payee) == payer.settled()
    assert len(payee.spent()) == before
    for side in (payer, payee):
        side.file(receipt(2))
    talk(payer, payee)

    assert (earned(payee), len(payee.spent())) == (368, before + 2)


def test_who_lacks_a_receipt_or_has_a_lower_one_is_handed_it(sides):
    """The payer lost the last window of one tab, the payee of another; one tab each has alone."""
    payer, payee = sides(
        [receipt(1, 12), receipt(2, 20), receipt(3)], [receipt(1, 20), receipt(2, 15), receipt(4)]
    )

    (made,) = talk(payer, payee)

    assert (made.n_sessions, made.net, earned(payee)) == (4, 4 * 184, 4 * 184)
    assert payer.n_receipts() == payee.n_receipts() == 5


def test_killed_after_any_request_the_next_visit_ends_the_same(sides, tmp_path):
    ours, theirs = [receipt(1, 12), receipt(3)], [receipt(1, 20), receipt(4)]
    for n in (1, 3, 4, 6):
        payer = Side(tmp_path / f"{n}a", CLIENT, *ours)
        payee = Side(tmp_path / f"{n}b", PROVIDER, *theirs)
        talk(payer, payee, upto=n)

        (made,) = talk(payer, payee)

        assert payer.settled()[-1] == payee.settled()[-1] == made
        assert earned(payee) == made.net == 3 * 184


def test_killed_before_the_deposit_the_payee_makes_it_the_next_time(sides):
    payer, payee = sides([receipt(1)], [receipt(1)])
    talk(payer, payee, upto=2)  # the payee has it, and has deposited it
    with SettledBook.open(payee.directory, SWARM) as kept:
        (envelope,) = kept.of(PROVIDER.public_key)
    other = Side(payee.directory.parent / "c", PROVIDER, receipt(1))
    with SettledBook.open(other.directory, SWARM) as kept:
        kept.add(envelope)

    assert [other.desk().deposit() for _ in range(2)] == [184, 0]
    assert earned(other) == earned(payee) == 184


def test_an_epoch_that_is_not_over_is_not_settled(sides):
    payer, payee = sides([receipt(1)], [receipt(1)])
    payee.epoch = TODAY

    with pytest.raises(PeerBusy, match="is not over"):
        talk(payer, payee)
    assert payer.settled() == []


def test_a_payee_whose_log_grew_between_two_questions_is_busy_and_the_next_visit_settles(sides):
    payer, payee = sides([receipt(1)], [receipt(1)])

    def grow(asked, ask):
        told = ask() if Asked.decode(asked).kind == PROPOSE else None
        if told:
            payee.file(receipt(2))
        return told or ask()

    with pytest.raises(PeerBusy, match="another settlement by now"):
        talk(payer, payee, spoil=grow)
    talk(payer, payee)
    assert payee.settled()[-1] == payer.settled()[-1]
    assert earned(payee) == 368


def test_34_a_payee_that_proposes_more_than_our_log_gives_gets_no_signature(sides):
    payer, payee = sides([receipt(1)], [receipt(1)])

    def inflate(asked, ask):
        if Asked.decode(asked).kind != PROPOSE:
            return ask()
        (envelope,) = Proposed.decode(ask()).settlements
        said = read_settlement(envelope)
        more = replace(said, gross=said.gross + 1, net=said.net + 1)
        return Proposed((more.seal(SWARM, PROVIDER),)).encode()

    with pytest.raises(BadObject, match="another gross"):
        talk(payer, payee, spoil=inflate)
    assert payer.settled() == []


def test_tabs_that_nobody_can_show_are_named(sides):
    payer, payee = sides([receipt(1)], [receipt(1)])
    ghost = OwedTab(b"\x01" * 16, OID, TODAY, 99, Meter(9))

    def haunt(asked, ask):
        kind = Asked.decode(asked).kind
        if kind == TABS:
            return Page(tuple(sorted([*Page.decode(ask()).tabs, ghost])), True).encode()
        return Proposed(()).encode() if kind == PROPOSE else receipt(1).encode()

    with pytest.raises(NotAgreed, match="tab 0101010101010101: we have no receipt of it"):
        talk(payer, payee, spoil=haunt)


def test_credit_that_the_payee_gives_is_settled_on_both_sides(sides):
    payer, payee = sides([receipt(1), receipt(2)], [receipt(1), receipt(2)])
    payee.credit(receipt(1).session_id, 40)
    payee.credit(receipt(1).session_id, 84)

    (made,) = talk(payer, payee)

    assert (made.gross, made.credit, made.net) == (368, 84, 284)
    assert earned(payee) == 284


def test_credit_is_of_what_was_promised_and_is_not_settled(sides):
    payer, payee = sides([receipt(1), receipt(2)], [receipt(1), receipt(2)])
    tab = receipt(1).session_id
    payee.credit(tab, 84)

    for amount, why in ((185, "promises 184 ncr"), (83, "84 ncr are taken off"), (84, "already")):
        with pytest.raises(UsageError, match=why):
            payee.credit(tab, amount)
    with pytest.raises(UsageError, match="no tab"):
        payee.credit(bytes(16), 1)
    talk(payer, payee)
    with pytest.raises(UsageError, match="settled by both sides"):
        payee.credit(tab, 100)
    assert earned(payee) == 284


def test_credit_comes_too_late_for_what_was_collected(sides):
    _, payee = sides([receipt(1)], [receipt(1)])
    payee.epoch = TODAY + 9
    assert payee.desk().collect() == 184

    with pytest.raises(UsageError, match="taken in already"):
        payee.credit(receipt(1).session_id, 1)


def test_a_tab_is_named_by_its_id_or_a_receipts(sides):
    _, payee = sides([], [receipt(1), receipt(2)])
    named = (payee.directory, OPEN_POLICY, payee.key.public_key)
    tab, other = (receipt(n) for n in (1, 2))

    for text in (
        tab.session_id.hex(),
        tab.session_id.hex()[:8].upper(),
        tab.receipt_id(SWARM).hex()[:20],
    ):
        assert find_tab(*named, text) == tab.session_id
    for text in ("00" * 16, "01", "nonsense"):
        with pytest.raises(UsageError):
            find_tab(*named, text)
    assert other.session_id != tab.session_id


def test_46_who_never_comes_to_settle_pays_by_its_vouchers_after_the_grace(sides):
    _, payee = sides([receipt(1)], [receipt(1), receipt(2), receipt(2, 9)])

    assert payee.desk().collect() == 0
    payee.epoch = TODAY + OPEN_POLICY.grace_epochs + 1
    assert [payee.desk().collect() for _ in range(2)] == [368, 0]
    assert earned(payee) == 368


def test_46_what_was_settled_is_not_collected_again(sides):
    payer, payee = sides([receipt(1)], [receipt(1)])
    talk(payer, payee)
    payee.file(receipt(2))
    payee.epoch = TODAY + 9

    assert payee.desk().collect() == 184
    assert earned(payee) == 368


def test_a_desk_reads_each_receipt_once_and_hears_of_those_that_came_since(sides):
    _, payee = sides([], [receipt(1), receipt(2)])
    desk = payee.desk()

    def tabs():
        return Page.decode(desk.answer(CLIENT.public_key, Asked(TABS, TODAY, ASSET).encode())).tabs

    assert len(tabs()) == 2
    with sqlite3.connect(payee.directory / FILE_NAME) as database:
        database.execute("DELETE FROM body")  # who reads them again finds none
    assert len(tabs()) == 2
    payee.file(receipt(1, 30), receipt(3))
    assert {tab.amount for tab in tabs()} == {184, 264}
    assert (len(tabs()), desk.is_owed()) == (3, True)


def dated(receipt, epoch, *, seq=1):
    """The same, with its last voucher signed anew."""
    said = Voucher.from_fields(decode(receipt.voucher.payload))
    issued_ms = min(epoch * OPEN_POLICY.epoch_s * 1000, MAX_UINT)
    again = replace(said, seq=said.seq + seq, issued_ms=issued_ms)
    return replace(receipt, voucher=again.seal(SWARM, CLIENT))


def hand(desk, receipt):
    return desk.answer(CLIENT.public_key, Asked(TAKE, data=receipt.encode()).encode())


@pytest.mark.parametrize("epoch", [TODAY + 2, MAX_UINT], ids=["tomorrow", "the year 292 million"])
def test_46_a_payer_that_dates_its_vouchers_ahead_puts_nothing_off(sides, epoch):
    """Neither by a receipt that it hands over nor by one that got into the log."""
    _, payee = sides([], [receipt(1), receipt(2), receipt(3)])
    with pytest.raises(BadObject, match="is over"):
        hand(payee.desk(), dated(receipt(1), epoch))

    payee.file(dated(receipt(1), epoch))
    payee.epoch = TODAY + OPEN_POLICY.grace_epochs + 1

    assert payee.desk().collect() == 3 * 184
    assert earned(payee) == 3 * 184


def test_46_a_tab_that_is_promised_more_for_later_is_due_when_it_ended(sides):
    _, payee = sides([], [receipt(1), receipt(2)])
    payee.epoch = TODAY + OPEN_POLICY.grace_epochs + 1
    hand(payee.desk(), dated(receipt(1, 30), TODAY + 1))

    assert (payee.desk().collect(), earned(payee)) == (264 + 184, 264 + 184)


def test_a_tab_that_is_not_due_yet_keeps_no_other_from_being_collected(sides):
    _, payee = sides([], [receipt(1)])
    payee.file(dated(receipt(2), TODAY + 9))
    payee.epoch = TODAY + OPEN_POLICY.grace_epochs + 1

    assert (payee.desk().collect(), earned(payee)) == (184, 184)
    payee.epoch = TODAY + 9 + OPEN_POLICY.grace_epochs + 1
    assert (payee.desk().collect(), earned(payee)) == (184, 368)


def test_receipts_that_add_nothing_are_not_logged_and_of_a_tab_only_a_few_are(sides):
    _, payee = sides([], [receipt(1)])
    desk = payee.desk()

    for n in range(5):
        hand(desk, dated(receipt(1), TODAY, seq=n))
    assert payee.n_receipts() == 1
    for n in range(1, MAX_OF_A_TAB):
        hand(desk, receipt(1, 20 + n))
    with pytest.raises(PeerRefused, match="receipts enough"):
        hand(desk, receipt(1, 40))
    assert payee.n_receipts() == MAX_OF_A_TAB


def test_46_a_payer_that_stops_settling_pays_for_later_tabs_after_settled_ones_were_pruned(sides):
    payer, payee = sides([receipt(1, 60)], [receipt(1, 60)])
    talk(payer, payee)
    paid = earned(payee)
    payee.epoch = TODAY + OPEN_POLICY.retain_epochs + OPEN_POLICY.holdback_epochs + 5
    with LedgerReader.read(payee.directory) as reader:
        reader.forget(plan(reader, OPEN_POLICY, payee.settled(), payee.epoch).bodies)
    payee.file(receipt(2))

    assert (payee.desk().collect(), earned(payee)) == (184, paid + 184)


def test_what_an_allotment_has_left_goes_back_once_it_ended_and_all_tabs_are_paid(sides, tmp_path):
    _, payee = sides([receipt(1)], [receipt(1)])
    made = allot(CLIENT, PROVIDER, 5000, expires_epoch=TODAY)  # the same but for its last epoch
    ended = made.object_id(SWARM)
    with SpendBooks.open(tmp_path / "books", SWARM, Witnesses()) as books:
        learn(books, ISSUER, chained(grant(CLIENT, 9000)))
        learn(books, CLIENT, chained(made))
        desk = payee.desk()
        for epoch in (TODAY + 1, TODAY + 2):
            payee.epoch = epoch
            assert desk.release(books) == 0
        payee.epoch = TODAY + 3

        assert desk.release(books, is_dry=True) == 5000
        assert payee.spent() == []
        assert [desk.release(books) for _ in range(2)] == [5000, 0]
        learn(books, PROVIDER, payee.spent())
        assert (books.available(CLIENT.public_key, ASSET), desk.release(books)) == (9000, 0)
        assert books.allotted(ended).returned == 5000
        assert books.given_back(PROVIDER.public_key) == books.released() == {ended}


def test_what_tabs_claim_and_nobody_paid_is_not_given_back(sides, tmp_path):
    oid = allot(CLIENT, PROVIDER, 5000, expires_epoch=TODAY).object_id(SWARM)
    _, payee = sides([], [receipt(1, oid=oid)])
    payee.epoch = TODAY + 9
    with SpendBooks.open(tmp_path / "books", SWARM, Witnesses()) as books:
        learn(books, ISSUER, chained(grant(CLIENT, 9000)))
        learn(books, CLIENT, chained(allot(CLIENT, PROVIDER, 5000, expires_epoch=TODAY)))
        desk = payee.desk()

        assert desk.release(books) == 0
        assert (desk.collect(), desk.release(books)) == (184, 5000 - 184)


def test_others_neither_learn_nor_sign_nor_hand_over_anything(sides):
    payer, payee = sides([receipt(1)], [receipt(1)])
    talk(payer, payee)
    (settlement,) = payer.settled()
    both = settlement.seal(SWARM, CLIENT, PROVIDER)
    desk, stranger = payee.desk(), STRANGER.public_key

    told = desk.answer(stranger, Asked(PROPOSE, TODAY, ASSET).encode())
    assert Proposed.decode(told).settlements == ()
    told = desk.answer(stranger, Asked(TABS, TODAY, ASSET).encode())
    assert Page.decode(told).tabs == ()
    for asked in (
        Asked(SIGNED, data=both.encode()),
        Asked(TAKE, data=receipt(5).encode()),
        Asked(GIVE, data=receipt(1).session_id),
    ):
        with pytest.raises((BadObject, PeerRefused)):
            desk.answer(stranger, asked.encode())
    assert payee.n_receipts() == 1


def test_many_tabs_are_compared_page_by_page():
    tabs = [OwedTab(n.to_bytes(16, "big"), OID, 7, n, Meter(n)) for n in range(1, 1001)]

    found, pages = [], []
    while not pages or not pages[-1].is_last:
        after = found[-1].session_id if found else b""
        pages.append(Page.decode(Page.of(tabs, after).encode()))
        found += pages[-1].tabs

    assert (found, len(pages)) == (tabs, 3)


@settings(deadline=None, max_examples=80)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.lists(
            st.one_of(st.integers(0, 6), st.binary(max_size=33), st.booleans(), st.none()),
            max_size=5,
        ).map(encode),
    )
)
def test_whatever_is_asked_the_answer_is_a_typed_refusal(tmp_path_factory, data):
    payee = Side(tmp_path_factory.getbasetemp() / "fuzz", PROVIDER)

    with suppress(ManyhandsError):
        payee.desk().answer(STRANGER.public_key, data)
    for read in (Proposed.decode, Page.decode, Envelope.decode):
        with suppress(IntegrityError):
            read(data)

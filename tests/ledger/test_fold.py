"""Balances are a fold over a set of logs: monotone, conserving, deaf to what nobody cosigned."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.chain import read_chain
from ledger.fold import TabClaim, fold
from protocol.canonical import MAX_UINT
from tests.ledger.logs import PEOPLE, branch, forks, worlds
from tests.ledger.spenders import (
    ANN,
    ASSET,
    BEN,
    CY,
    DOT,
    ISSUER,
    SWARM,
    allot,
    chained,
    credit_note,
    deposit,
    grant,
    release,
    settle,
)

quickly = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])


def left(books, who, asset=ASSET):
    return books.available.get((who.public_key, asset), 0)


def oid(envelope):
    return envelope.object_id(SWARM)


@quickly
@given(worlds(), st.randoms())
def test_1_the_order_of_logs_does_not_matter(world, random):
    logs = world.branches()

    shuffled = fold(
        random.sample(logs, len(logs)), SWARM, random.sample(world.tabs, len(world.tabs))
    )

    assert shuffled == fold(logs, SWARM, world.tabs)


@quickly
@given(worlds(), st.data())
def test_2_and_3_repeated_and_partly_known_logs_change_nothing(world, data):
    """Beginnings of a log are what others knew of it earlier: merged in, they say nothing new."""
    logs = world.branches()
    earlier = [
        type(log)(log.account, log.leaves[: data.draw(st.integers(0, len(log.leaves)))], True)
        for log in logs
    ]
    whole = fold(logs, SWARM, world.tabs)

    assert fold(logs + logs, SWARM, world.tabs + world.tabs) == whole
    assert fold(earlier + logs, SWARM, world.tabs) == whole
    assert fold(logs[1:] + earlier + logs[:1], SWARM, world.tabs) == whole


@quickly
@given(worlds(), st.data())
def test_4_and_5_every_part_of_a_set_conserves_credit_and_nothing_is_negative(world, data):
    logs = [
        type(log)(log.account, log.leaves[: data.draw(st.integers(0, len(log.leaves)))], True)
        for log in world.branches()
        if data.draw(st.booleans())
    ]

    books = fold(logs, SWARM, world.tabs)

    for asset in {*books.granted, *(made.asset for made in books.allotted.values())}:
        available = sum(n for (_, held), n in books.available.items() if held == asset)
        held = sum(made.held for made in books.allotted.values() if made.asset == asset)
        assert available + held == books.granted.get(asset, 0)
    assert all(amount > 0 for amount in books.available.values())
    for made in books.allotted.values():
        assert min(made.held, made.deposited, made.returned, made.claimed, made.unfunded) >= 0
        assert made.claimed <= made.amount - made.returned


def test_6_the_fold_ends_where_skipping_what_is_too_dear_would_go_on_for_ever():
    """Ann can pay the 20 only if Ben's 10 came in, which she paid him if she could not."""
    dear, cheap = allot(ANN, CY, 20, no=1), allot(ANN, BEN, 10, no=2)
    back = allot(BEN, ANN, 10, no=3)
    ann = settle(BEN, ANN, (oid(back), 10))
    ben = settle(ANN, BEN, (oid(cheap), 10))
    logs = [
        branch(ISSUER, grant(ANN, 10)),
        branch(ANN, ann, deposit(ANN, ann, 10), dear, cheap),
        branch(BEN, ben, deposit(BEN, ben, 10), back),
    ]

    books = fold(logs, SWARM)

    assert books.counted == {
        ISSUER.public_key: 1,
        ANN.public_key: 2,  # up to the first that she cannot afford
        BEN.public_key: 2,
    }
    assert (left(books, ANN), books.allotted) == (10, {})


@quickly
@given(worlds(), st.sampled_from(PEOPLE), st.integers(1, 50))
def test_7_one_more_grant_takes_no_funded_allotment_away(world, who, amount):
    before = fold(world.branches(), SWARM, world.tabs)

    world.entries[ISSUER].append(grant(who, amount, no=5000))
    after = fold(world.branches(), SWARM, world.tabs)

    assert before.allotted.keys() <= after.allotted.keys()
    assert all(after.counted[account] >= n for account, n in before.counted.items())


@quickly
@given(worlds(), st.data())
def test_7_a_higher_voucher_takes_no_funded_allotment_away(world, data):
    before = fold(world.branches(), SWARM, world.tabs)
    raised = [
        TabClaim(tab.session_id, tab.allot_oid, tab.amount + data.draw(st.integers(0, 50)))
        for tab in world.tabs
    ]

    after = fold(world.branches(), SWARM, raised)

    assert (before.available, before.counted) == (after.available, after.counted)
    assert all(after.allotted[k].claimed >= made.claimed for k, made in before.allotted.items())


@quickly
@given(worlds(), st.data())
def test_8_what_a_quorum_cosigned_survives_whatever_nobody_did(world, data):
    before = fold(world.branches(), SWARM, world.tabs)

    after = fold(world.branches() + data.draw(forks(world)), SWARM, world.tabs)

    assert (before.available, before.allotted) == (after.available, after.allotted)
    assert before.counted.items() <= after.counted.items()


def test_8_a_fork_that_nobody_cosigned_marks_who_made_it():
    logs = [branch(ISSUER, grant(ANN, 10)), branch(ANN, allot(ANN, BEN, 10))]

    books = fold([*logs, branch(ANN, allot(ANN, CY, 10), counts=False)], SWARM)

    assert books.forked == {ANN.public_key}
    assert [made.payee for made in books.allotted.values()] == [BEN.public_key]
    assert fold(logs, SWARM).forked == frozenset()


def test_8_of_two_branches_that_both_count_only_what_they_share_does():
    """Too many witnesses lied, or there are none: no branch may win by coming first."""
    shared, one, two = allot(ANN, BEN, 3), allot(ANN, BEN, 5, no=1), allot(ANN, CY, 6, no=2)
    logs = [
        branch(ISSUER, grant(ANN, 10)),
        branch(ANN, shared, one, allot(ANN, BEN, 1, no=9)),
        branch(ANN, shared, two),
    ]

    for some in (logs, logs[::-1]):
        books = fold(some, SWARM)
        assert list(books.allotted) == [oid(shared)]
        assert books.forked == {ANN.public_key}


def test_27_of_two_allotments_beyond_the_funds_the_first_in_the_log_wins_everywhere():
    first, second = allot(ANN, BEN, 60), allot(ANN, CY, 60)
    logs = [branch(ISSUER, grant(ANN, 100)), branch(ANN, first, second)]

    for some in (logs, logs[::-1], [*logs, branch(ANN, first)]):
        books = fold(some, SWARM)
        assert list(books.allotted) == [oid(first)]
        assert left(books, ANN) == 40


def test_45_what_a_payee_claims_beyond_an_allotment_is_unfunded_and_hurts_nobody():
    greedy, modest = allot(ANN, BEN, 50), allot(ANN, CY, 30, no=1)
    settled, fair = settle(ANN, BEN, (oid(greedy), 80)), settle(ANN, CY, (oid(modest), 20))
    logs = [
        branch(ISSUER, grant(ANN, 100)),
        branch(ANN, greedy, modest),
        branch(BEN, settled, deposit(BEN, settled, 80)),
        branch(CY, fair, deposit(CY, fair, 20)),
    ]

    books = fold(logs, SWARM, [TabClaim(bytes(16), oid(greedy), 90)])

    made = books.allotted[oid(greedy)]
    assert (made.deposited, made.claimed, made.unfunded, made.held) == (50, 50, 40, 0)
    assert [left(books, who) for who in (ANN, BEN, CY)] == [20, 50, 20]
    assert books.allotted[oid(modest)].held == 10


def test_what_a_payee_gives_back_is_its_payers_to_spend():
    whole, more = allot(ANN, BEN, 100), allot(ANN, CY, 60)
    settled = settle(ANN, BEN, (oid(whole), 40))
    taken = (settled, deposit(BEN, settled, 40))
    logs = [branch(ISSUER, grant(ANN, 100)), branch(ANN, whole, more)]

    assert list(fold([*logs, branch(BEN, *taken)], SWARM).allotted) == [oid(whole)]
    books = fold([*logs, branch(BEN, *taken, release(BEN, whole, 0))], SWARM)

    assert [left(books, who) for who in (ANN, BEN)] == [0, 40]  # deposited is deposited
    assert books.allotted[oid(whole)].returned == 60
    assert books.allotted[oid(more)].held == 60


def test_what_was_given_back_cannot_be_claimed_again():
    whole = allot(ANN, BEN, 100)
    settled = settle(ANN, BEN, (oid(whole), 90))
    logs = [
        branch(ISSUER, grant(ANN, 100)),
        branch(ANN, whole),
        branch(BEN, release(BEN, whole, 30), settled, deposit(BEN, settled, 90)),
    ]

    books = fold(logs, SWARM)

    made = books.allotted[oid(whole)]
    assert (made.deposited, made.returned, made.held) == (30, 70, 0)
    assert [left(books, who) for who in (ANN, BEN)] == [70, 30]


def test_who_is_not_the_payee_can_neither_claim_nor_give_back():
    whole = allot(ANN, BEN, 100)
    settled = settle(ANN, CY, (oid(whole), 90))
    logs = [
        branch(ISSUER, grant(ANN, 100)),
        branch(ANN, whole),
        branch(CY, settled, deposit(CY, settled, 90), release(CY, whole, 0)),
    ]

    books = fold(logs, SWARM)

    assert (left(books, CY), left(books, ANN), books.allotted[oid(whole)].held) == (0, 0, 100)


def test_a_settlement_with_somebody_else_takes_nothing_from_an_allotment():
    """Cy and Ben agree that Ann owes Ben: Ann signed nothing."""
    whole = allot(ANN, BEN, 100)
    settled = settle(CY, BEN, (oid(whole), 90))
    logs = [
        branch(ISSUER, grant(ANN, 100)),
        branch(ANN, whole),
        branch(BEN, settled, deposit(BEN, settled, 90)),
    ]

    assert left(fold(logs, SWARM), BEN) == 0


def test_credit_notes_take_off_what_vouchers_promise():
    whole = allot(ANN, BEN, 100)
    tab, other = bytes(16), b"1" * 16
    logs = [
        branch(ISSUER, grant(ANN, 100)),
        branch(ANN, whole),
        branch(BEN, credit_note(BEN, tab, 30), credit_note(BEN, tab, 10)),
    ]
    tabs = [TabClaim(tab, oid(whole), n) for n in (20, 50)] + [TabClaim(other, oid(whole), 7)]

    assert fold(logs, SWARM, tabs).allotted[oid(whole)].claimed == 27


def test_credit_goes_round_through_many_hands():
    """Grants to Ann, on to Ben, Cy and Dot: each pays with what the one before deposited."""
    logs, purse = [branch(ISSUER, grant(ANN, 100))], ()
    for payer, payee, amount in ((ANN, BEN, 80), (BEN, CY, 60), (CY, DOT, 50)):
        made = allot(payer, payee, amount)
        logs.append(branch(payer, *purse, made))
        settled = settle(payer, payee, (oid(made), amount))
        purse = (settled, deposit(payee, settled, amount))
    logs.append(branch(DOT, *purse))

    for some in (logs, logs[::-1]):
        books = fold(some, SWARM)
        assert [left(books, who) for who in (ANN, BEN, CY, DOT)] == [20, 20, 10, 50]


def test_what_breaks_a_rule_ends_what_counts_of_a_log():
    made = allot(ANN, BEN, 5)
    settled = settle(BEN, ANN, (bytes(32), 9))
    for broken in (
        made,  # the same object again
        grant(ANN, 5, issuer=CY),  # in another's log
        deposit(ANN, None, 5),  # cites nothing
        deposit(ANN, settled, 9),  # cites what is not in the log
    ):
        logs = [branch(ISSUER, grant(ANN, 10)), branch(ANN, made, broken, allot(ANN, CY, 1))]

        assert fold(logs, SWARM).counted[ANN.public_key] == 1
    for amount in (8, 10):
        entries = chained(settled, deposit(ANN, settled, amount))
        assert len(read_chain(ANN.public_key, entries, SWARM)) == 1


def test_42_an_issuer_cannot_grant_beyond_what_a_balance_can_hold():
    logs = [branch(ISSUER, grant(ANN, MAX_UINT - 5), grant(ANN, 5, no=1), grant(BEN, 1, no=2))]

    books = fold(logs, SWARM)

    assert books.counted[ISSUER.public_key] == 2
    assert (left(books, ANN), left(books, BEN)) == (MAX_UINT, 0)

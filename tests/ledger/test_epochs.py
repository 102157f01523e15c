"""Epochs are the witnesses' word: whose own clock is wrong sees the same ones."""

from ledger.cosigning import cosign, with_cosignatures
from ledger.epochs import epoch_now, is_due
from ledger.notes import Note
from ledger.policy import OPEN_POLICY, Policy
from tests.ledger.spenders import ANN, ASSET, ISSUER, WITNESSES, chained, grant
from tests.ledger.test_spend_books import FOUR, NAMED, opened, signed

DAY_S = 86_400
NOW_S = 20_000 * DAY_S + 100
POLICY = Policy(
    name="ours",
    mode="granted",
    assets=(ASSET,),
    issuers=(ISSUER.public_key,),
    witnesses=tuple((each.name, each.public_key) for each in NAMED),
    quorum_k=3,
    epoch_s=DAY_S,
    grace_epochs=1,
    retain_epochs=30,
    max_skew_ms=120_000,
    audit_ppm=0,
    holdback_epochs=1,
    min_version=1,
)


def told(books, times_s, n=1):
    """An issuer's log of so many entries, cosigned at these times by as many witnesses."""
    leaves = [leaf.encode() for leaf in chained(*(grant(ANN, 5, no=i) for i in range(n)))]
    note = signed(ASSET, leaves)
    text = Note.parse(note).text
    lines = [cosign(text, NAMED[i], WITNESSES[i], time_s) for i, time_s in enumerate(times_s)]
    books.learn(ASSET, with_cosignatures(note, lines), leaves)


def test_41_a_clock_that_is_a_day_off_changes_no_epoch_and_no_balance():
    found = []
    for off_s in (0, DAY_S, -DAY_S):
        with opened(FOUR) as books:
            told(books, [NOW_S, NOW_S + 3, NOW_S + 9])
            epoch = epoch_now(POLICY, books, 1000 * (NOW_S + off_s))
            found.append((epoch, books.available(ANN.public_key, ASSET)))

    assert found == [(20_000, 5)] * 3


def test_41_a_witness_whose_clock_is_off_moves_nobodys_epoch():
    for lie_s in (0, NOW_S - DAY_S, NOW_S + DAY_S, 2**62):
        with opened(FOUR) as books:
            told(books, [NOW_S, lie_s, NOW_S + 9])
            assert epoch_now(POLICY, books, 0) == 20_000


def test_epochs_do_not_go_back_and_lag_behind_rather_than_run_ahead():
    with opened(FOUR) as books:
        assert epoch_now(POLICY, books, 1000 * NOW_S) == 0
        told(books, [NOW_S] * 3, n=2)
        told(books, [NOW_S - DAY_S] * 3, n=1)
        assert epoch_now(POLICY, books, 0) == 20_000
    assert epoch_now(POLICY, None, 1000 * NOW_S) == 0


def test_without_witnesses_ones_own_clock_is_all_there_is():
    assert epoch_now(OPEN_POLICY, None, 1000 * NOW_S) == 20_000


def test_an_epoch_is_settled_once_its_grace_is_over():
    assert [is_due(POLICY, 20_000, now) for now in (20_000, 20_001, 20_002)] == [False, False, True]

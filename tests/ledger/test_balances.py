"""Balances are a fold over a set: order, repetition and grouping do not matter."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Balance, Claim, balances

ACCOUNTS = [bytes([n]) * 32 for n in range(4)]

pairs = st.permutations(ACCOUNTS).map(lambda order: order[:2])
claims = st.lists(
    st.builds(
        lambda tab, pair, asset, amount: Claim(bytes([tab]) * 16, *pair, asset, amount),
        st.integers(0, 5),
        pairs,
        st.sampled_from([b"", b"a" * 32]),
        st.integers(0, 10**12),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(claims, st.randoms())
def test_the_order_of_claims_does_not_matter(claims, random):
    shuffled = random.sample(claims, len(claims))

    assert balances(ACCOUNTS[0], shuffled) == balances(ACCOUNTS[0], claims)


@settings(deadline=None)
@given(claims, claims)
def test_repeating_or_merging_claims_does_not_matter(some, others):
    once = balances(ACCOUNTS[0], some + others)

    assert balances(ACCOUNTS[0], some + others + some) == once
    assert balances(ACCOUNTS[0], others + some) == once


@settings(deadline=None)
@given(claims)
def test_what_one_earns_another_spends(claims):
    total = 0
    for account in ACCOUNTS:
        for balance in balances(account, claims):
            mirror = [
                other
                for other in balances(balance.counterparty, claims)
                if (other.counterparty, other.asset) == (account, balance.asset)
            ]
            assert (mirror[0].earned, mirror[0].spent) == (balance.spent, balance.earned)
            total += balance.net

    assert total == 0


@settings(deadline=None)
@given(claims)
def test_nothing_is_ever_negative(claims):
    assert all(min(b.earned, b.spent) >= 0 for b in balances(ACCOUNTS[0], claims))


def test_25_of_several_claims_on_one_tab_the_highest_counts():
    me, you = ACCOUNTS[:2]
    claims = [Claim(b"tab-" * 4, you, me, b"", amount) for amount in (5, 9, 7)]

    assert balances(me, claims) == [Balance(you, b"", earned=9, spent=0, n_tabs=1)]
    assert balances(you, claims) == [Balance(me, b"", earned=0, spent=9, n_tabs=1)]


def test_claims_between_others_are_not_ours():
    assert balances(ACCOUNTS[0], [Claim(b"t" * 16, ACCOUNTS[1], ACCOUNTS[2], b"", 5)]) == []

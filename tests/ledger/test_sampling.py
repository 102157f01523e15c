"""How often work is looked at again, what it takes to catch a cheat, and whom to trust how far."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from ledger.reputation import HALF_LIFE_S, UNSEEN, Standing, beta_quantile
from ledger.sampling import deters, is_sampled, rate_ppm, windows_needed

# facts: N for 99 %, of who cheats on a share of its windows, at a sensitivity of .95
PLANNED = {
    0.001: (484_753, 48_474, 9_693, 4_846),
    0.01: (48_474, 4_846, 968, 483),
    0.05: (9_693, 968, 192, 95),
    0.20: (2_422, 241, 47, 22),
}


@pytest.mark.parametrize("rate", PLANNED)
def test_the_windows_that_catch_a_cheat_are_those_of_the_design(rate):
    shares = (0.01, 0.10, 0.50, 1.0)
    found = tuple(windows_needed(rate, share, 0.95, 0.99) for share in shares)

    assert all(abs(n - planned) <= 1 for n, planned in zip(found, PLANNED[rate], strict=True))


@pytest.mark.parametrize(("at_stake", "least"), [(10, 0.053), (100, 0.0053), (2000, 0.0003)])
def test_a_cheat_that_has_more_to_lose_is_deterred_by_fewer_looks(at_stake, least):
    assert deters(least * 1.01, 0.95, at_stake, 0.5)
    assert not deters(least * 0.8, 0.95, at_stake, 0.5)


def test_37_a_cheat_is_caught_within_the_planned_windows_in_96_of_100_runs():
    planned, caught_by = windows_needed(0.05, 1.0, 0.95, 0.99), []
    for seed in range(100):
        nonce, luck = seed.to_bytes(16, "big"), random.Random(seed)
        for window in range(3 * planned):
            is_looked_at = is_sampled(nonce, bytes(32), window, 50_000)
            if is_looked_at and luck.random() < 0.95:
                caught_by.append(window + 1)
                break

    assert sum(n <= planned for n in caught_by) >= 96
    assert len(caught_by) == 100


def test_the_choice_of_windows_follows_from_nonce_and_statement_and_has_the_rate():
    chosen = [n for n in range(20_000) if is_sampled(b"nonce", bytes(32), n, 50_000)]

    assert chosen == [n for n in range(20_000) if is_sampled(b"nonce", bytes(32), n, 50_000)]
    assert 900 < len(chosen) < 1100
    assert chosen != [n for n in range(20_000) if is_sampled(b"other", bytes(32), n, 50_000)]
    assert not any(is_sampled(b"nonce", bytes(32), n, 0) for n in range(1000))
    assert all(is_sampled(b"nonce", bytes(32), n, 1_000_000) for n in range(1000))


def test_the_new_and_the_suspect_are_looked_at_more_and_nobody_never():
    rates = [rate_ppm(Standing(passed=n), 1_000) for n in (0, 25, 50, 100, 10_000)]

    assert rates[0] == 200_000
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 5_000
    assert rate_ppm(Standing(passed=100), 1_000, is_suspect=True) == 50_000
    assert rate_ppm(UNSEEN, 1_000, is_suspect=True) == 1_000_000
    assert rate_ppm(Standing(passed=1e9), 1) == 5_000
    assert rate_ppm(Standing(passed=1e9), 10_000) == 10_000
    assert rate_ppm(UNSEEN, 0) == 0


@given(st.floats(1, 5_000), st.floats(1, 500), st.floats(0.01, 0.99))
def test_the_bound_is_that_of_the_beta_distribution(a, b, share):
    assert beta_quantile(share, a, b) == pytest.approx(beta.ppf(share, a, b), abs=1e-9)


def test_trust_grows_with_good_looks_falls_with_bad_ones_and_fades():
    seen = UNSEEN
    trust = [seen.reputation]
    for _ in range(50):
        seen = seen.after(True, 0.0)
        trust.append(seen.reputation)
    one_bad = seen.after(False, 0.0)
    later = seen.aged(HALF_LIFE_S)

    assert trust[0] == pytest.approx(0.05)
    assert trust == sorted(trust)
    assert trust[-1] > 0.94
    assert one_bad.reputation < seen.reputation - 0.03
    assert later.passed == pytest.approx(25)
    assert trust[0] < later.reputation < seen.reputation


@given(st.permutations([(True, 0.0), (False, 9e5), (True, 2e6), (True, 5e5), (False, 1e6)]))
def test_the_order_in_which_looks_are_heard_of_does_not_matter(looks):
    seen = UNSEEN
    for is_match, at_s in looks:
        seen = seen.after(is_match, at_s)

    assert seen.at_s == 2e6
    assert seen.passed == pytest.approx(
        1 + 0.5 ** (2e6 / HALF_LIFE_S) + 0.5 ** (1.5e6 / HALF_LIFE_S)
    )

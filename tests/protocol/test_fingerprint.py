"""Fingerprints: what they tell of two parties' rows, and what they refuse to be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError, IntegrityError
from protocol.fingerprint import Distance, compare, sketch
from protocol.fp_profile import FingerprintProfile, Thresholds
from protocol.redrawing import shortfall
from protocol.sampling import SamplingParams, sample
from protocol.windows import BUCKETS, WINDOW, Window, windows_of


def rows_of(seed: int, n: int = WINDOW, hidden_size: int = 768) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, hidden_size)).astype(np.float32)


def window_of(rows: np.ndarray, start: int = 0) -> Window:
    return Window(start, sketch(rows).tobytes())


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("hidden_size", [5, 64, 768, 4096])
def test_the_distance_of_two_windows_is_that_of_their_rows(noise, hidden_size):
    rows = rows_of(1, hidden_size=hidden_size)
    other = rows + noise * rows_of(2, hidden_size=hidden_size)

    distance = compare(window_of(other), rows)

    true = np.linalg.norm(other - rows, axis=1) / np.linalg.norm(rows, axis=1)
    assert distance.mean == pytest.approx(np.sqrt(np.mean(true**2)), rel=0.3)
    assert distance.median <= distance.worst
    assert compare(window_of(rows), rows) == Distance(WINDOW, 0.0, 0.0, 0.0)


def test_an_error_in_one_row_or_one_place_is_seen():
    rows = rows_of(1)
    one_row, one_place = rows.copy(), rows.copy()
    one_row[7] = rows_of(3)[7]
    one_place[:, 11] += 30

    assert compare(window_of(one_row), rows).worst > 0.5
    assert compare(window_of(one_place), rows).median > 0.9


def test_what_is_no_number_is_infinitely_far():
    rows = rows_of(1)
    claimed = Window(0, np.full((WINDOW, BUCKETS), np.nan, "<f4").tobytes())

    assert compare(claimed, rows).median == np.inf


@given(
    start=st.integers(0, 10_000),
    n=st.integers(1, WINDOW),
    draws=st.lists(st.integers(0, 2**32 - 1), max_size=4),
    seed=st.integers(0, 9),
)
def test_a_window_survives_its_encoding(start, n, draws, seed):
    n = min(n, WINDOW - start % WINDOW)
    draws = tuple(draws[:n])
    first = start + n - len(draws) + 1 if draws else 0
    window = Window(start, sketch(rows_of(seed, n, 16)).tobytes(), first, draws)

    assert Window.decode(window.encode()) == window


@pytest.mark.parametrize(
    "made",
    [
        lambda: Window(0, b""),
        lambda: Window(0, bytes(31)),
        lambda: Window(0, bytes(33 * 4 * BUCKETS)),
        lambda: Window(31, bytes(2 * 4 * BUCKETS)),
        lambda: Window(0, bytes(4 * BUCKETS), 0, (1,)),
        lambda: Window(0, bytes(4 * BUCKETS), 1, (1, 2)),
        lambda: Window.decode(b"\x00"),
        lambda: Window.decode(Window(0, bytes(32)).encode()[:-1]),
    ],
)
def test_what_is_no_window_is_refused(made):
    with pytest.raises(IntegrityError):
        made()


@given(st.integers(0, 300), st.integers(0, 300))
def test_windows_cover_positions_once_each_in_one_window(start, n):
    parts = list(windows_of(start, start + n))

    assert [p for a, b in parts for p in range(a, b)] == list(range(start, start + n))
    assert all(a // WINDOW == (b - 1) // WINDOW for a, b in parts)


LIMITS = Thresholds(mean=0.02, median=0.02, worst=0.05)
LOOSE = Thresholds(mean=0.2, median=0.2, worst=0.5)


def test_few_rows_are_not_judged_and_no_single_measure_passes_for_another():
    assert LIMITS.judge(Distance(7, 9.0, 9.0, 9.0)) is None
    assert LIMITS.judge(Distance(8, 0.01, 0.01, 0.04)) is True
    assert LIMITS.judge(Distance(32, 0.03, 0.01, 0.04)) is False
    assert LIMITS.judge(Distance(32, 0.01, 0.03, 0.04)) is False
    assert LIMITS.judge(Distance(32, 0.01, 0.01, 0.06)) is False


def a_profile() -> FingerprintProfile:
    return FingerprintProfile(
        execution="float32/none/float32",
        manifest="",
        thresholds={2: LIMITS, 8: LOOSE},
        honest={2: LIMITS, 8: LOOSE},
        drawn=0.1,
        n_windows=10,
        false_rejects=1e-6,
        rejected={"nf4": 1.0},
        measured_with="a test",
    )


def test_a_profile_is_named_by_what_it_says(tmp_path):
    profile, file = a_profile(), tmp_path / "profile.json"
    file.write_bytes(profile.encode())

    assert FingerprintProfile.load(file) == profile
    assert FingerprintProfile.load(file).name == profile.name
    assert [profile.at(stop) for stop in (1, 2, 3, 8, 9)] == [LIMITS] * 2 + [LOOSE] * 3


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"{" * 9000, a_profile().encode().replace(b"0.02", b'"x"')]
)
def test_what_is_no_profile_is_an_error_of_configuration(data, tmp_path):
    file = tmp_path / "profile.json"
    file.write_bytes(data)

    with pytest.raises(ConfigError):
        FingerprintProfile.load(file)
    with pytest.raises(ConfigError):
        FingerprintProfile.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.8, seed=5),
        SamplingParams(temperature=1.0, top_p=0.9, seed=7),
        SamplingParams(temperature=0.7, top_k=20, repetition_penalty=1.2, seed=9),
    ],
)
def test_draws_are_replayed_exactly_and_only_near_ties_are_forgiven(params):
    """Section 4: sampling is not covered by activations; the seeded draw is made again."""
    random = np.random.default_rng(1)
    for position in range(40, 60):
        logits = random.normal(size=200).astype(np.float32) * 2
        ids = random.integers(0, 200, position).tolist()
        drawn = sample(logits, params, ids, n_prompt=10, position=position)
        nearly = (logits + random.normal(size=200) * 1e-4).astype(np.float32)
        other = int(np.argsort(logits)[20])

        assert shortfall(logits, params, ids, drawn, n_prompt=10) == 0
        assert shortfall(nearly, params, ids, drawn, n_prompt=10) < 0.01
        assert shortfall(logits, params, ids, other, n_prompt=10) > 0.1
    assert shortfall(logits, params, ids, 200, n_prompt=10) == np.inf

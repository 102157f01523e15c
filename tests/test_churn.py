"""The smallest churn and a soak's verdicts; the long runs are in `benchmarks/`."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import churn
    import soak

    yield churn, soak
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


async def test_answers_are_right_while_one_is_killed_and_one_leaves_and_nothing_of_them_stays(
    benchmarks,
):
    churn, _ = benchmarks
    plan = churn.Plan(
        nodes=4, minutes=0.02, per_minute=22, clients=1, tokens=4, prompts=1, settle_s=0
    )

    with churn.tiny_checkpoint() as (directory, home):
        seen, before, after = await churn.measure(plan, directory, home, agree_s=0.0)

    kinds = sorted(change.kind for change in seen.changes)
    assert kinds == ["goodbye", "joined", "joined", "killed"]
    assert seen.n_asked > 0
    assert seen.wrong == []
    assert before.nodes == after.nodes == plan.nodes


def test_a_soak_tells_a_leak_from_noise(benchmarks):
    _, soak = benchmarks
    noisy = [100.0, 101.0, 99.5, 100.5, 100.0, 101.5, 99.0, 100.0]
    leaking = [value + 0.5 * minute for minute, value in enumerate(noisy)]

    assert soak.judge(noisy, 60.0, 0.05).is_flat
    assert not soak.judge(leaking, 60.0, 0.05).is_flat
    assert soak.judge(leaking, 60.0, 0.05).per_hour == pytest.approx(30.0, abs=12.0)
    assert soak.judge([*noisy[:4], 900.0, *noisy[5:]], 60.0, 0.05).is_flat, "one odd minute"
    with pytest.raises(ValueError, match="three samples"):
        soak.judge([1.0, 2.0], 60.0, 0.05)

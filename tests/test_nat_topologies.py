"""What `benchmarks/nat_topologies.py` draws and how it judges; what it runs needs root, and is
tried by `tests/namespaces/test_topologies.py`."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.nat_drawing import N_BLOCKS, WEB_PORTS, Filter, Kind, Topology, draw
from benchmarks.nat_running import Result, Said
from benchmarks.nat_topologies import report
from tests.namespaces.lab import Nat

drawn = st.builds(
    draw, st.integers(1, 1000), st.integers(0, 99), may_forward=st.booleans(), may_libp2p=st.just(0)
)


def test_a_seed_names_its_topologies():
    def first_ten(seed: int) -> list[Topology]:
        return [draw(n, seed, may_forward=True, may_libp2p=True) for n in range(1, 11)]

    assert first_ten(7) == first_ten(7)
    assert first_ten(7) != first_ten(8)


def test_a_hundred_topologies_have_homes_of_every_kind():
    homes = [
        home.kind
        for n in range(1, 101)
        for home in draw(n, 7, may_forward=True, may_libp2p=True).homes
    ]

    assert {home.nat for home in homes} == set(Nat) - {Nat.NONE}
    assert {home.filter for home in homes} == set(Filter)
    assert any(home.provider for home in homes)
    assert any(home.forwards for home in homes)


@given(drawn)
def test_homes_serve_the_end_of_the_model_each_a_part_that_nobody_else_has(topology: Topology):
    spans = [home.span for home in topology.homes]

    assert spans[-1][1] == N_BLOCKS
    assert all(one[1] == next[0] for one, next in pairwise(spans))
    assert 0 < spans[0][0] < N_BLOCKS


@given(drawn)
def test_who_is_let_out_to_nobody_is_hopeless_and_nobody_else(topology: Topology):
    webs = [home.kind.filter is Filter.WEB for home in topology.homes]

    assert topology.is_hopeless == (any(webs) and topology.ports != WEB_PORTS)


def result(number: int, *said: Said, error: str = "") -> Result:
    topology = draw(number, 7, may_forward=False, may_libp2p=False)
    return Result(topology, [1, 2], 3.0, 9.0, error=error, said=list(said))


def test_a_failure_is_told_with_the_check_that_explains_it_and_without_one_counts_as_unexplained(
    capsys: pytest.CaptureFixture[str],
):
    deaf = Said("home0", "bootstrap", "fail", "0 of 1 addresses answer")
    hidden = Said("home0", "reachability", "warn", "it is behind a router")

    report([result(1), result(2, deaf, error="no peer"), result(3, hidden, error="no peer")])
    told = capsys.readouterr().out

    assert "| right answers through all homes | 1 of 3 (33.3%) | >= 98% |" in told
    assert "| failures that `doctor` does not explain | 1 | 0 |" in told
    assert "home0: doctor bootstrap (fail): 0 of 1 addresses answer" in told


def test_kinds_are_told_in_words():
    kind = Kind(Nat.SYMMETRIC, provider=Nat.FULL_CONE, filter=Filter.WEB)

    assert str(kind) == (
        "symmetric, lets out TCP to 80 and 443 alone, behind a provider's full cone"
    )

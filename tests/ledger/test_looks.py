"""What looks come to is kept as they come, however many there were."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.findings import FILE_NAME, Findings
from ledger.looks import Look
from ledger.reputation import HALF_LIFE_S, UNSEEN
from ledger.store import Store
from ledger.verdicts import MATCH, MISMATCH
from tests.ledger.parties import SWARM

DAY_S = 86_400.0
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def look(
    result=MATCH, *, account=b"a" * 32, profile="float32/none/float32", confirmed=True
) -> Look:
    return Look(
        account=account,
        manifest=bytes(32),
        profile=profile,
        session_id=bytes(16),
        window_no=0,
        span="0:4",
        result=result,
        parts=1,
        verdict=b"",
        confirmed=confirmed,
    )


LOOKS = st.builds(
    look,
    st.sampled_from([MATCH, MISMATCH]),
    account=st.sampled_from([b"a" * 32, b"b" * 32]),
    profile=st.sampled_from(["one", "two"]),
    confirmed=st.booleans(),
)


MADE = st.lists(st.tuples(st.floats(0, 400), st.lists(LOOKS, max_size=4)), max_size=8)


@given(MADE)
@settings(max_examples=25, deadline=None)
def test_standings_are_those_of_all_looks_in_whatever_order_they_were_made(made):
    expected = {}
    with TemporaryDirectory(dir=MEMORY) as directory, Findings.open(Path(directory), SWARM) as kept:
        for day, looks in made:
            kept.note(looks, day * DAY_S)
            for each in looks:
                if each.confirmed:
                    known = expected.get(each.key, UNSEEN)
                    expected[each.key] = known.after(each.result == MATCH, day * DAY_S)

        found = kept.standings(400 * DAY_S)

    assert found.keys() == expected.keys()
    for key, standing in expected.items():
        then = standing.aged(400 * DAY_S)
        assert found[key].passed == pytest.approx(then.passed)
        assert found[key].failed == pytest.approx(then.failed)


def test_old_looks_go_and_what_they_came_to_and_who_is_suspect_stays(memory_path, monkeypatch):
    monkeypatch.setattr("ledger.looks.MAX_LOOKS", 3)
    with Findings.open(memory_path, SWARM) as kept:
        kept.note([look(MISMATCH, account=b"s" * 32, confirmed=False)], DAY_S)
        for day in (2, 3, 4):
            kept.note([look(), look()], day * DAY_S)

        assert [each.number for each in kept.looks(9)] == [1, 5, 6, 7]
        assert (kept.look(2), kept.look(6).number) == (None, 6)
        assert kept.suspects(5 * DAY_S) == {b"s" * 32}
        assert kept.standings(4 * DAY_S)[look().key].passed == pytest.approx(6, abs=0.5)

        kept.note([look()], DAY_S + HALF_LIFE_S)  # nobody is suspect of what is so long ago
        assert kept.look(1) is None
        assert kept.suspects(DAY_S + HALF_LIFE_S) == set()


def test_a_home_of_a_version_that_kept_looks_alone_loses_nothing(memory_path):
    with Findings.open(memory_path, SWARM) as kept:
        kept.note([look(), look(MISMATCH), look(MISMATCH, confirmed=False)], DAY_S)
        expected = kept.standings(DAY_S)
    store = Store.open(memory_path / FILE_NAME)
    store.execute("DROP TABLE standing")
    store.close()

    with Findings.open(memory_path, SWARM) as kept:
        assert kept.standings(DAY_S) == expected
    with Findings.open(memory_path, SWARM) as kept:
        assert kept.standings(DAY_S) == expected

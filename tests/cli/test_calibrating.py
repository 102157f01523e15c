"""`manyhands ledger calibrate`: thresholds from honest runs, in a file that auditors read."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from manyhands.calibrating.thresholds import LEAST, quantile, set_drawn, set_thresholds
from manyhands.models import find_model
from node.engine import load_shard
from node.recomputing import GivenUp, run_again, run_rows
from node.ways import Way, all_ways, run_way, write_text
from protocol.errors import UsageError
from protocol.fingerprint import Distance, compare, sketch
from protocol.fp_profile import FingerprintProfile, find_profile
from protocol.windows import Window, windows_of
from protocol.wire import BFLOAT16, FLOAT32, decode, encode
from tests.cli.command import manyhands


@pytest.fixture(scope="module")
def engine():
    return load_shard(find_model("tiny").directory, None, dtype="float32")


def test_thresholds_lie_above_all_that_was_seen_and_beyond():
    told = [Distance(32, x / 1000, x / 1000, x / 500) for x in range(1, 1001)]

    limits, seen = set_thresholds(told)

    assert (seen.mean, seen.worst) == (1.0, 2.0)
    assert 1.0 < limits.mean < 3.0
    assert set_thresholds([Distance(32, 0.0, 0.0, 0.0)])[0].mean == LEAST
    assert quantile([0.0] * 1000 + [0.1]) >= 0.1
    assert set_drawn([]) > 0


def refused(engine, texts, claims, *, rounded=False) -> list[bool]:
    """Of windows that somebody claims of these texts, by the shipped profile."""
    profile = find_profile(find_model("tiny").manifest.digest, str(engine.profile))
    found = []
    for ran, ids in zip(claims, texts, strict=True):
        again = run_again(engine, ids[:-1], list(ran.rows)).rows
        for border, rows in ran.rows.items():
            for start, stop in windows_of(0, len(rows)):
                sent = rows[start:stop]
                sent = decode(BFLOAT16, encode(BFLOAT16, sent), rows.shape[1]) if rounded else sent
                claimed = Window(start, sketch(sent).tobytes())
                distance = compare(claimed, again[border][start:stop])
                found.append(profile.at(border).judge(distance) is False)
    return found


def test_37_and_38_the_shipped_profile_takes_honest_rows_and_refuses_rounded_and_stale_ones(engine):
    """Quick: `benchmarks/audit.py` has quantized weights."""
    texts = write_text(engine, 2, 20, 65, seed=5)
    ran = run_way(engine, texts, 20, [3, 8], FLOAT32, Way(batch=2, chunk=7))

    assert not any(refused(engine, texts, ran))
    assert all(refused(engine, texts, ran, rounded=True))
    assert all(refused(engine, texts, ran[::-1]))


@pytest.mark.slow
def test_37_and_38_four_bits_are_refused_and_honest_nodes_are_not_however_they_run():
    """On trained weights in bfloat16."""
    pytest.importorskip("bitsandbytes")
    directory = find_model("tiny").directory
    engine = load_shard(directory, None, dtype="bfloat16")
    small = load_shard(directory, None, dtype="bfloat16", quantize="4bit")
    texts = write_text(engine, 4, 45, 129, seed=99)

    for way in all_ways(2)[::5]:
        ran = run_way(engine, texts, 45, [2, 5, 8], BFLOAT16, way)
        assert not any(refused(engine, texts, ran)), way
    cheats = refused(engine, texts, run_way(small, texts, 45, [2, 5, 8], BFLOAT16, Way()))
    assert sum(cheats) >= 0.95 * len(cheats)


def test_who_has_not_the_first_blocks_runs_nothing_again(engine):
    with pytest.raises(UsageError):
        run_again(engine, [1, 2, 3], [])
    with pytest.raises(UsageError):
        run_again(engine, [1, 2, 3], [9])


@pytest.mark.slow
def test_a_home_is_calibrated_and_auditors_find_what_was_measured(tmp_path):
    asked = ("tiny", "--dtype", "float32", "--windows", "300", "--json", "--home", tmp_path)

    view = json.loads(manyhands("ledger", "calibrate", *asked, timeout_s=600).out)

    manifest = find_model("tiny").manifest.digest
    found = find_profile(manifest, "float32/none/float32", tmp_path / "fingerprints")
    assert view["name"] == found.name
    assert found == FingerprintProfile.load(tmp_path / "fingerprints" / view["file"].split("/")[-1])
    assert all(share > 0.95 for share in view["rejected"].values())


def test_rows_that_nobody_waits_for_any_more_are_not_run(engine) -> None:
    n_asked = SimpleNamespace(n=0)

    def after_two() -> bool:
        n_asked.n += 1
        return n_asked.n > 2

    with pytest.raises(GivenUp):
        run_again(engine, range(64), [8], chunk=8, is_given_up=after_two)
    with pytest.raises(GivenUp):
        run_rows(engine, np.zeros((64, engine.hidden_size)), 0, 4, is_given_up=lambda: True)

    assert n_asked.n == 3
    assert run_again(engine, range(64), [8], chunk=8).rows[8].shape == (64, engine.hidden_size)

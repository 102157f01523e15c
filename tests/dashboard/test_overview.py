"""What the first page says of a swarm."""

import json

import pytest

from manyhands.condition import Seen
from manyhands.dashboard.overview import KEPT_S, Overview, overview
from tests.announcing import announce, peer_of

WELL = Seen(rtt_ms=1.0)


@pytest.mark.parametrize(
    ("spans", "sentence", "tone"),
    [
        ([], "Nobody serves a model yet.", "bad"),
        ([(0, 8)], "tiny can answer.", "well"),
        ([(0, 8), (0, 8)], "tiny can answer. Any one peer may leave.", "well"),
        ([(0, 5), (4, 8)], "tiny can answer. 7 blocks have a single host.", "warn"),
        ([(0, 8), (0, 7)], "tiny can answer. 1 block has a single host.", "warn"),
        ([(0, 4)], "tiny cannot answer: nobody serves blocks 4 to 7.", "bad"),
    ],
)
def test_a_sentence_says_how_it_is(spans: list[tuple[int, int]], sentence: str, tone: str) -> None:
    told = overview({announce(n, span): WELL for n, span in enumerate(spans)})
    assert (told["sentence"], told["tone"]) == (sentence, tone)


def test_several_models_are_counted() -> None:
    other = announce(2, (0, 3), model="large", manifest=bytes(32))
    told = overview({announce(1): WELL, other: WELL})
    assert told["sentence"].startswith("1 of 2 models can answer.")
    assert told["alerts"][0] == {
        "severity": "page",
        "what": "nobody serves blocks 3:8",
        "about": "large",
    }


def test_nobody_answering_is_said_before_what_was_seen_last() -> None:
    told = overview({announce(1): WELL}, why_not="refused")
    assert (told["sentence"], told["tone"]) == ("Nobody in the swarm answers: refused.", "bad")
    assert told["peers"]["rows"]


def test_a_peer_that_does_not_answer_is_told_with_the_reason() -> None:
    told = overview({announce(1): WELL, announce(2): Seen(why_not="connection refused")})
    row = dict(zip(told["peers"]["columns"], told["peers"]["rows"][1], strict=True))
    assert row["state"] == "unreachable"
    assert "connection refused" in row["why"]
    assert {"severity": "warn", "about": peer_of(2)}.items() <= told["alerts"][-1].items()


def test_a_thousand_peers_are_told_in_little() -> None:
    """200 KB at most; the time is measured by a benchmark."""
    seen = {announce(n, (n % 8, n % 8 + 1), region="SG"): WELL for n in range(1000)}
    assert len(json.dumps(overview(seen))) < 200_000


def test_a_model_is_judged_again_when_who_serves_it_changes_or_time_has_passed() -> None:
    now_s = 100.0
    watched = Overview(lambda: now_s)
    two = {announce(1): WELL, announce(2, (0, 4)): WELL}
    first = watched.look(two)
    busier = {announce(1, n_sessions=3): WELL, announce(2, (0, 4)): WELL}
    again = watched.look(busier)
    assert watched.n_judged == 1
    assert again["models"] == [{**first["models"][0], "sessions": 3}]

    away = watched.look({announce(1): WELL, announce(2, (0, 4)): Seen(why_not="refused")})
    assert watched.n_judged == 2
    assert away == overview({announce(1): WELL, announce(2, (0, 4)): Seen(why_not="refused")})
    now_s += KEPT_S + 1
    watched.look({announce(1): WELL, announce(2, (0, 4)): Seen(why_not="refused")})
    assert watched.n_judged == 3
    watched.look({announce(3, model="other", manifest=bytes(32)): WELL})
    assert watched.n_judged == 4

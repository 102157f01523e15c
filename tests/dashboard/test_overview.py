"""What the first page says of a swarm."""

import json

import pytest

from manyhands.condition import Seen
from manyhands.dashboard.overview import overview
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
        ([(0, 4)], "tiny cannot answer.", "bad"),
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

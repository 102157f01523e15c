"""What a hop tells of a session in its client's trace."""

from dataclasses import replace

import pytest

from node.hop_trace import HopTrace
from tests.node.test_keeping import RESERVE

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Kept:
    """A tracer, and the one span it keeps."""

    def __init__(self):
        self.told = {}

    def begin(self, name, parent, *, began_ns, **told):
        return self

    def part(self, name, began_ns, ended_ns, **told):
        pass

    def end(self, error="", **told):
        self.told = told


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("settled", "settled"),
        ("released", "released"),
        ("peer_misbehaved", "peer_misbehaved"),
        ("the moon is in Virgo", "other"),
    ],
)
def test_why_a_session_is_over_is_told_in_known_words(reason, told):
    kept = Kept()
    trace = HopTrace.of(kept, replace(RESERVE, traceparent=CALLER), "peer")

    trace.over(reason)

    assert kept.told["reason"] == told

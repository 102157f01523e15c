"""What a stranger's `traceparent` is taken for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.tracing import TraceParent

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
hexes = st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda text: int(text, 16))


@given(hexes, hexes.filter(lambda text: int(text[:16], 16)), st.booleans())
def test_what_is_written_is_read_again(trace_id: str, span_id: str, is_sampled: bool):
    parent = TraceParent(trace_id, span_id[:16], is_sampled)

    assert TraceParent.parse(str(parent)) == parent


@settings(max_examples=40)
@given(st.text() | st.text("0123456789abcdef-\n", max_size=80))
def test_nonsense_is_none(text: str):
    parsed = TraceParent.parse(text)

    assert parsed is None or text.startswith(f"{text[:2]}-{parsed.trace_id}-{parsed.span_id}-")


@pytest.mark.parametrize(
    "bad",
    [
        *("", GOOD.upper(), GOOD[:-1], GOOD + "\n", GOOD + "-", GOOD + "-x", f"ff{GOOD[2:]}"),
        *(GOOD.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), GOOD.replace("-", "_")),
        GOOD.replace("b7ad6b7169203331", "0" * 16),
    ],
)
def test_what_the_specification_forbids_is_none(bad: str):
    assert TraceParent.parse(bad) is None


def test_a_later_version_may_say_more():
    assert TraceParent.parse(f"01{GOOD[2:]}-more") == TraceParent.parse(GOOD)


def test_only_the_flag_of_the_sampled_is_read():
    assert TraceParent.parse(GOOD[:-2] + "02") == TraceParent.parse(GOOD[:-2] + "00")

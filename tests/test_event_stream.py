"""Server-sent events: whatever an answer holds, wherever its bytes are cut, it is read whole."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.event_stream import data_of

LINES = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=12)


async def cut(whole: bytes, places: list[int]) -> AsyncIterator[bytes]:
    ends = sorted({min(place, len(whole)) for place in places} | {len(whole)})
    for start, stop in zip([0, *ends], ends, strict=False):
        yield whole[start:stop]


async def read(whole: bytes, places: list[int]) -> list[str]:
    return [data async for data in data_of(cut(whole, places))]


@given(
    st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=4),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 200), max_size=12),
    st.booleans(),
)
async def test_events_are_what_was_sent_by_any_line_end_and_in_any_pieces(told, end, places, bom):
    said = "".join(
        "".join(f"data: {line}{end}" for line in lines) + f": ping{end}event: x{end}{end}"
        for lines in told
    )

    heard = await read(("\ufeff" * bom + said).encode(), places)

    assert heard == ["\n".join(lines) for lines in told]


async def test_what_ends_a_line_to_python_alone_is_part_of_the_answer():
    assert await read("data: a\u2028b\u2029c\x85d\x0be\n\n".encode(), []) == [
        "a\u2028b\u2029c\x85d\x0be"
    ]


async def test_the_last_event_needs_no_empty_line():
    assert await read(b"data:1\n\ndata: [DONE]", [3]) == ["1", "[DONE]"]


async def test_an_event_without_an_end_is_given_up():
    endless = cut(b"data: " + b"a" * 200, list(range(0, 200, 10)))

    with pytest.raises(ValueError, match="more than 100"):
        await anext(data_of(endless, max_bytes=100))

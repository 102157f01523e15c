"""Notes that let rows change hands, and the parts they travel in."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import IntegrityError, ManyhandsError, PeerMisbehaved
from protocol.handover import (
    BlockShape,
    Note,
    Part,
    blocks_in,
    read_request,
    request_bytes,
    session_of,
)
from protocol.messages import SessionId, Span
from protocol.signing import OPEN_SWARM_ID, SigningKey

CLIENT, GIVER, TAKER = (SigningKey.from_seed(bytes([i]) * 32) for i in (1, 2, 3))
NOTE = Note(
    session=SessionId(bytes(16)),
    epoch=3,
    giver=GIVER.public_key,
    taker=TAKER.public_key,
    span=Span(2, 5),
)


def part(stop: int = 5, **what: object) -> Part:
    blocks = (BlockShape(2, 2, 4, 2, 4), BlockShape(4, 1, 4, 1, 4))
    fields = {
        "profile": "float32/none/float32",
        "start": 2,
        "stop": stop,
        "length": 9,
        "item_bytes": 4,
        "blocks": blocks,
        "journal_row_bytes": 8,
        "journal_from": 3,
        "body": bytes(range(3 * 16 * 4)) + bytes(1 * 8 * 4) + b"j" * 16,
    }
    return Part(**(fields | what))


def test_a_note_arrives_as_the_client_wrote_it():
    sealed = NOTE.seal(OPEN_SWARM_ID, CLIENT)

    assert Note.open(sealed, OPEN_SWARM_ID, CLIENT.public_key) == NOTE
    assert session_of(sealed) == NOTE.session
    assert read_request(request_bytes(sealed, 17)) == (sealed, 17)
    drafted = replace(NOTE, most_drafts=15)
    assert (
        Note.open(drafted.seal(OPEN_SWARM_ID, CLIENT), OPEN_SWARM_ID, CLIENT.public_key) == drafted
    )


@pytest.mark.parametrize("most_drafts", [16, 10**9])
def test_a_note_keeps_back_no_more_rows_than_a_window_may_have(most_drafts):
    sealed = replace(NOTE, most_drafts=most_drafts).seal(OPEN_SWARM_ID, CLIENT)

    with pytest.raises(IntegrityError, match="other fields"):
        Note.open(sealed, OPEN_SWARM_ID, CLIENT.public_key)


@pytest.mark.parametrize(
    ("signer", "swarm"), [(TAKER, OPEN_SWARM_ID), (CLIENT, bytes(32))], ids=["signer", "swarm"]
)
def test_a_note_of_another_signer_or_swarm_is_worth_nothing(signer, swarm):
    sealed = NOTE.seal(swarm, signer)

    with pytest.raises(IntegrityError):
        Note.open(sealed, OPEN_SWARM_ID, CLIENT.public_key)


def test_a_part_arrives_block_by_block():
    sent = part()
    arrived = Part.decode(sent.encode())

    assert arrived.encode() == sent.encode()
    first, second = blocks_in(memoryview(arrived.body), arrived)
    assert (bytes(first), len(second)) == (bytes(range(192)), 32)
    assert bytes(arrived.journal) == b"j" * 16


@pytest.mark.parametrize(
    "what",
    [
        {"body": b"short"},
        {"start": 6},
        {"length": 4},
        {"item_bytes": 0},
        {"blocks": ()},
        {"blocks": (BlockShape(7, 1, 1, 1, 1),)},
        {"blocks": (BlockShape(2, -1, 4, 1, 4),)},
        {"journal_row_bytes": -8},
        {"journal_from": 6},
    ],
)
def test_a_part_that_contradicts_itself_is_refused(what):
    with pytest.raises(PeerMisbehaved):
        part(**what)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_part_no_note_and_no_request_are_refused_with_a_typed_error(data):
    for read in (Part.decode, read_request, session_of):
        with pytest.raises(ManyhandsError):
            read(data)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_part_with_a_changed_byte_is_refused_or_still_a_part(at, byte):
    data = bytearray(part().encode())
    data[at % len(data)] = byte

    try:
        arrived = Part.decode(bytes(data))
    except ManyhandsError:
        return
    assert len(arrived.body) <= len(data)

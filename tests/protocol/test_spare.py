"""Notes that let a spare copy, and what it answers."""

from dataclasses import replace

import pytest

from protocol.errors import IntegrityError, ManyhandsError
from protocol.handover import Note, session_of
from protocol.messages import SessionId, Span
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.spare import SpareNote, held_bytes, is_spare_note, read_held

CLIENT, GIVER, TAKER = (SigningKey.from_seed(bytes([i]) * 32) for i in (1, 2, 3))
PLACE = {
    "session": SessionId(bytes(16)),
    "epoch": 3,
    "giver": GIVER.public_key,
    "taker": TAKER.public_key,
    "span": Span(2, 5),
}
NOTE = SpareNote(**PLACE, stop=200)


def test_a_note_arrives_as_the_client_wrote_it():
    sealed = NOTE.seal(OPEN_SWARM_ID, CLIENT)

    assert SpareNote.open(sealed, OPEN_SWARM_ID, CLIENT.public_key) == NOTE
    assert session_of(sealed) == NOTE.session
    assert is_spare_note(sealed)


@pytest.mark.parametrize(
    ("signer", "swarm"), [(TAKER, OPEN_SWARM_ID), (CLIENT, bytes(32))], ids=["signer", "swarm"]
)
def test_a_note_of_another_signer_or_swarm_is_worth_nothing(signer, swarm):
    with pytest.raises(IntegrityError):
        SpareNote.open(NOTE.seal(swarm, signer), OPEN_SWARM_ID, CLIENT.public_key)


def test_a_leave_to_copy_is_none_to_take_over_and_the_other_way_round():
    heirs = Note(**PLACE).seal(OPEN_SWARM_ID, CLIENT)

    assert not is_spare_note(heirs)
    with pytest.raises(IntegrityError):
        SpareNote.open(heirs, OPEN_SWARM_ID, CLIENT.public_key)
    with pytest.raises(IntegrityError):
        Note.open(NOTE.seal(OPEN_SWARM_ID, CLIENT), OPEN_SWARM_ID, CLIENT.public_key)


@pytest.mark.parametrize("what", [{"stop": 0}, {"stop": 1 << 40}])
def test_a_note_out_of_range_is_none(what):
    sealed = replace(NOTE, **what).seal(OPEN_SWARM_ID, CLIENT)

    with pytest.raises(ManyhandsError):
        SpareNote.open(sealed, OPEN_SWARM_ID, CLIENT.public_key)


def test_a_spare_answers_with_a_number_of_rows():
    assert read_held(held_bytes(150)) == 150
    for junk in (b"", b"\x80", held_bytes(1 << 40), b"\x81\x20"):
        with pytest.raises(ManyhandsError):
            read_held(junk)

"""A tree head as a note that other tools read, in one spelling only."""

from base64 import b64encode
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.checkpoint import Checkpoint, origin
from protocol.errors import IntegrityError
from protocol.signing import verify
from tests.ledger.parties import CLIENT, PROVIDER, SWARM

HEAD = Checkpoint(origin(SWARM, CLIENT.public_key), 7, sha256(b"root").digest())
NOTE = HEAD.sign(CLIENT)


def test_a_note_reads_as_the_checkpoint_that_was_signed():
    assert Checkpoint.open(NOTE, CLIENT.public_key) == HEAD


def test_a_note_is_built_as_the_standard_says():
    """C2SP signed-note: text, blank line, em dash, name, base64 of key id and signature."""
    name = HEAD.origin
    text = f"{name}\n7\n{b64encode(HEAD.root).decode()}\n"
    key_id = sha256(name.encode() + b"\n\x01" + CLIENT.public_key).digest()[:4]
    signature = CLIENT.sign(text.encode())

    assert f"{text}\n— {name} {b64encode(key_id + signature).decode()}\n" == NOTE
    verify(CLIENT.public_key, text.encode(), signature)


@settings(deadline=None)
@given(st.data())
def test_every_changed_byte_of_a_note_is_found(data):
    note = bytearray(NOTE.encode())
    note[data.draw(st.integers(0, len(note) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(IntegrityError):
        Checkpoint.open(bytes(note).decode(errors="replace"), CLIENT.public_key)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n" * 5,
        NOTE + "\n",
        NOTE.replace("\n7\n", "\n07\n"),
        NOTE.replace("\n7\n", "\n+7\n"),
        NOTE.replace("\n7\n", "\n7 \n"),
        NOTE.replace("\n", "\r\n"),
        NOTE + NOTE.splitlines()[-1] + "\n",
        NOTE.replace("\n\n", "\nan extension\n\n"),
    ],
)
def test_other_spellings_are_refused(note):
    with pytest.raises(IntegrityError):
        Checkpoint.open(note, CLIENT.public_key)


def test_a_note_of_another_key_is_refused():
    with pytest.raises(IntegrityError):
        Checkpoint.open(NOTE, PROVIDER.public_key)
    with pytest.raises(IntegrityError):
        Checkpoint.open(HEAD.sign(PROVIDER), CLIENT.public_key)

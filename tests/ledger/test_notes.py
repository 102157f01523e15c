"""Notes, cosignatures and quorums: other tools' vectors, one spelling, and nobody counted twice."""

from base64 import b64decode
from hashlib import sha256
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Witness, Witnesses, cosign, quorum, with_cosignatures
from ledger.errors import BadProof
from ledger.notes import ED25519, Note, NoteKey, parse_lines
from protocol.errors import IntegrityError
from protocol.signing import verify
from tests.ledger.spenders import ANN, BEN, SWARM, WITNESSES

# The example of Go's golang.org/x/mod/sumdb/note, whose format C2SP signed-note is.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1"
    "FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# The example of C2SP tlog-cosignature: the time is readable without its key.
C2SP_NOTE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJs"
    "X3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
ORIGIN = origin(SWARM, ANN.public_key, "spend")
HEAD = Checkpoint(ORIGIN, 7, sha256(b"root").digest())
NAMED = tuple(Witness(f"w{i}.example", key.public_key) for i, key in enumerate(WITNESSES))
ALL = Witnesses.of(*NAMED)


def cosigned(*numbers, time_s=1_790_000_000):
    lines = [cosign(HEAD.text(), NAMED[i], WITNESSES[i], time_s + i) for i in numbers]
    return with_cosignatures(HEAD.sign(ANN), lines)


def test_a_note_of_gos_own_library_reads_and_verifies():
    name, id_, encoded = GO_KEY.split("+", 2)
    kind, public_key = b64decode(encoded)[0], b64decode(encoded)[1:]
    key = NoteKey(name, kind, public_key)

    note = Note.parse(GO_NOTE)

    assert (kind, key.id.hex()) == (ED25519, id_)
    assert note.encode() == GO_NOTE
    (signature,) = note.of(key)
    verify(public_key, note.text.encode(), signature)


def test_the_standards_example_of_a_cosigned_checkpoint_reads():
    note = Note.parse(C2SP_NOTE)

    head, line = Checkpoint.parse(note.text), note.signatures[1]

    assert (head.origin, head.size, note.encode()) == (
        "example.com/behind-the-sofa",
        20852163,
        C2SP_NOTE,
    )
    assert (line.name, int.from_bytes(line.signature[:8], "big"), len(line.signature)) == (
        "witness.example.com/w1",
        1679315147,
        72,
    )


def test_a_note_of_our_own_log_reads_as_other_tools_read_it():
    note = Note.parse(HEAD.sign(ANN))

    assert Checkpoint.parse(note.text) == HEAD
    assert len(note.of(NoteKey(ORIGIN, ED25519, ANN.public_key))) == 1
    assert note.of(NoteKey(ORIGIN, ED25519, BEN.public_key)) == []


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "text only\n",
        "text\n\n",
        "text\n\n— name AAAAAAA=",
        "text\n\n- name AAAAAAA=\n",
        "text\n\n— na me AAAAAAA=\n",
        "text\n\n— na+me AAAAAAA=\n",
        "text\n\n— name AAAAA\n",
        "text\n\n— name AAAAAAB=\n",  # bits that nobody reads: another spelling
        "te\rxt\n\n— name AAAAAAA=\n",
        "te\ud800xt\n\n— name AAAAAAA=\n",
        "text\n\n" + "— name AAAAAAA=\n" * 65,
    ],
)
def test_what_is_no_note_is_refused(broken):
    with pytest.raises(BadProof):
        Note.parse(broken)


def test_signatures_of_unknown_keys_and_kinds_are_passed_over():
    head = ALL.open(cosigned(0, 1, 2) + "— later.example AAAAAAA=\n", ORIGIN, ANN.public_key)

    assert (head.head, head.has_quorum) == (HEAD, True)


def test_k_is_one_more_than_two_thirds():
    assert [quorum(n) for n in range(11)] == [0, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7]


@pytest.mark.parametrize("n", range(1, 11))
def test_two_quorums_share_more_than_can_lie(n):
    k = quorum(n)

    assert 2 * k - n > n - k  # the overlap has an honest one, when n - k lie
    assert not 2 * (k - 1) - n > n - (k - 1) or k == 1  # and no smaller k would do


def test_a_quorum_is_no_smaller_than_is_safe():
    for k in (0, 2, 5):
        with pytest.raises(BadProof):
            Witnesses(NAMED, k)
    for known in ((NAMED[0], NAMED[0]), (NAMED[0], Witness("w0.example", NAMED[1].public_key))):
        with pytest.raises(BadProof):
            Witnesses.of(*known)


@pytest.mark.parametrize("numbers", [c for n in range(5) for c in combinations(range(4), n)])
def test_enough_different_witnesses_make_a_quorum(numbers):
    head = ALL.open(cosigned(*numbers), ORIGIN, ANN.public_key)

    assert head.has_quorum == (len(numbers) >= 3)
    assert head.times_s == tuple(1_790_000_000 + i for i in numbers)


def test_a_witness_that_signs_twice_counts_once():
    note = cosigned(0, 1)
    again = cosign(HEAD.text(), NAMED[0], WITNESSES[0], 1_790_000_009)

    assert not ALL.open(note + again.line(), ORIGIN, ANN.public_key).has_quorum
    assert note.count("w0.example") == with_cosignatures(note, [again]).count("w0.example")


def test_the_time_is_the_witnesses_median():
    times = (5, 1_790_000_000, 1_790_000_001, 2**62)
    lines = [cosign(HEAD.text(), NAMED[i], WITNESSES[i], t) for i, t in enumerate(times)]

    head = ALL.open(with_cosignatures(HEAD.sign(ANN), lines), ORIGIN, ANN.public_key)

    assert head.time_s == 1_790_000_000


def test_a_cosignature_of_another_checkpoint_time_or_name_is_refused():
    other = Checkpoint(ORIGIN, 8, HEAD.root)
    moved = cosign(other.text(), NAMED[0], WITNESSES[0], 5)
    renamed = cosign(HEAD.text(), NAMED[0], WITNESSES[1], 5)  # another's key under my name
    line = cosign(HEAD.text(), NAMED[0], WITNESSES[0], 5)
    later = type(line)(line.name, line.key_id, (6).to_bytes(8, "big") + line.signature[8:])

    for forged in (moved, renamed, later):
        with pytest.raises(IntegrityError):
            ALL.open(with_cosignatures(HEAD.sign(ANN), [forged]), ORIGIN, ANN.public_key)


def test_a_log_that_did_not_sign_has_no_head_however_many_witnesses_did():
    with pytest.raises(BadProof, match="did not sign"):
        ALL.open(cosigned(0, 1, 2), ORIGIN, BEN.public_key)
    with pytest.raises(BadProof, match="another log"):
        ALL.open(
            cosigned(0, 1, 2), origin(SWARM, ANN.public_key), ANN.public_key
        )  # of its receipts


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_changed_byte_of_a_cosigned_note_adds_a_vote(data):
    note = bytearray(cosigned(0, 1, 2).encode())
    note[data.draw(st.integers(0, len(note) - 1))] ^= data.draw(st.integers(1, 255))

    try:
        head = ALL.open(note.decode(errors="surrogateescape"), ORIGIN, ANN.public_key)
    except IntegrityError:
        return
    assert head.head == HEAD
    assert not head.has_quorum  # a line that names somebody unknown now


def test_a_witnesss_answer_reads_line_by_line():
    line = cosign(HEAD.text(), NAMED[0], WITNESSES[0], 5)

    assert parse_lines(line.line() * 2) == (line, line)
    for broken in ("", "\n", line.line()[:-1], "rubbish\n"):
        with pytest.raises(BadProof):
            parse_lines(broken)

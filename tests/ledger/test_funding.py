"""A payee takes an allotment that a quorum signed and that has credit behind it, and no other."""

from dataclasses import replace

import pytest

from ledger.errors import BadObject
from ledger.escrow import Escrow
from ledger.fold import TabClaim
from ledger.funding import Purse, SpendProof
from ledger.notes import Note
from ledger.policy import GRANTED, OPEN_POLICY, Policy
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from protocol.canonical import decode, encode
from protocol.errors import IntegrityError, LogNeeded, PeerRefused
from protocol.signing import Envelope
from tests.ledger.spenders import (
    ANN,
    BEN,
    CY,
    ISSUER,
    SWARM,
    WITNESSES,
    allot,
    chained,
    credit_note,
    deposit,
    grant,
    mandate,
    settle,
)
from tests.ledger.test_spend_books import signed
from tests.ledger.test_spend_log import ask

EPOCH = 100
POLICY = Policy(
    name="a lab",
    mode=GRANTED,
    assets=(ISSUER.public_key,),
    issuers=(ISSUER.public_key,),
    witnesses=tuple((f"w{i}.example", key.public_key) for i, key in enumerate(WITNESSES)),
    quorum_k=3,
    epoch_s=3600,
    grace_epochs=2,
    retain_epochs=30,
    max_skew_ms=60_000,
    audit_ppm=0,
    holdback_epochs=0,
    min_version=1,
)


@pytest.fixture
def scene(memory_path, books):
    """Ann's log and the issuer's, four witnesses, and Ben, who is to be paid."""
    with (
        SpendLog.open(memory_path / "ann", ANN, SWARM) as ann,
        SpendLog.open(memory_path / "issuer", ISSUER, SWARM) as issuer,
        SpendBooks.open(memory_path / "ben", SWARM, POLICY.quorum()) as known,
    ):
        issuer.append(grant(ANN, 100))
        ask(issuer, books)
        known.learn(issuer.account, issuer.checkpoint(), issuer.leaves())
        yield Scene(ann, books, known)


class Scene:
    def __init__(self, ann, witnesses, known):
        self.ann, self.witnesses, self.known = ann, witnesses, known
        self.purse = Purse(BEN.public_key, POLICY, known)

    def allots(self, envelope, *, cosigned=True, learned=True):
        self.ann.append(envelope)
        if cosigned:
            ask(self.ann, self.witnesses)
        if learned:
            self.known.learn(self.ann.account, self.ann.checkpoint(), self.ann.leaves())
        return self.ann.prove(envelope.object_id(SWARM))

    def judge(self, proof, *, epoch=EPOCH, payer=ANN, **changed):
        return replace(self.purse, **changed).judge(proof, payer.public_key, epoch)


def test_an_allotment_with_a_quorum_and_credit_is_good_for_its_amount(scene):
    proof = scene.allots(allot(ANN, BEN, 60, expires_epoch=EPOCH))

    funded = scene.judge(SpendProof.decode(proof.encode()))

    assert (funded.limit_ncr, funded.is_cosigned, funded.allotment.amount) == (60, True, 60)


def test_what_tabs_claimed_is_not_good_for_new_ones(scene):
    envelope = allot(ANN, BEN, 60, expires_epoch=EPOCH)
    proof = scene.allots(envelope)

    scene.known.claim([TabClaim(bytes(16), envelope.object_id(SWARM), 45)])

    assert scene.judge(proof).limit_ncr == 15


def test_the_payers_log_is_asked_for_when_it_is_not_known_so_far(scene):
    proof = scene.allots(allot(ANN, BEN, 60, expires_epoch=EPOCH), learned=False)

    with pytest.raises(LogNeeded) as caught:
        scene.judge(proof)
    assert caught.value.size == 0

    scene.known.learn(scene.ann.account, scene.ann.checkpoint(), scene.ann.leaves())
    assert scene.judge(proof).limit_ncr == 60


def test_what_no_quorum_signed_is_good_up_to_the_risk_limit_only(scene):
    proof = scene.allots(allot(ANN, BEN, 60, expires_epoch=EPOCH), cosigned=False, learned=False)

    with pytest.raises(PeerRefused, match="no quorum"):
        scene.judge(proof)
    funded = scene.judge(proof, risk_limit_ncr=25)
    assert (funded.limit_ncr, funded.is_cosigned) == (25, False)
    assert scene.judge(proof, risk_limit_ncr=500).limit_ncr == 60


def test_27_an_allotment_beyond_the_payers_credit_is_refused(scene):
    scene.allots(allot(ANN, CY, 60, expires_epoch=EPOCH))
    proof = scene.allots(allot(ANN, BEN, 60, expires_epoch=EPOCH))

    with pytest.raises(PeerRefused, match="not enough credit"):
        scene.judge(proof)


def test_an_allotment_to_another_in_another_asset_or_time_is_refused(scene):
    to_cy = scene.allots(allot(ANN, CY, 5, expires_epoch=EPOCH))
    foreign = scene.allots(
        allot(ANN, BEN, 5, no=1, asset=CY.public_key, expires_epoch=EPOCH), learned=False
    )
    late = scene.allots(allot(ANN, BEN, 5, no=2, expires_epoch=EPOCH - 1), learned=False)

    with pytest.raises(IntegrityError, match="to us"):
        scene.judge(to_cy)
    with pytest.raises(PeerRefused, match="asset"):
        scene.judge(foreign)
    with pytest.raises(PeerRefused, match="epoch 99"):
        scene.judge(late)


def test_a_payer_that_showed_two_versions_gets_no_new_business(scene):
    proof = scene.allots(allot(ANN, BEN, 60, expires_epoch=EPOCH))
    other = [leaf.encode() for leaf in chained(allot(ANN, CY, 60))]
    assert scene.known.compare(ANN.public_key, signed(ANN.public_key, other), other) is not None

    with pytest.raises(PeerRefused, match="two versions"):
        scene.judge(proof)


def test_a_proof_that_does_not_hold_is_refused(scene):
    proof = scene.allots(allot(ANN, BEN, 30, expires_epoch=EPOCH))
    other = scene.allots(allot(ANN, BEN, 31, no=1, expires_epoch=EPOCH))

    for wrong in (
        replace(proof, path=(bytes(32),)),
        replace(other, leaf=proof.leaf),
        replace(other, checkpoint=proof.checkpoint),
        replace(proof, checkpoint="no note"),
        replace(proof, leaf=b"no leaf"),
    ):
        with pytest.raises(IntegrityError):
            scene.judge(wrong)
    with pytest.raises(IntegrityError):
        scene.judge(proof, payer=CY)
    for bad in (
        (2, b"", (), b""),
        (1, b"", (b"short",), b""),
        (1, b"", b"", b""),
        (True, b"", (), b""),
    ):
        with pytest.raises(IntegrityError):
            SpendProof.decode(encode(bad))


def test_a_granted_swarms_policy_reads_as_it_was_written():
    assert Policy.from_fields(decode(encode(POLICY.to_fields()))) == POLICY
    assert POLICY.quorum().quorum_k == 3
    assert OPEN_POLICY.quorum().known == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "bilateral"},
        {"mode": "settled"},
        {"assets": ()},
        {"issuers": (ISSUER.public_key, ANN.public_key)},
        {"quorum_k": 2},  # of four, two versions could both have it
        {"quorum_k": 5},
        {"witnesses": POLICY.witnesses[::-1]},
        {"witnesses": ((POLICY.witnesses[0][0], bytes(32)),)},
        {"witnesses": (("two words", ANN.public_key),)},
        {"witnesses": (b"w",)},
        {"epoch_s": 0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadObject):
        replace(POLICY, **wrong)


def stripped(proof):
    """The same proof, without what witnesses signed of its checkpoint."""
    note = Note.parse(proof.checkpoint)
    return replace(proof, checkpoint=Note(note.text, note.signatures[:1]).encode())


def test_whoever_leaves_cosignatures_out_gets_no_second_credit(scene):
    envelope = allot(ANN, BEN, 60, expires_epoch=EPOCH)
    proof = scene.allots(envelope)
    for claimed, left in ((0, 60), (45, 15), (60, 0)):
        if claimed:
            scene.known.claim([TabClaim(bytes(16), envelope.object_id(SWARM), claimed)])
        for shown in (proof, stripped(proof)):
            funded = scene.judge(shown, risk_limit_ncr=40)
            assert (funded.limit_ncr, funded.is_cosigned) == (left, True)


def test_an_allotment_without_credit_is_refused_also_without_its_cosignatures(scene):
    scene.allots(allot(ANN, CY, 60, expires_epoch=EPOCH))
    proof = scene.allots(allot(ANN, BEN, 60, expires_epoch=EPOCH))

    with pytest.raises(PeerRefused, match="not enough credit"):
        scene.judge(stripped(proof), risk_limit_ncr=40)


def test_what_was_lent_already_is_not_lent_again(scene):
    envelope = allot(ANN, BEN, 60, expires_epoch=EPOCH)
    proof = scene.allots(envelope, cosigned=False, learned=False)
    oid = envelope.object_id(SWARM)

    scene.known.claim([TabClaim(bytes(16), oid, 10)])
    assert scene.judge(proof, risk_limit_ncr=25).limit_ncr == 15
    scene.known.claim([TabClaim(b"1" * 16, oid, 2**63 - 1), TabClaim(b"2" * 16, oid, 2**63 - 1)])
    with pytest.raises(PeerRefused, match="no more is lent"):
        scene.judge(proof, risk_limit_ncr=25)


@pytest.mark.parametrize("n_more", [0, 2])
def test_28_a_proof_from_another_version_of_a_known_log_is_refused_and_remembered(
    scene, memory_path, n_more
):
    """Of one size with ours its root is enough; of another, its leaf at a place that we know."""
    scene.allots(allot(ANN, CY, 100, expires_epoch=EPOCH))  # all that Ann has
    envelope = allot(ANN, BEN, 60, no=7, expires_epoch=EPOCH)
    with (
        SpendLog.open(memory_path / "ann2", ANN, SWARM) as second,
        SpendBooks.open(memory_path / "cy", SWARM, POLICY.quorum()) as elsewhere,
    ):
        second.append(envelope, *(allot(ANN, BEN, 1, no=20 + i) for i in range(n_more)))
        proof = second.prove(envelope.object_id(SWARM))

        for _ in range(2):
            with pytest.raises(PeerRefused, match="two versions"):
                scene.judge(proof, risk_limit_ncr=40)
        assert scene.known.is_forked(ANN.public_key)
        elsewhere.believe(*scene.known.faults())
        assert elsewhere.is_forked(ANN.public_key)


def test_28_a_note_that_contradicts_the_known_log_elsewhere_is_refused_without_proof(
    scene, memory_path
):
    shared = allot(ANN, BEN, 10, expires_epoch=EPOCH)
    scene.allots(shared)
    scene.allots(allot(ANN, CY, 10, no=1, expires_epoch=EPOCH))
    scene.allots(allot(ANN, CY, 10, no=2, expires_epoch=EPOCH))
    with SpendLog.open(memory_path / "ann2", ANN, SWARM) as second:
        second.append(shared, allot(ANN, CY, 50, no=9, expires_epoch=EPOCH))
        with pytest.raises(PeerRefused, match="two versions"):
            scene.judge(second.prove(shared.object_id(SWARM)), risk_limit_ncr=40)
    assert scene.judge(scene.ann.prove(shared.object_id(SWARM))).limit_ncr == 10


def lets(scene, key, max_exposure):
    """Ann's log lets this key promise so much for her."""
    for event in decode(mandate(ANN, key, max_exposure=max_exposure))[1]:
        scene.ann.append(Envelope.decode(event))


def test_what_credit_notes_take_off_a_keys_promises_it_may_promise_again(scene):
    lets(scene, CY, 50)
    made = allot(ANN, BEN, 100, expires_epoch=EPOCH)
    proof, oid = scene.allots(made), made.object_id(SWARM)
    escrow, tab = Escrow(scene.purse), b"t" * 16
    escrow.close(escrow.hold(proof, ANN.public_key, EPOCH, 50, key=CY.public_key), tab, 40)
    assert scene.known.exposed(ANN.public_key, CY.public_key) == 40

    agreed = settle(ANN, BEN, (oid, 10))
    own = [credit_note(BEN, tab, 30), agreed, deposit(BEN, agreed, 10), credit_note(BEN, tab, 99)]
    for n_logged, left, owed in ((1, 10, 10), (3, 0, 10), (4, 0, 0)):
        leaves = [leaf.encode() for leaf in chained(*own[:n_logged])]
        scene.known.learn(BEN.public_key, signed(BEN.public_key, leaves, (0, 1, 2)), leaves)
        assert scene.known.exposed(ANN.public_key, CY.public_key) == left
        assert (scene.known.claimed(oid), scene.known.owed(oid)) == (40, owed)

    escrow.hold(proof, ANN.public_key, EPOCH, 50, key=CY.public_key)


def test_only_what_is_new_of_a_payers_log_is_read_for_its_keys(scene, monkeypatch):
    lets(scene, CY, 50)
    proof = scene.allots(allot(ANN, BEN, 10, expires_epoch=EPOCH))
    read = []

    def counted(*args):
        leaves = known_leaves(*args)
        read.append(len(leaves))
        return leaves

    known_leaves = scene.known.leaves
    monkeypatch.setattr(scene.known, "leaves", counted)
    for no in range(3):
        assert scene.purse.lent(proof, ANN.public_key, CY.public_key, 0).max_exposure == 50
        proof = scene.allots(allot(ANN, BEN, 10, no=no + 1, expires_epoch=EPOCH))

    assert read == [3, 1, 1]

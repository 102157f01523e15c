"""A fault convinces by itself or not at all; numbers are somebody's word, signatures nobody's."""

from dataclasses import replace

import pytest

from ledger.findings import Findings
from ledger.fingerprints import fp_root
from ledger.judging import Leaf, compute_fault, double_seq_fault, judge
from ledger.looks import Look
from ledger.merkle import appended, inclusion_proof, leaf_hash, root
from ledger.objects import Statement
from ledger.spending import Fault
from ledger.verdicts import MATCH, MISMATCH, UNOPENED, Verdict, parts_of
from protocol.errors import IntegrityError
from protocol.signing import Envelope, SigningKey
from tests.ledger.parties import (
    CLIENT,
    MANIFEST,
    PROVIDER,
    STRANGER,
    SWARM,
    closed_receipt,
    open_tab,
    ran,
    state,
)

AUDITOR, OTHER = (SigningKey.from_seed(bytes([n]) * 32) for n in (61, 62))


def tree(*leaves):
    nodes = {}
    for size, data in enumerate(leaves):
        for level, index, hash_ in appended(size, leaf_hash(data), lambda *at: nodes[at]):
            nodes[level, index] = hash_
    return lambda *at: nodes[at]


START, STOP = 70, 210  # windows 2 to 6
NODES = tree(*(b"window %d" % n for n in range(2, 7)))
TOP = root(5, NODES)
LEAF = Leaf(4, leaf_hash(b"window 4"), START, STOP, TOP, tuple(inclusion_proof(2, 5, NODES)))


def committed(receipt, key=PROVIDER):
    """The receipt with a statement that commits to our windows."""
    stated = Statement.open(receipt.statement, SWARM, key.public_key)
    stated = replace(stated, fp_root=fp_root(START, STOP, TOP))
    return replace(receipt, statement=stated.seal(SWARM, key), voucher=None)


PLAIN = closed_receipt(20)
RECEIPT = committed(PLAIN)
STATED = Statement.open(RECEIPT.statement, SWARM, PROVIDER.public_key)


def verdict(key=AUDITOR, n=1, **what):
    fixed = {
        "session_id": STATED.session_id,
        "window_no": 4,
        "fp_leaf": LEAF.hash,
        "result": MISMATCH,
        "stats": (parts_of(0.31),),
        "exec_profile": "float32/none/float32",
        "job_nonce": bytes([n]) * 16,
    }
    return Verdict(**(fixed | what)).seal(SWARM, key)


def fault_of(*verdicts, leaf=LEAF, receipt=RECEIPT, accused=PROVIDER):
    return compute_fault(
        accused.public_key, receipt.terms, receipt.statement, leaf, verdicts, SWARM
    )


def test_two_looks_at_one_committed_output_convince_whoever_trusts_an_auditor():
    fault = fault_of(verdict(), verdict(OTHER, 2))

    told = fault.seal(SWARM, STRANGER)
    heard = Fault.open(Envelope.decode(told.encode()), SWARM, STRANGER.public_key)
    finding = judge(heard, SWARM)

    assert (finding.kind, finding.accused) == ("compute", PROVIDER.public_key)
    assert finding.auditors == tuple(sorted((AUDITOR.public_key, OTHER.public_key)))
    assert not finding.is_self_proving


@pytest.mark.parametrize(
    "verdicts",
    [
        [verdict()],  # a suspicion
        [verdict(), verdict()],  # one look, twice
        [verdict(), verdict(OTHER, 1)],  # a copy of it, under another's name
        [verdict(), verdict(n=2, result=MATCH)],
        [verdict(), verdict(n=2, result=UNOPENED)],
        [verdict(), verdict(n=2, window_no=1)],
        [verdict(), verdict(n=2, fp_leaf=MANIFEST)],
        [verdict(), verdict(n=2, session_id=bytes(16))],
        [verdict(), verdict(PROVIDER, 2)],  # of the accused, about itself
    ],
)
def test_less_than_two_looks_at_one_thing_convince_nobody(verdicts):
    with pytest.raises(IntegrityError):
        fault_of(*verdicts)


def test_nobody_is_accused_by_what_another_stated():
    with pytest.raises(IntegrityError):
        fault_of(verdict(), verdict(n=2), accused=STRANGER)
    other = committed(closed_receipt(20, provider=STRANGER), STRANGER)
    with pytest.raises(IntegrityError):
        fault_of(verdict(), verdict(n=2), receipt=replace(RECEIPT, terms=other.terms))
    with pytest.raises(IntegrityError):
        judge(fault_of(verdict(), verdict(n=2)), bytes(32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"hash": MANIFEST},
        {"window_no": 5},
        {"window_no": 1},
        {"start": 64},
        {"stop": 224},
        {"stop": START},
        {"root": MANIFEST},
        {"path": LEAF.path[:-1]},
    ],
)
def test_what_the_statement_does_not_commit_to_is_no_ground(wrong):
    leaf = replace(LEAF, **wrong)
    about = {"window_no": leaf.window_no, "fp_leaf": leaf.hash}
    with pytest.raises(IntegrityError):
        fault_of(verdict(**about), verdict(n=2, **about), leaf=leaf)


def test_a_statement_without_fingerprints_is_no_ground():
    with pytest.raises(IntegrityError, match="no fingerprints"):
        fault_of(verdict(), verdict(n=2), receipt=PLAIN)


def test_a_leaf_survives_its_encoding_and_nothing_else_is_one():
    assert Leaf.decode(LEAF.encode()) == LEAF
    for data in (b"", b"\x85\x01\x00\x41\x00\x00\x80", LEAF.encode()[:-1], LEAF.encode() + b"\x00"):
        with pytest.raises(IntegrityError):
            Leaf.decode(data)


def test_26_two_vouchers_of_one_number_prove_themselves():
    payer, provider = open_tab()
    payer.check_statement(state(provider, ran(20).meter()), now_ms=1_790_000_000_000)
    one = payer.make_voucher(ran(10).meter(), now_ms=1)
    payer.voucher = payer._voucher_envelope = None
    other = payer.make_voucher(ran(20).meter(), now_ms=1)

    finding = judge(double_seq_fault(CLIENT.public_key, one, other, SWARM), SWARM)

    assert finding.is_self_proving
    assert "vouchers under one number" in finding.what


def test_two_statements_of_one_number_prove_themselves():
    _, provider = open_tab()
    one = state(provider, ran(10).meter())
    provider.statement = None
    other = state(provider, ran(20).meter())
    third = state(provider, ran(20).meter())

    fault = double_seq_fault(PROVIDER.public_key, one, other, SWARM)
    assert judge(fault, SWARM).accused == PROVIDER.public_key
    for pair in ((one, one), (one, third), (one, PLAIN.voucher), (one, RECEIPT.terms)):
        with pytest.raises(IntegrityError):
            double_seq_fault(PROVIDER.public_key, *pair, SWARM)
    with pytest.raises(IntegrityError):
        double_seq_fault(STRANGER.public_key, one, other, SWARM)


def judge_told(data):
    judge(Fault.open(Envelope.decode(data), SWARM, STRANGER.public_key), SWARM)


def test_every_changed_byte_of_a_fault_is_refused():
    told = fault_of(verdict(), verdict(OTHER, 2)).seal(SWARM, STRANGER).encode()
    for at in range(0, len(told), 37):
        for flip in (1, 128):
            data = bytearray(told)
            data[at] ^= flip
            with pytest.raises(IntegrityError):
                judge_told(bytes(data))


def test_faults_of_unknown_kinds_and_odd_shapes_are_refused():
    for kind, evidence in (
        ("rumour", (b"x",)),
        ("compute", (b"", b"", b"", b"", b"")),
        ("compute", (b"\x80",) * 5),
        ("double_seq", (b"\x80", b"\x80")),
        ("double_seq", (b"",)),
    ):
        with pytest.raises(IntegrityError):
            judge(Fault(kind=kind, accused=bytes(32), evidence=evidence), SWARM)


@pytest.mark.parametrize("wrong", [{"result": "fine"}, {"stats": ()}, {"stats": (-1,)}])
def test_a_verdict_says_one_of_three_things_in_whole_numbers(wrong):
    with pytest.raises(IntegrityError):
        verdict(**wrong)


def look(result=MATCH, key=PROVIDER, **what):
    fixed = {
        "account": key.public_key,
        "manifest": MANIFEST,
        "profile": "float32/none/float32",
        "session_id": bytes(16),
        "window_no": 0,
        "span": "0:4",
        "result": result,
        "parts": 7,
        "verdict": b"signed",
    }
    return Look(**(fixed | what))


def test_findings_are_there_again_after_a_restart(tmp_path):
    told = fault_of(verdict(), verdict(OTHER, 2)).seal(SWARM, CLIENT)
    with Findings.open(tmp_path, SWARM) as findings:
        findings.note([look(), look(), look(MISMATCH, STRANGER)], 1000.0)
        findings.note([look(MISMATCH, CLIENT, confirmed=False)], 1000.0)
        findings.add(told)
        findings.add(told)

    with Findings.open(tmp_path, SWARM) as findings:
        standings = {key[0]: standing for key, standing in findings.standings(1000.0).items()}
        kept, suspects = findings.faults(), findings.suspects(2000.0)
        believed = findings.at_fault([OTHER.public_key])
        doubted = findings.at_fault([CLIENT.public_key])

    assert (standings[PROVIDER.public_key].passed, standings[STRANGER.public_key].failed) == (2, 1)
    assert suspects == {CLIENT.public_key}
    assert [each.fault.accused for each in kept] == [PROVIDER.public_key] == [*believed]
    assert doubted == {}


def test_what_does_not_convince_is_not_kept(tmp_path):
    rumour = Fault(kind="compute", accused=PROVIDER.public_key, evidence=(b"trust me",))
    with Findings.open(tmp_path, SWARM) as findings:
        with pytest.raises(IntegrityError):
            findings.add(rumour.seal(SWARM, CLIENT))
        assert findings.faults() == []

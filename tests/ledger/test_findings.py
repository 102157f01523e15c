"""Faults that others tell: what is kept is bounded, and the same at all who hear of them."""

import pytest

from ledger.fault_words import MAX_KNOWN, Asked
from ledger.findings import FILE_NAME, MAX_OPINIONS, Findings, KeptOpen
from ledger.judging import double_seq_fault
from ledger.meter import Meter
from ledger.objects import Voucher
from ledger.told_objects import KeptFaults
from tests.ledger.parties import CLIENT, PROVIDER, STRANGER
from tests.ledger.spenders import ANN, BEN, DOT, SWARM
from tests.ledger.test_judging import OTHER, fault_of, verdict


def voucher(key, n):
    return Voucher(
        session_id=bytes(16),
        terms_oid=bytes(32),
        seq=0,
        meter=Meter(n),
        amount=n,
        statement_oid=bytes([7]) * 32,
        issued_ms=1,
    ).seal(SWARM, key)


def double(key, n, by=ANN):
    """The n-th fault of a key that signs as many vouchers as it likes under one number."""
    first = voucher(key, 0)
    return double_seq_fault(key.public_key, first, voucher(key, n), SWARM).seal(SWARM, by)


def opinion(*auditors):
    told = [verdict(key, n) for n, key in enumerate(auditors, 1)]
    return fault_of(*told).seal(SWARM, CLIENT)


@pytest.fixture
def findings(memory_path):
    with Findings.open(memory_path, SWARM) as opened:
        yield opened


def test_44_one_key_that_signs_without_end_takes_one_place_the_lowest_id_everywhere(
    findings, memory_path
):
    told = [double(DOT, n) for n in range(1, 30)]
    lowest = min(each.object_id(SWARM) for each in told)
    (memory_path / "other").mkdir()

    with Findings.open(memory_path / "other", SWARM) as elsewhere:
        for one, other in zip(told, reversed(told), strict=True):
            findings.add(one)
            elsewhere.add(other)

        assert findings.ids() == elsewhere.ids() == {lowest}
    assert findings.add(double(BEN, 1))
    assert len(findings.at_fault(())) == 2


def test_44_a_full_book_blames_no_teller_and_keeps_what_this_home_found(findings, monkeypatch):
    monkeypatch.setattr("ledger.findings.MAX_FAULTS", 1)
    assert findings.add(double(DOT, 1))

    assert not KeptFaults(findings).take(double(BEN, 1))  # true, and not wanted: nobody's fault
    assert not findings.add(double(BEN, 1))
    assert findings.add(double(BEN, 1), trusted=(ANN.public_key,))

    assert len(findings.at_fault(())) == 2


def test_44_opinions_of_strangers_hide_none_of_an_auditor_who_is_trusted_here(
    findings, monkeypatch
):
    monkeypatch.setattr("ledger.findings.MAX_OPINIONS", 1)
    assert MAX_OPINIONS > 1
    assert findings.add(opinion(STRANGER, OTHER))

    assert not findings.add(opinion(ANN, BEN))
    assert not findings.add(opinion(ANN, BEN), trusted=(DOT.public_key,))
    assert findings.add(opinion(ANN, BEN), trusted=(BEN.public_key,))

    assert list(findings.at_fault([BEN.public_key])) == [PROVIDER.public_key]


def test_44_who_knows_more_faults_than_a_question_holds_hears_of_every_other_in_the_end():
    known = {n.to_bytes(8, "big") for n in range(1 << 40, 3 * MAX_KNOWN << 40, 1 << 40)}
    lacking = {b"\0" * 7 + b"\1", b"\xf0" * 8, bytes([0, 0, 9] * 3)[:8]}
    asker = Asked(frozenset(known))
    heard = set()

    for _ in range(60):
        asked = Asked.decode(asker.encode())
        assert len(asked.known) <= MAX_KNOWN
        assert not asked.lacking(known)
        heard |= set(asked.lacking(lacking))

    assert heard == lacking


def test_findings_that_are_kept_open_follow_the_file_that_is_there(memory_path):
    kept = KeptOpen(memory_path, SWARM)
    first = kept.get()
    with Findings.open(memory_path, SWARM) as beside:
        assert beside.add(double(DOT, 1))

    assert kept.get() is first
    assert len(first.faults()) == 1
    for each in memory_path.glob(f"{FILE_NAME}*"):
        each.rename(each.with_name(f"old-{each.name}"))
    assert kept.get().faults() == []

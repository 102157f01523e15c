"""What a home found out about peers' work decides whom its clients ask, and nothing else does."""

import time

import pytest

from ledger.findings import Findings
from ledger.looks import Look
from ledger.verdicts import MATCH, MISMATCH
from protocol.signing import OPEN_SWARM_ID
from scheduler.peer_record import PeerRecords
from scheduler.routing import Wanted, find_routes
from scheduler.trust import NO_TRUST, Trust, read_trust
from tests.announcing import MANIFEST, announce, key_of, peer_of
from tests.ledger.test_judging import AUDITOR, OTHER, SWARM, fault_of, verdict

WANTED = Wanted(manifest=MANIFEST, n_blocks=8, n_positions=64)


def look(n, result=MATCH, profile="float32/none/float32", **what):
    fixed = {"manifest": MANIFEST, "session_id": bytes(16), "window_no": 0, "span": "0:8"}
    seen = {"account": key_of(n).public_key, "result": result, "profile": profile}
    return Look(**(fixed | seen | what), parts=0, verdict=b"")


def trust_of(directory, *looks):
    with Findings.open(directory, OPEN_SWARM_ID) as findings:
        findings.note(looks)
    return read_trust([directory], OPEN_SWARM_ID, [])


def chosen(trust, *peers):
    records = PeerRecords()
    records.trust = trust
    extra = records.risk_ms(peers, time.time())
    return find_routes(peers, WANTED, extra_ms=extra, k=1)[0].peer_ids


def test_where_nobody_audits_nothing_is_weighed(tmp_path):
    records = PeerRecords()
    risk_ms = records.risk_ms([announce(1)], 0.0)

    records.trust = trust_of(tmp_path, look(1, manifest=bytes(32)))  # another model's

    assert risk_ms == records.risk_ms([announce(1)], 0.0)
    assert read_trust([tmp_path / "nothing"], OPEN_SWARM_ID, []) is NO_TRUST


def test_of_two_alike_the_one_whose_work_held_is_asked(tmp_path):
    trust = trust_of(tmp_path, *(look(2) for _ in range(20)))

    assert chosen(trust, announce(1), announce(2)) == (peer_of(2),)
    assert chosen(trust, announce(2), announce(3)) == (peer_of(2),)


def test_work_that_did_not_hold_weighs_more_than_none_that_was_seen_and_less_than_faults(tmp_path):
    many = [look(1) for _ in range(20)]
    trust = trust_of(tmp_path, *many, *(look(1, MISMATCH) for _ in range(10)), look(2))

    good, mixed, unseen = (announce(n) for n in (2, 1, 3))
    assert trust.risk_ms(good) < trust.risk_ms(unseen)
    assert trust.risk_ms(mixed) < trust.risk_ms(unseen)
    assert trust.shunned == frozenset()


def test_trust_is_of_one_model_in_one_profile_and_new_accounts_inherit_none(tmp_path):
    trust = trust_of(tmp_path, *(look(1) for _ in range(50)))

    known, other = announce(1), announce(1, profile="bfloat16/none/bfloat16")
    assert trust.risk_ms(known) < 5
    assert trust.risk_ms(other) == trust.risk_ms(announce(2)) == pytest.approx(47.5)


def test_who_is_at_fault_by_the_word_of_an_auditor_we_trust_is_in_quarantine(tmp_path):
    told = fault_of(verdict(AUDITOR), verdict(OTHER, 2)).seal(SWARM, OTHER)
    with Findings.open(tmp_path, SWARM) as findings:
        findings.add(told)
        believed = Trust.of(findings, [AUDITOR.public_key])
        doubted = Trust.of(findings, [key_of(9).public_key])
        let_in = Trust.of(findings, [AUDITOR.public_key], quarantine=False)

    assert len(believed.shunned) == 1
    assert doubted.shunned == let_in.shunned == frozenset()

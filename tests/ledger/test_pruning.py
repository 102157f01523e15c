"""Receipts that are settled can go: what was proven stays proven, and what was owed stays owed."""

import sqlite3
from dataclasses import replace

import pytest

from ledger import Ledger, LedgerReader, verify_ledger
from ledger.balances import balances
from ledger.errors import DamagedLedger
from ledger.owed import owed_tabs
from ledger.policy import OPEN_POLICY
from ledger.pruning import DISPUTED, OPEN, RETAINED, UNSETTLED, body_of, plan, tabs_in
from ledger.reader import FILE_NAME
from ledger.settling import Pair, settlements
from ledger.spending import Fault
from protocol.errors import UsageError
from tests.ledger.parties import CLIENT, NOW_MS, PROVIDER, STRANGER, SWARM, closed_receipt
from tests.ledger.spenders import ASSET, DOT, mandate

DAY_MS = 86_400_000
OID = b"an allotment of some thirty-two."
PAIR = Pair(CLIENT.public_key, PROVIDER.public_key, ASSET)
POLICY = replace(OPEN_POLICY, retain_epochs=3, holdback_epochs=2)
TODAY = POLICY.epoch_of(NOW_MS)


def receipt(number, positions=20, *, days=0, oid=OID):
    funds = {"asset": ASSET, "allot_oid": oid, "checkpoint_hash": bytes(32)} if oid else {}
    return closed_receipt(
        positions, now_ms=NOW_MS + days * DAY_MS // 4, nonce=bytes([number]) * 16, **funds
    )


@pytest.fixture
def log(tmp_path):
    """Three tabs of one day, a copy of one that says less, one of the next day, one free."""
    with Ledger.open(tmp_path, PROVIDER, SWARM) as ledger:
        ledger.append_all([receipt(n, 15 + n) for n in range(3)])
        ledger.append(receipt(2, 9))
        ledger.append(receipt(4, days=4))
        ledger.append(receipt(5, oid=None))
    return tmp_path


def settled(log, epoch=TODAY):
    with LedgerReader.read(log) as reader:
        return settlements(PAIR, owed_tabs(reader, POLICY)[PAIR], epoch)


def planned(log, made, epoch, **more):
    with LedgerReader.read(log) as reader:
        return plan(reader, POLICY, made, epoch, **{"given_back": {OID}} | more)


def prune(log, made, epoch):
    with LedgerReader.read(log) as reader:
        reader.forget(plan(reader, POLICY, made, epoch, given_back={OID}).bodies)


def everything(log):
    with LedgerReader.read(log) as reader:
        rows = balances(reader.account, (entry.claim(reader.account) for entry in reader.entries()))
        return reader.checkpoint(), rows, owed_tabs(reader, POLICY)


def test_19_what_is_settled_and_old_is_pruned_and_roots_proofs_and_balances_stay(log):
    made, before = settled(log), everything(log)
    with LedgerReader.read(log) as reader:
        kept = [entry.receipt_id for entry in reader.entries()][4]
        proof = reader.prove(kept)

    prune(log, made, TODAY + 6)

    report = verify_ledger(log, PROVIDER.public_key)
    assert (report.holds, report.n_pruned, report.n_entries) == (True, 4, 6)
    assert everything(log) == before
    assert settled(log) == made
    with LedgerReader.read(log) as reader:
        assert reader.prove(kept) == proof
        gone = next(reader.entries()).receipt_id
        for ask in (reader.receipt, reader.prove):
            with pytest.raises(UsageError, match="pruned"):
                ask(gone)


def test_what_is_not_settled_or_was_lately_or_is_disputed_stays(log):
    made = settled(log)
    with LedgerReader.read(log) as reader:
        disputed = next(reader.entries()).session_id

    assert planned(log, [], TODAY + 99).kept == {UNSETTLED: 5}
    assert planned(log, made, TODAY + 5).kept == {UNSETTLED: 1, RETAINED: 4}
    by_others = {disputed: {STRANGER.public_key}}  # who knows a tab's id accuses a key of its own
    assert planned(log, made, TODAY + 6, disputed=by_others).kept == {UNSETTLED: 1}
    found = planned(log, made, TODAY + 6, disputed={disputed: {made[0].payer}})
    assert ([body.index for body in found.bodies], found.kept) == (
        [1, 2, 3],
        {UNSETTLED: 1, DISPUTED: 1},
    )


def test_a_receipt_stays_while_the_key_that_signed_for_its_payer_is_accused(tmp_path):
    lets = mandate(CLIENT, STRANGER, max_exposure=10**12)
    funds = {"asset": ASSET, "allot_oid": OID, "checkpoint_hash": bytes(32)}
    lent = closed_receipt(15, now_ms=NOW_MS, key=STRANGER, mandate=lets, **funds)
    with Ledger.open(tmp_path, PROVIDER, SWARM) as ledger:
        ledger.append_all([lent, receipt(1)])
    made = settled(tmp_path)

    for accused, kept in ((STRANGER, {DISPUTED: 1}), (DOT, {})):
        disputed = {lent.session_id: {accused.public_key}}
        assert planned(tmp_path, made, TODAY + 6, disputed=disputed).kept == kept


def test_who_paid_with_a_borrowed_key_settles_nothing_and_is_done_when_the_allotment_is(tmp_path):
    lets = mandate(CLIENT, STRANGER, max_exposure=10**12)
    funds = {"asset": ASSET, "allot_oid": OID, "checkpoint_hash": bytes(32)}
    lent = closed_receipt(15, now_ms=NOW_MS, key=STRANGER, mandate=lets, **funds)
    with Ledger.open(tmp_path, STRANGER, SWARM) as ledger:
        ledger.append(lent)

    assert planned(tmp_path, [], TODAY + 6, given_back=()).kept == {UNSETTLED: 1}
    assert planned(tmp_path, [], TODAY + 5).kept == {RETAINED: 1}
    assert len(planned(tmp_path, [], TODAY + 6).bodies) == 1


def test_46_a_payee_keeps_what_it_needs_to_collect_until_it_gave_the_allotment_back(log):
    """Of an allotment that pays on, the payee shows all tabs, the settled ones too."""
    made = settled(log)

    assert planned(log, made, TODAY + 6, given_back=()).kept == {UNSETTLED: 1, OPEN: 4}


def test_a_settlement_about_other_receipts_than_ours_covers_nothing(log):
    (made,) = settled(log)

    other = replace(made, gross=made.gross + 1, net=made.net + 1)

    assert planned(log, [other], TODAY + 9).bodies == ()


def test_pruning_again_finds_nothing_and_new_tabs_go_on(log):
    made = settled(log)
    prune(log, made, TODAY + 6)

    assert planned(log, made, TODAY + 6).bodies == ()
    with Ledger.open(log, PROVIDER, SWARM) as ledger:
        ledger.append(receipt(0, 15))  # a repeat of what was pruned
        ledger.append(receipt(9))
    assert verify_ledger(log, PROVIDER.public_key).holds
    assert len(settled(log, TODAY)) == 1


def test_47_a_single_receipt_is_erased_down_to_its_bytes_and_the_log_still_verifies(log):
    secret = receipt(5, oid=None).encode()
    with LedgerReader.read(log) as reader:
        id_ = [entry.receipt_id for entry in reader.entries()][5]
        reader.forget([body_of(reader, id_)])

    assert verify_ledger(log, PROVIDER.public_key).holds
    for file in log.iterdir():
        assert secret[200:400] not in file.read_bytes()
    with LedgerReader.read(log) as reader, pytest.raises(UsageError, match="pruned"):
        body_of(reader, id_)


def test_a_body_that_is_gone_and_was_not_pruned_is_still_damage(log):
    prune(log, settled(log), TODAY + 6)
    with sqlite3.connect(log / FILE_NAME) as database:
        database.execute("DELETE FROM body WHERE idx = 4")

    report = verify_ledger(log, PROVIDER.public_key)

    assert [str(each).split(": ", 1)[1] for each in report.failures] == ["receipt: is missing"]
    with LedgerReader.read(log) as reader, pytest.raises(DamagedLedger):
        reader.receipt([entry.receipt_id for entry in reader.entries()][4])


def test_the_tabs_that_evidence_is_about_are_found_in_it():
    one = receipt(1)
    fault = Fault(
        kind="double_seq",
        accused=PROVIDER.public_key,
        evidence=(one.statement.encode(), b"a checkpoint"),
    )

    assert tabs_in([fault]) == {one.session_id: {PROVIDER.public_key}}

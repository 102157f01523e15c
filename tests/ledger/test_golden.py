"""The bytes of each signed object, pinned. A change here is a change of the protocol."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from ledger import Receipt, Route, open_receipt
from ledger.chain import Kind, read_chain
from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Witness, cosign, with_cosignatures
from ledger.entries import LogEntry
from ledger.fingerprints import fp_root
from ledger.funding import SpendProof
from ledger.judging import Leaf, compute_fault, double_seq_fault
from ledger.meter import Meter
from ledger.objects import Statement
from ledger.policy import SETTLED
from ledger.receipts import receipt_id
from ledger.reconciliation import Answerer, Asker, IdSet
from ledger.settle_words import GIVE, PROPOSE, SIGNED, TABS, TAKE, Asked, Page, Proposed
from ledger.settling import OwedTab
from ledger.spending import Fault
from ledger.tally import Kin, Tally
from ledger.verdicts import MISMATCH, Verdict, commitment
from protocol.canonical import decode, encode
from tests.ledger import spenders, told
from tests.ledger.parties import CLIENT, MANIFEST, PROVIDER, STRANGER, SWARM, closed_receipt
from tests.ledger.spenders import ANN, BEN, CY
from tests.ledger.test_funding import POLICY

ASKED = ("propose", "signed", "tabs", "take", "give")
FILE = Path(__file__).parents[1] / "golden" / "ledger.json"


def spending():
    """An account's spend log from grant to release, entry by entry, and its leaves."""
    granted, allotted = spenders.grant(ANN, 500), spenders.allot(ANN, BEN, 100)
    settled = spenders.settle(ANN, BEN, (allotted.object_id(SWARM), 40))
    entries = {
        "grant": granted,
        "allot": allotted,
        "settle": settled,
        "deposit": spenders.deposit(BEN, settled, 40),
        "creditnote": spenders.credit_note(BEN, bytes(16), 3),
        "release": spenders.release(BEN, allotted, 40),
        "collect_mandated": spenders.collect(
            BEN,
            spenders.promise(
                *(ANN, BEN, allotted.object_id(SWARM), 40),
                key=CY,
                mandate=spenders.mandate(ANN, CY),
            ),
        ),
        "collect": spenders.collect(BEN, spenders.promise(ANN, BEN, allotted.object_id(SWARM), 40)),
    }
    leaves = spenders.chained(*(entries[name] for name in ("settle", "deposit", "release")))
    head = Checkpoint(origin(SWARM, BEN.public_key, "spend"), 3, MANIFEST)
    witness = Witness("witness.example", spenders.WITNESSES[0].public_key)
    line = cosign(head.text(), witness, spenders.WITNESSES[0], 1_790_000_000)
    fault = Fault(kind="fork", accused=ANN.public_key, evidence=(b"one", b"two"))
    return {
        **{name: envelope.encode() for name, envelope in entries.items()},
        "policy": encode(POLICY.to_fields()),
        "policy_settled": encode(
            replace(POLICY, mode=SETTLED, currency="EUR", credit_micros=1_250_000).to_fields()
        ),
        "fault": fault.seal(SWARM, BEN).encode(),
        **{f"spend_leaf_{leaf.index}": leaf.encode() for leaf in leaves},
        "spend_leaf_2_hash": leaves[2].hash(),
        "cosigned_checkpoint": with_cosignatures(head.sign(BEN), [line]).encode(),
    }


def settled_between():
    """The five questions of a payer and what a payee answers, two collections with a credit note
    between them and the levels these lead to, and what shows that an entry is in a spend log."""
    tab = OwedTab(bytes(16), MANIFEST, 7, 300, Meter(1, 2, 3, 4, 5, 6, 7), 20)
    other = replace(tab, session_id=bytes([1]) * 16, credit=0)
    made = spenders.settle(ANN, BEN, (MANIFEST, 40))
    one, two = (spenders.promise(ANN, BEN, MANIFEST, n, tab=t) for n, t in ((60, 1), (30, 2)))
    leaves = spenders.chained(
        spenders.collect(BEN, one),
        spenders.credit_note(BEN, bytes([1]) * 16, 20),
        spenders.collect(BEN, one, two),
    )
    steps = [step for each in read_chain(BEN.public_key, leaves, SWARM) for step in each]
    head = Checkpoint(origin(SWARM, BEN.public_key, "spend"), 3, MANIFEST)
    shown = SpendProof(leaves[0].encode(), (MANIFEST, bytes(32)), head.sign(BEN))
    return {
        "settle_propose": Asked(PROPOSE, 7, spenders.ASSET).encode(),
        "settle_proposed": Proposed((made,), ((tab.session_id, 20),)).encode(),
        "settle_signed": Asked(SIGNED, data=made.encode()).encode(),
        "settle_tabs": Asked(TABS, 7, spenders.ASSET, tab.session_id).encode(),
        "settle_page": Page((tab, other), True).encode(),
        "settle_take": Asked(TAKE, data=b"a receipt").encode(),
        "settle_give": Asked(GIVE, data=tab.session_id).encode(),
        **{f"collected_leaf_{leaf.index}": leaf.encode() for leaf in leaves},
        "collected_levels": encode(tuple(s.amount for s in steps if s.kind == Kind.LEVEL)),
        "spend_proof": shown.encode(),
    }


def between_strangers():
    """A payee's tally, the same with the payer's signature, and two keys that are kin."""
    said = Tally(
        payer=CLIENT.public_key,
        payee=PROVIDER.public_key,
        served=300,
        settled=120,
        issued_ms=1_790_000_000_000,
    )
    kin = Kin(node=STRANGER.public_key, client=CLIENT.public_key, issued_ms=1_790_000_000_000)
    return {
        "tally": said.seal(SWARM, PROVIDER).encode(),
        "tally_mutual": said.seal(SWARM, PROVIDER, CLIENT).encode(),
        "kin": kin.seal(SWARM, STRANGER, CLIENT).encode(),
    }


def reconciling():
    """Fifty ids, the last ten of which the other side has not, and how it is asked and answers."""
    ids = [(number // 10, sha256(b"%d" % number).digest()) for number in range(50)]
    asked = Asker(IdSet(ids)).message()
    answer = Answerer(IdSet(ids[:40])).answer(asked)
    return {"reconcile_asked": asked, "reconcile_answer": answer}


def objects():
    """Every kind of object, made from fixed keys and values (Ed25519 draws nothing)."""
    receipt = closed_receipt(20)
    data = receipt.encode()
    route = Route(
        session=b"chain-of-tokens.",
        epoch=3,
        hops=((PROVIDER.public_key, 0, 4), (STRANGER.public_key, 4, 9)),
    )
    entry = LogEntry.of(0, receipt_id(data, SWARM), open_receipt(receipt, SWARM), MANIFEST)
    head = Checkpoint(origin(SWARM, CLIENT.public_key), 1, MANIFEST)
    funds = {"asset": spenders.ASSET, "allot_oid": MANIFEST, "checkpoint_hash": bytes(range(32))}
    return {
        "terms_funded": closed_receipt(20, **funds).terms.encode(),
        "offer": receipt.offer.encode(),
        "terms": receipt.terms.encode(),
        "statement": receipt.statement.encode(),
        "voucher": receipt.voucher.encode(),
        "route": route.seal(SWARM, CLIENT).encode(),
        "receipt": data,
        "receipt_id": entry.receipt_id,
        "leaf": entry.leaf(),
        "checkpoint": head.sign(CLIENT).encode(),
        **spending(),
        **reconciling(),
        **audited(receipt),
        **between_strangers(),
        **settled_between(),
        **told.spend_words(),
        **told.owing_words(),
    }


def audited(receipt):
    """Two auditors' verdicts on a committed window, and the faults that convince."""
    stated = Statement.open(receipt.statement, SWARM, PROVIDER.public_key)
    root = fp_root(0, 20, MANIFEST)  # one window, whose leaf is the root over windows
    committed = replace(stated, fp_root=root).seal(SWARM, PROVIDER)
    leaf = Leaf(0, MANIFEST, 0, 20, MANIFEST)
    verdicts = [
        Verdict(
            session_id=stated.session_id,
            window_no=0,
            fp_leaf=MANIFEST,
            result=MISMATCH,
            stats=(310_000, 305_000, 402_000),
            exec_profile="float32/none/float32",
            job_nonce=bytes([n]) * 16,
        ).seal(SWARM, key)
        for n, key in ((1, CLIENT), (2, STRANGER))
    ]
    accused = PROVIDER.public_key
    wrong = compute_fault(accused, receipt.terms, committed, leaf, verdicts, SWARM)
    twice = double_seq_fault(accused, receipt.statement, committed, SWARM)
    words = told.audit_words(
        twice.seal(SWARM, CLIENT),
        receipt.terms,
        lambda root: replace(stated, fp_root=root).seal(SWARM, PROVIDER),
    )
    return {
        **words,
        "verdict": verdicts[0].encode(),
        "verdict_commitment": commitment(CLIENT.public_key, verdicts[0], SWARM),
        "fp_leaf": leaf.encode(),
        "fault_compute": wrong.seal(SWARM, CLIENT).encode(),
        "fault_double_seq": twice.seal(SWARM, CLIENT).encode(),
    }


GOLDEN = {name: bytes.fromhex(value) for name, value in json.loads(FILE.read_text()).items()}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_bytes_of_a_signed_object_are_pinned(name):
    assert objects()[name] == GOLDEN[name]


def test_every_kind_of_object_is_pinned():
    assert objects().keys() == GOLDEN.keys()


def test_the_pinned_receipt_still_opens():
    tab = open_receipt(Receipt.decode(GOLDEN["receipt"]), SWARM)

    assert (tab.amount, tab.meter.prefill_tl, tab.meter.decode_tl) == (184, 32, 48)


def test_the_pinned_words_of_a_settlement_still_read():
    kinds = [Asked.decode(GOLDEN[f"settle_{name}"]).kind for name in ASKED]

    assert kinds == [PROPOSE, SIGNED, TABS, TAKE, GIVE]
    assert [tab.net for tab in Page.decode(GOLDEN["settle_page"]).tabs] == [280, 300]
    assert Proposed.decode(GOLDEN["settle_proposed"]).notes == ((bytes(16), 20),)
    assert SpendProof.decode(GOLDEN["spend_proof"]).leaf == GOLDEN["collected_leaf_0"]
    assert decode(GOLDEN["collected_levels"]) == [60, 70]


if __name__ == "__main__":  # write the file anew: python -m tests.ledger.test_golden
    FILE.write_text(json.dumps({n: v.hex() for n, v in objects().items()}, indent=1) + "\n")

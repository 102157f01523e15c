"""A statement says of each tab whether credit stands behind it."""

from ledger import Ledger, Rates, balances
from ledger.line_states import CLOSED, SETTLED, UNFUNDED, tab_states
from ledger.noted import Noted, Tables, notes_that_count
from tests.ledger.parties import closed_receipt
from tests.ledger.spenders import ANN, ASSET, BEN, SWARM, allot, chained, credit_note, deposit
from tests.ledger.spenders import settle as settled
from tests.ledger.test_funding import POLICY, Scene, scene
from tests.ledger.test_spend_books import signed

__all__ = ["Scene", "scene"]


def test_45_what_is_claimed_beyond_an_allotment_is_unfunded_and_the_rest_is_not(scene, memory_path):
    made = allot(ANN, BEN, 20, expires_epoch=200)
    scene.allots(made)
    oid = made.object_id(SWARM)
    funds = {"asset": ASSET, "allot_oid": oid, "checkpoint_hash": bytes(32)}
    funds |= {"rates": Rates(prefill_tl=10**6), "provider": BEN, "client": ANN}
    tabs = [closed_receipt(2, nonce=bytes([n]) * 16, **funds) for n in range(3)]  # 8 ncr each
    nowhere = closed_receipt(2, nonce=b"n" * 16, **funds | {"allot_oid": b"x" * 32})

    with Ledger.open(memory_path / "receipts", BEN, SWARM) as ledger:
        ledger.append_all([*tabs, nowhere])
        states = tab_states(ledger, scene.known, POLICY)
        assert [each.state for each in states.values()] == [CLOSED, CLOSED, UNFUNDED, UNFUNDED]
        assert [each.unfunded for each in states.values()] == [0, 0, 4, 8]

        agreed = settled(ANN, BEN, (oid, 8))
        leaves = [leaf.encode() for leaf in chained(agreed, deposit(BEN, agreed, 8))]
        scene.known.learn(BEN.public_key, signed(BEN.public_key, leaves, (0, 1, 2)), leaves)
        states = tab_states(ledger, scene.known, POLICY)
        assert [each.state for each in states.values()][:2] == [SETTLED, CLOSED]

        noted = credit_note(BEN, tabs[1].session_id, 8)
        leaves = [leaf.encode() for leaf in chained(agreed, deposit(BEN, agreed, 8), noted)]
        scene.known.learn(BEN.public_key, signed(BEN.public_key, leaves, (0, 1, 2)), leaves)
        states = [*tab_states(ledger, scene.known, POLICY).values()]
        assert [each.state for each in states] == [SETTLED, SETTLED, CLOSED, UNFUNDED]
        assert [each.credit for each in states] == [0, 8, 0, 0]


def test_a_note_takes_off_no_more_than_was_not_taken_in_and_statements_say_so_too(
    scene, memory_path
):
    """Of 24 ncr on one allotment 16 were taken in: the command would refuse a note of 20."""
    made = allot(ANN, BEN, 60, expires_epoch=200)
    scene.allots(made)
    oid = made.object_id(SWARM)
    funds = {"asset": ASSET, "allot_oid": oid, "checkpoint_hash": bytes(32)}
    funds |= {"rates": Rates(prefill_tl=10**6), "provider": BEN, "client": ANN}
    tabs = [closed_receipt(2, nonce=bytes([n]) * 16, **funds) for n in range(3)]  # 8 ncr each
    agreed = settled(ANN, BEN, (oid, 16))
    notes = [credit_note(BEN, tabs[n].session_id, amount) for n, amount in enumerate((8, 8, 4))]
    elsewhere = credit_note(BEN, b"another's tab :)", 5)
    own = chained(agreed, deposit(BEN, agreed, 16), *notes, elsewhere)
    leaves = [leaf.encode() for leaf in own]
    scene.known.learn(BEN.public_key, signed(BEN.public_key, leaves, (0, 1, 2)), leaves)

    for key in (ANN, BEN):
        with Ledger.open(memory_path / key.public_key.hex(), key, SWARM) as ledger:
            known: Tables = {}
            ledger.append_all(tabs[:1])
            notes_that_count(ledger, scene.known, POLICY, known)  # the rest is read later
            ledger.append_all(tabs[1:])
            noted = Noted(key.public_key, notes_that_count(ledger, scene.known, POLICY))
            assert notes_that_count(ledger, scene.known, POLICY, known) == noted.off
            claims = [entry.claim(key.public_key) for entry in ledger.entries()]
            (row,) = balances(key.public_key, noted.less(claims))
            states = tab_states(ledger, scene.known, POLICY).values()

        assert sum(noted.off.values()) == 8
        assert row.earned + row.spent == 16
        assert sum(each.credit for each in states) == 8
        assert {each.state for each in states} == {SETTLED}

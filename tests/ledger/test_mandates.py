"""A key that promises for an account: what terms carry, and what everybody refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.chain import read_chain
from ledger.collecting import open_collection
from ledger.errors import BadObject, KeyNotValid
from ledger.key_events import DELEGATE, REVOKE, Delegation, KeyEvent, incept
from ledger.key_state import KeyState
from ledger.mandates import events_in, mandate_of, open_mandate
from ledger.objects import Terms
from ledger.spending import Collection
from protocol.canonical import decode, encode
from protocol.errors import IntegrityError
from protocol.signing import Envelope, SigningKey
from tests.ledger.spenders import (
    ANN,
    BEN,
    CY,
    DOT,
    SWARM,
    allot,
    chained,
    collect,
    mandate,
    promise,
)

SPARE = SigningKey.from_seed(b"spare" * 6 + b"!!")
ALLOTTED = bytes(range(32))
SIGNED_EPOCH = 1_790_000_000_000 // 86_400_000


def read(envelope: Envelope):
    return open_collection(Collection.open(envelope, SWARM, BEN.public_key), BEN.public_key, SWARM)


def collected(amount, *, key=CY, by=ANN, **lets):
    """What anybody makes of a promise on an allotment of ANN's that `key` signed for her."""
    shown = mandate(by, CY, **lets)
    return read(collect(BEN, promise(ANN, BEN, ALLOTTED, amount, key=key, mandate=shown)))


def test_what_a_key_promised_for_an_account_is_collected_from_the_account():
    (promised,) = collected(100)

    assert (promised.payer, promised.allot_oid, promised.amount) == (
        ANN.public_key,
        ALLOTTED,
        100,
    )
    assert read_chain(BEN.public_key, chained(collect(BEN, promise(ANN, BEN, ALLOTTED, 7))), SWARM)


@pytest.mark.parametrize(
    ("why", "case"),
    [
        ("may promise 100 ncr", {"amount": 101}),
        ("expired", {"amount": 1, "until": SIGNED_EPOCH - 1}),
        ("may log, not pay", {"amount": 1, "scopes": ("log",)}),
        ("another key than the account's", {"amount": 1, "by": DOT}),
        ("holds no delegation", {"amount": 1, "key": DOT}),
    ],
)
def test_49_a_promise_beyond_exposure_days_scope_account_or_key_is_worth_nothing(why, case):
    with pytest.raises(IntegrityError, match=why):
        collected(**case)


def test_terms_show_a_mandate_exactly_when_another_key_signs_and_an_allotment_pays():
    terms = Envelope.decode(promise(ANN, BEN, ALLOTTED, 1, key=CY, mandate=mandate(ANN, CY))[0])
    fields = decode(terms.payload)

    assert Terms.from_fields(fields).to_fields() == fields
    with pytest.raises(BadObject, match="mandate"):
        Terms.from_fields(fields[:-1])
    with pytest.raises(BadObject, match="leave out"):
        Terms.from_fields(
            [*decode(Envelope.decode(promise(ANN, BEN, ALLOTTED, 1)[0]).payload), b"", b""]
        )
    with pytest.raises(BadObject, match="mandate"):
        promise(ANN, BEN, ALLOTTED, 1, mandate=mandate(ANN, CY))
    with pytest.raises(BadObject, match="allotted"):
        promise(ANN, BEN, None, 1, key=CY, mandate=mandate(ANN, CY))


def test_every_changed_byte_of_a_mandate_ends_it():
    shown = mandate(ANN, CY)

    for place in range(len(shown)):
        spoilt = shown[:place] + bytes([shown[place] ^ 1]) + shown[place + 1 :]
        with pytest.raises(IntegrityError):
            open_mandate(spoilt, ANN.public_key, CY.public_key, SWARM)
    for junk in (
        b"",
        encode((1, ())),
        encode((1, (b"junk",))),
        encode((2, (b"",))),
        encode((1, (3,))),
    ):
        with pytest.raises(IntegrityError):
            open_mandate(junk, ANN.public_key, CY.public_key, SWARM)


def test_of_more_key_events_than_an_account_may_have_the_first_ones_count(monkeypatch):
    monkeypatch.setattr("ledger.mandates.MAX_KEY_EVENTS", 3)
    leaves = keys_of_ann(BEN, CY, DOT, BEN)

    state, placed = events_in(ANN.public_key, SWARM, leaves)

    assert (state.n_events, [index for index, _ in placed]) == (3, [0, 1, 2])


@given(st.integers(0, 6), st.integers(0, 6))
def test_what_a_longer_log_lets_follows_from_what_was_read_of_it(one, other):
    leaves = keys_of_ann(BEN, CY, DOT, BEN, allot(ANN, BEN, 5))
    first, then = sorted((one, other))

    known = events_in(ANN.public_key, SWARM, leaves[:first])
    known = events_in(ANN.public_key, SWARM, leaves[first:then], known)
    known = events_in(ANN.public_key, SWARM, leaves[first:], known)  # some of it twice

    assert known == events_in(ANN.public_key, SWARM, leaves)


def keys_of_ann(*lets):
    """A log of hers in which she lets these pay for her, among what else she logs."""
    _, begun = incept(ANN, SPARE.public_key, SWARM)
    state, logged = KeyState.begin(begun, SWARM), [begun]
    for each in lets:
        if isinstance(each, Envelope):
            logged.append(each)
            continue
        event = KeyEvent(
            account=state.account,
            seq=state.n_events,
            prev_oid=state.head_oid,
            op=DELEGATE,
            delegate=Delegation(each.public_key, ("pay",), 30_000, 100 + state.n_events),
        ).seal(SWARM, ANN)
        state = state.after(event, SWARM)
        logged.append(event)
    return chained(*logged)


def test_a_log_lets_no_key_of_another_account_and_none_that_was_revoked():
    events = [Envelope.decode(each) for each in decode(mandate(ANN, CY))[1]]
    state, placed = events_in(ANN.public_key, SWARM, chained(*events))
    assert state is not None
    assert [event for _, event in placed] == events
    assert mandate_of(events, CY.public_key) == mandate(ANN, CY)
    assert events_in(BEN.public_key, SWARM, chained(*events)) == (None, [])
    _, stray = incept(DOT, BEN.public_key, SWARM)

    revoked = KeyEvent(
        account=state.account,
        seq=2,
        prev_oid=state.head_oid,
        op=REVOKE,
        keys=(CY.public_key,),
    ).seal(SWARM, ANN)
    after, _ = events_in(ANN.public_key, SWARM, chained(stray, *events, revoked))

    assert isinstance(after, KeyState)
    with pytest.raises(KeyNotValid, match="revoked by entry 3"):
        after.check(CY.public_key, "pay", epoch=0)

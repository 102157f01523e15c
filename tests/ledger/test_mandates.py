"""A key that promises for an account: what terms carry, and what everybody refuses."""

import pytest

from ledger.chain import read_chain
from ledger.collecting import open_collection
from ledger.errors import BadObject, KeyNotValid
from ledger.key_events import REVOKE, KeyEvent, incept
from ledger.key_state import KeyState
from ledger.mandates import events_in, mandate_of, open_mandate
from ledger.objects import Terms
from ledger.spending import Collection
from protocol.canonical import decode, encode
from protocol.errors import IntegrityError
from protocol.signing import Envelope
from tests.ledger.spenders import (
    ANN,
    BEN,
    CY,
    DOT,
    SWARM,
    chained,
    collect,
    mandate,
    promise,
)

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

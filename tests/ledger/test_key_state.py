"""Who may speak for an account: pre-rotation, delegation, revocation (tests 22 and 49)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import BadKeyEvent, BadObject, KeyNotValid
from ledger.key_events import (
    DELEGATE,
    REVOKE,
    ROTATE,
    SCOPES,
    Delegation,
    KeyEvent,
    commitment,
    incept,
)
from ledger.key_state import KeyState, fold
from protocol.errors import IntegrityError
from protocol.signing import Envelope, SigningKey
from tests.ledger.parties import SWARM

KEYS = [SigningKey.from_seed(bytes([n]) * 32) for n in range(1, 9)]
ROOT, NEXT, LATER, SESSION, THIEF = KEYS[:5]
OTHER_SWARM = bytes(range(32))


def begun():
    return fold([incept(ROOT, NEXT.public_key, SWARM)[1]], SWARM)


def event(state, op, *, root=None, swarm=SWARM, **fields):
    """The next event of a chain, signed by `root`."""
    made = KeyEvent(
        account=state.account, seq=state.n_events, prev_oid=state.head_oid, op=op, **fields
    )
    return made.seal(swarm, root or ROOT)


def delegation(key=SESSION, scopes=("pay",), until=100, exposure=1000):
    return Delegation(key.public_key, scopes, until, exposure)


def delegated(state=None, index=None, **given):
    state = state or begun()
    return state.after(event(state, DELEGATE, delegate=delegation(**given)), SWARM, index)


def revoked(state, key=SESSION, index=None):
    return state.after(event(state, REVOKE, keys=(key.public_key,)), SWARM, index)


def rotation(state, to=NEXT, then=LATER, signer=None):
    return event(
        state,
        ROTATE,
        root=signer or to,
        keys=(to.public_key,),
        next_key_hash=commitment(then.public_key),
    )


def test_an_account_is_the_hash_of_its_inception():
    account, inception = incept(ROOT, NEXT.public_key, SWARM)

    state = KeyState.begin(inception, SWARM)

    assert state.account == account == inception.object_id(SWARM)
    assert state.root_key == ROOT.public_key
    with pytest.raises(BadKeyEvent):
        KeyState.begin(inception, OTHER_SWARM)


def test_22_only_the_key_committed_to_rotates():
    state = begun()

    rotated = state.after(rotation(state), SWARM)

    assert rotated.root_key == NEXT.public_key
    for forged in (
        rotation(state, to=THIEF),  # not committed to
        rotation(state, to=NEXT, signer=ROOT),  # the right key, not its signature
        rotation(state, to=ROOT),  # the current key cannot prolong itself
        rotation(rotated, to=NEXT),  # nor one that was used
    ):
        with pytest.raises(BadKeyEvent):
            state.after(forged, SWARM)
    with pytest.raises(BadKeyEvent, match="not signed by the key that may"):
        rotated.after(event(rotated, DELEGATE, delegate=delegation(), root=ROOT), SWARM)


def test_22_a_revoked_key_is_invalid_after_its_index_and_valid_before():
    state = revoked(delegated(index=5), index=9)
    key = SESSION.public_key

    for size in (6, 9):  # the entry at 5 is covered by a checkpoint of 6, that at 9 by one of 10
        assert state.check(key, "pay", epoch=1, size=size) == delegation()
    for size in (0, 5, 10, None):
        with pytest.raises(KeyNotValid):
            state.check(key, "pay", epoch=1, size=size)
    assert state.revoked_at(key) == 9
    with pytest.raises(BadKeyEvent, match="stays revoked"):
        delegated(state)
    with pytest.raises(BadKeyEvent, match="only a key that holds"):
        revoked(state)


def test_a_delegated_key_keeps_to_its_scope_its_epoch_and_its_exposure():
    state = delegated(scopes=("log", "pay"), until=7, exposure=50)
    key = SESSION.public_key

    assert state.check(key, "pay", epoch=7, exposed=50)
    for scope, epoch, exposed in (("serve", 7, 0), ("pay", 8, 0), ("pay", 7, 51)):
        with pytest.raises(KeyNotValid):
            state.check(key, scope, epoch=epoch, exposed=exposed)
    with pytest.raises(KeyNotValid, match="holds no delegation"):
        state.check(ROOT.public_key, "pay", epoch=1)


def test_a_delegation_is_renewed_by_a_later_one():
    state = delegated(delegated(until=7, index=3), until=20, index=6)

    assert state.delegation(SESSION.public_key, 4).not_after_epoch == 7
    assert state.delegation(SESSION.public_key).not_after_epoch == 20


def test_49_a_thief_of_a_session_key_takes_at_most_its_exposure_until_the_next_checkpoint():
    state = delegated(index=1, exposure=1000)
    promised = 0
    for ask in (400, 400, 400, 150, 100, 51, 50):  # tab after tab with one provider
        try:
            state.check(SESSION.public_key, "pay", epoch=1, size=2, exposed=promised + ask)
        except KeyNotValid:
            continue
        promised += ask
    with pytest.raises(BadKeyEvent):  # nor can the thief give himself more, or take over
        state.after(event(state, DELEGATE, root=SESSION, delegate=delegation(THIEF)), SWARM)
    with pytest.raises(BadKeyEvent):
        state.after(rotation(state, to=THIEF, signer=SESSION), SWARM)

    state = revoked(state, index=2)

    assert promised == 1000
    with pytest.raises(KeyNotValid, match="revoked by entry 2"):
        state.check(SESSION.public_key, "pay", epoch=1, size=3, exposed=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"op": "merge"},
        {"keys": ()},
        {"keys": (ROOT.public_key, NEXT.public_key)},
        {"keys": (bytes(31),)},
        {"keys": (b"\x01" + bytes(31),)},  # small order: anybody signs for it
        {"next_key_hash": None},
        {"delegate": delegation()},
        {"seq": 0},
        {"prev_oid": bytes(32)},
        {"account": bytes(32)},
    ],
)
def test_a_malformed_event_is_refused(changes):
    state = begun()
    good = KeyEvent(
        account=state.account,
        seq=1,
        prev_oid=state.head_oid,
        op=ROTATE,
        keys=(NEXT.public_key,),
        next_key_hash=bytes(32),
    )

    with pytest.raises(BadObject):
        replace(good, **changes)


@pytest.mark.parametrize("scopes", [(), ("pay", "log"), ("pay", "pay"), ("all",)])
def test_scopes_have_one_spelling(scopes):
    with pytest.raises(BadObject):
        delegation(scopes=scopes)


def test_a_chain_cannot_be_reordered_cut_at_the_front_or_joined_with_another():
    first, second = (
        incept(ROOT, NEXT.public_key, SWARM)[1],
        incept(THIEF, NEXT.public_key, SWARM)[1],
    )
    state = fold([first], SWARM)
    a = event(state, DELEGATE, delegate=delegation())
    b = rotation(state.after(a, SWARM))

    assert fold([first, a, b], SWARM).n_events == 3
    for chain in ([], [a], [first, b], [first, b, a], [first, a, a], [second, a], [first, second]):
        with pytest.raises(BadKeyEvent):
            fold(chain, SWARM)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_22_no_chain_of_any_events_by_any_signers_takes_the_account_from_its_owner(data):
    """Whatever is tried in whatever order, only committed keys become root, and only what a root
    key signed is delegated."""
    state, root, owned = begun(), ROOT, {ROOT.public_key, NEXT.public_key, LATER.public_key}
    for _ in range(data.draw(st.integers(1, 8))):
        signer = data.draw(st.sampled_from(KEYS))
        about = data.draw(st.sampled_from(KEYS)).public_key
        kind = data.draw(st.sampled_from((ROTATE, DELEGATE, REVOKE)))
        fields = {
            ROTATE: {"keys": (about,), "next_key_hash": commitment(LATER.public_key)},
            DELEGATE: {"delegate": Delegation(about, ("pay",), 5, 5)},
            REVOKE: {"keys": (about,)},
        }[kind]
        tried = event(state, kind, root=signer, **fields)
        before = state
        try:
            state = state.after(tried, SWARM)
        except BadKeyEvent:
            assert state is before
            continue
        may = about if kind == ROTATE else root.public_key
        assert signer.public_key == may
        if kind == ROTATE:
            assert commitment(about) == before.next_key_hash
            root = signer
        assert state.root_key == root.public_key
        assert state.root_key in owned
        assert state.account == before.account


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_every_changed_byte_of_a_key_event_is_found(data):
    state = begun()
    encoded = bytearray(event(state, DELEGATE, delegate=delegation(scopes=SCOPES)).encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(IntegrityError):
        state.after(Envelope.decode(bytes(encoded)), SWARM)


GOLDEN = Path(__file__).parents[1] / "golden" / "key_events.json"


def golden_chain():
    """An account from inception to revocation, made from fixed keys."""
    _, inception = incept(ROOT, NEXT.public_key, SWARM)
    state, events = fold([inception], SWARM), {"incept": inception}
    for name, made in (
        ("delegate", lambda s: event(s, DELEGATE, delegate=delegation(scopes=("log", "serve")))),
        ("rotate", rotation),
        ("revoke", lambda s: event(s, REVOKE, root=NEXT, keys=(SESSION.public_key,))),
    ):
        events[name] = made(state)
        state = state.after(events[name], SWARM)
    return state, events


def test_the_bytes_of_key_events_are_pinned():
    """A change here is a change of the protocol."""
    state, events = golden_chain()
    view = {name: envelope.encode().hex() for name, envelope in events.items()}

    assert json.loads(GOLDEN.read_text()) == {"account": state.account.hex(), **view}

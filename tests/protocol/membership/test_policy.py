"""A swarm's founding policy, its later ones, and what neither may be."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import IntegrityError
from protocol.membership.policy import TYPE, Policy, is_name, open_founding, open_update
from protocol.membership.roles import Role
from protocol.membership.state import SwarmState
from protocol.signing import Envelope, seal
from tests.announcing import key_of
from tests.membership import FOUNDER, found


def test_the_hash_of_the_founding_policy_is_the_swarms_id():
    one, same, other = found(), found(), found(name="other")

    assert open_founding(one)[1] == open_founding(same)[1] != open_founding(other)[1]


def test_a_founding_policy_survives_its_encoding():
    policy, swarm_id = open_founding(Envelope.decode(found().encode()))

    assert (policy.name, policy.is_private, policy.sequence) == ("home", True, 0)
    assert open_founding(policy.seal(b"", key_of(FOUNDER)))[1] == swarm_id


def test_nobody_founds_a_swarm_in_anothers_name():
    policy, _ = open_founding(found())

    with pytest.raises(IntegrityError, match="founder"):
        open_founding(policy.seal(b"", key_of(1)))


def test_a_founder_replaces_what_may_change_and_nobody_else_does():
    founding, swarm_id = open_founding(found())
    update = founding.with_admin(key_of(2).public_key)

    assert open_update(update.seal(swarm_id, key_of(FOUNDER)), founding, swarm_id) == update
    with pytest.raises(IntegrityError, match="founder"):
        open_update(update.seal(swarm_id, key_of(2)), founding, swarm_id)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "b"},
        {"is_private": False},
        {"founders": (key_of(5).public_key,)},
        {"funding": b"another"},
        {"funding": b""},
    ],
)
def test_name_founders_privacy_and_funding_never_change(change):
    founding, swarm_id = open_founding(found(funding=b"granted"))
    update = replace(founding, sequence=1, **change)

    with pytest.raises(IntegrityError, match="never change"):
        open_update(update.seal(swarm_id, key_of(FOUNDER)), founding, swarm_id)


def test_where_witnesses_are_found_is_replaced_as_they_move():
    founding, swarm_id = open_founding(found(funding=b"granted", witnesses=(("w", "here"),)))
    update = founding.with_witnesses((("w", "https://w.example.org"),))

    opened = open_update(update.seal(swarm_id, key_of(FOUNDER)), founding, swarm_id)

    assert opened.witnesses == (("w", "https://w.example.org"),)
    with pytest.raises(IntegrityError, match="nothing here needs witnesses"):
        found(witnesses=(("w", "here"),))


def test_a_policy_of_another_swarm_is_none_of_ours():
    founding, swarm_id = open_founding(found())
    elsewhere = open_founding(found(name="other"))[1]

    update = founding.with_admin(key_of(3).public_key)

    with pytest.raises(IntegrityError, match="does not match"):
        open_update(update.seal(elsewhere, key_of(FOUNDER)), founding, swarm_id)


def test_a_private_swarm_has_no_guests():
    with pytest.raises(IntegrityError, match="guests"):
        found(guests=frozenset({Role.USE}))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a b", "ä", "x" * 65])
def test_a_name_that_is_no_directory_of_its_own_is_refused(name):
    assert not is_name(name)


@given(st.lists(st.one_of(st.integers(), st.binary(), st.text(), st.booleans()), max_size=12))
def test_whatever_else_is_signed_as_a_policy_founds_nothing(fields):
    try:
        envelope = seal(TYPE, bytes(32), fields, key_of(FOUNDER))
    except IntegrityError:
        return  # it has no encoding at all

    with pytest.raises(IntegrityError):
        SwarmState(envelope)


def test_the_same_policy_has_one_encoding():
    policy = Policy(
        name="x", nonce=bytes(16), founders=(key_of(FOUNDER).public_key,), is_private=True
    )

    assert policy.seal(b"", key_of(FOUNDER)) == policy.seal(bytes(32), key_of(FOUNDER))

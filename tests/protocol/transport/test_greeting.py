"""What two peers tell each other before anything else, and how a later version adds to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import VersionMismatch
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.greeting import FEATURES, FEATURES_KEY, SWARM_KEY, VERSION_KEY, Greeting
from tests.announcing import peer_of

names = st.from_regex("[a-z][a-z0-9-]{0,31}", fullmatch=True)
BEFORE = ((VERSION_KEY, "1"), (SWARM_KEY, OPEN_SWARM_ID.hex()))  # as version 1 began


@given(st.frozensets(names, max_size=20))
def test_features_are_told_and_read_also_those_that_nobody_here_knows(features):
    told = Greeting(1, OPEN_SWARM_ID, features=features)

    assert Greeting.read(told.metadata) == told


def test_a_peer_from_before_features_knows_none_and_is_talked_to():
    theirs = Greeting.read(BEFORE)

    assert theirs == Greeting(1, OPEN_SWARM_ID, features=frozenset())
    assert theirs.metadata == BEFORE
    ours = Greeting(1, OPEN_SWARM_ID)
    assert ours.features == FEATURES
    assert ours.refusal(theirs, caller=peer_of(1), listener=peer_of(2)) is None


@given(st.text() | st.binary())
def test_whatever_stands_for_features_never_keeps_a_greeting_from_being_read(told):
    theirs = Greeting.read((*BEFORE, (FEATURES_KEY, told)))

    assert theirs is not None
    assert len(theirs.features) <= 64


def test_keys_that_a_later_version_adds_are_passed_over():
    assert Greeting.read((*BEFORE, ("manyhands-tomorrow", "x"))) == Greeting.read(BEFORE)


def test_another_version_is_refused_by_its_number_and_the_older_side_named():
    ours, theirs = Greeting(1, OPEN_SWARM_ID), Greeting(2, OPEN_SWARM_ID)

    refusal = ours.refusal(theirs, caller=peer_of(1), listener=peer_of(2))

    assert isinstance(refusal, VersionMismatch)
    with pytest.raises(VersionMismatch, match="speaks protocol 2, the listener 1: the listener is"):
        raise refusal

"""What a client asks of every hop: as bytes nobody can alter, and as verdicts on a peer."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.canonical import NotCanonical, encode
from protocol.constraints import KINDS, NONE, TYPE, VERSION, Constraints, Group
from protocol.errors import IntegrityError, PeerMisbehaved, VersionMismatch
from protocol.measured import Measured
from protocol.messages import SessionId
from protocol.reachability import Reach, Verdict
from protocol.signing import OPEN_SWARM_ID, seal
from tests.announcing import announce, key_of, peer_of

SESSION = SessionId(bytes(range(16)))
CLIENT = key_of(7)
EU = Constraints(regions=("eu",), avoid=(peer_of(9),))

peers = st.lists(st.integers(1, 9).map(peer_of), max_size=3, unique=True).map(tuple)
words = st.text("abc-é", min_size=1, max_size=8)
constraints = st.builds(
    Constraints,
    regions=st.lists(words, max_size=3).map(tuple),
    groups=st.lists(st.builds(Group, words, peers), max_size=3).map(tuple),
    avoid=peers,
    require=peers,
    profile=st.sampled_from(["", "float32/none/float32"]),
    believes_regions=st.booleans(),
    direct=st.booleans(),
)


@settings(max_examples=50, deadline=None)
@given(constraints)
def test_what_is_sealed_is_read_by_every_hop_and_stands_in_terms_alike(wanted):
    sealed = wanted.seal(SESSION, OPEN_SWARM_ID, CLIENT)
    read = Constraints.open(sealed, SESSION, OPEN_SWARM_ID, CLIENT.public_key)

    assert read == Constraints.decode(wanted.encode()) == (wanted if wanted else NONE)
    assert bool(sealed) == bool(wanted.encode()) == bool(wanted)


def test_nobody_but_the_client_makes_them_and_for_one_session_and_swarm_alone():
    sealed = EU.seal(SESSION, OPEN_SWARM_ID, CLIENT)

    with pytest.raises(IntegrityError, match="signed by exactly"):
        Constraints.open(sealed, SESSION, OPEN_SWARM_ID, key_of(8).public_key)
    with pytest.raises(PeerMisbehaved, match="another session"):
        Constraints.open(sealed, SessionId(bytes(16)), OPEN_SWARM_ID, CLIENT.public_key)
    with pytest.raises(IntegrityError):
        Constraints.open(sealed, SESSION, bytes(32), CLIENT.public_key)


@given(st.data())
def test_altered_bytes_are_never_read_as_something_else(data):
    sealed = bytearray(EU.seal(SESSION, OPEN_SWARM_ID, CLIENT))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises((IntegrityError, PeerMisbehaved)):
        Constraints.open(bytes(sealed), SESSION, OPEN_SWARM_ID, CLIENT.public_key)


def test_a_constraint_of_a_later_version_is_refused_by_its_name():
    fields = (VERSION, SESSION, (("regions", "eu"), ("jurisdiction", "de")))
    sealed = seal(TYPE, OPEN_SWARM_ID, fields, CLIENT).encode()

    with pytest.raises(VersionMismatch, match="jurisdiction"):
        Constraints.open(sealed, SESSION, OPEN_SWARM_ID, CLIENT.public_key)


@pytest.mark.parametrize(
    "fields",
    [
        [["regions"]],
        [["regions", 1]],
        [["regions", "eu"], ["regions", "us"]],
        [["avoid"]],
        [["avoid", b"short"]],
        [["avoid", bytes(32)]],
        [["group"]],
        [["profile", ""]],
        [["believe-regions", "yes"]],
        [[]],
        ["regions"],
        [["group", "g" * 65]],
        [["regions", *["eu"] * 65]],
        *[[[kind, None]] for kind in KINDS],
    ],
)
def test_what_is_no_constraint_is_refused(fields):
    with pytest.raises((NotCanonical, PeerMisbehaved)):
        Constraints.decode(encode(fields))


LAB, NAMED = Group("lab"), Group("lab", (peer_of(1),))


@pytest.mark.parametrize(
    ("wanted", "peer", "broken"),
    [
        (EU, announce(1, region="eu-west"), ""),
        (EU, announce(1, region="EU"), ""),
        (EU, announce(1, region="us"), "region"),
        (EU, announce(1), "region"),
        (EU, announce(9, region="eu"), "avoid"),
        (Constraints(regions=("eu",), profile="int8/none/int8"), announce(1), "profile"),
        (Constraints(groups=(LAB,)), announce(1, measured=Measured(group="lab")), ""),
        (Constraints(groups=(LAB,)), announce(1), "group"),
        (Constraints(groups=(NAMED,)), announce(1), ""),
        (Constraints(groups=(NAMED,)), announce(2), "group"),
        (Constraints(groups=(NAMED,)), announce(2, measured=Measured(group="lab")), "group"),
        (Constraints(groups=(NAMED,)), announce(1, measured=Measured(group="other")), "group"),
        (Constraints(groups=(NAMED, Group("b"))), announce(2, measured=Measured(group="b")), ""),
    ],
)
def test_the_first_constraint_that_a_peer_breaks_is_named(wanted, peer, broken):
    found = wanted.broken_by(peer)

    assert (found.constraint if found else "") == broken


def test_where_a_swarm_certifies_groups_an_announced_name_shows_nothing():
    claims = announce(1, measured=Measured(group="lab"))

    assert Constraints(groups=(LAB,)).broken_by(claims, certified=()) is not None
    assert Constraints(groups=(LAB,)).broken_by(announce(1), certified={"lab"}) is None


def test_a_region_that_measurements_contradict_does_not_count_unless_it_is_believed():
    peer = announce(1, region="eu")
    trusting = Constraints(regions=("eu",), believes_regions=True)

    assert EU.broken_by(peer, doubt="too near to au") == ("region", "too near to au")
    assert trusting.broken_by(peer, doubt="too near to au") is None


def test_who_is_called_through_relays_is_outside_what_asks_for_none():
    wanted = Constraints(direct=True)
    own = announce(1).addresses
    carried = replace(own[0], relay=peer_of(8))
    walled = Reach(verdict=Verdict.NAT)

    assert wanted
    assert wanted.broken_by(announce(1)) is None
    for peer in (announce(1, addresses=(*own, carried)), announce(1, reach=walled)):
        broken = wanted.broken_by(peer)
        assert broken is not None
        assert broken.constraint == "direct"
        assert "relay" in broken.why


def test_a_required_peer_must_be_in_the_route():
    wanted = Constraints(require=(peer_of(1), peer_of(2)))

    assert wanted.missing_from({peer_of(1), peer_of(2), peer_of(3)}) is None
    assert wanted.missing_from({peer_of(1)}) == peer_of(2)

"""An adapter's name is plain, and an announcement of it says no more than it may."""

import pytest

from protocol.adapter_names import MAX_ADAPTERS, MAX_CHARS, bare, is_adapter, is_name, pinned
from protocol.announcements import TYPE, read_announcement, seal_announcement
from protocol.asking import Extensions
from protocol.canonical import NotCanonical, decode
from protocol.errors import PeerMisbehaved
from protocol.signing import OPEN_SWARM_ID, seal
from tests.announcing import announce, key_of

A, B = "pirate@0123456789ab", "Poet-2.1@ffffffffffff"


def test_a_name_and_its_digest_make_what_peers_compare():
    named = pinned("pirate", bytes.fromhex("0123456789abcdef") + bytes(24))

    assert named == A
    assert bare(named) == bare("pirate") == "pirate"
    assert len("x" * 64 + "@" + "0" * 12) <= MAX_CHARS


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "a/b", "../../etc", "a\\b", "a b", "a:b", "a@b", "-a", "a\n", "x" * 65],
)
def test_what_is_no_plain_name_is_none(name):
    assert not is_name(name)
    assert not is_adapter(name)


@pytest.mark.parametrize("name", ["a@", "a@0123456789a", "a@0123456789AB", "a@0123456789ab0", "@"])
def test_a_digest_is_whole(name):
    assert not is_adapter(name)
    with pytest.raises(PeerMisbehaved):
        Extensions(adapter=name)


def test_announced_adapters_survive_their_bytes():
    announcement = announce(1, adapters=(A, B))

    data = seal_announcement(announcement, OPEN_SWARM_ID, key_of(1))

    assert read_announcement(data)[0] == announcement
    assert announcement.tombstone().adapters == ()


@pytest.mark.parametrize(
    "adapters",
    [("pirate",), ("../x@0123456789ab",), (A, A), tuple(f"a{n}@0123456789ab" for n in range(33))],
)
def test_adapters_that_cannot_be_are_not_announced(adapters):
    assert MAX_ADAPTERS == 32
    with pytest.raises(PeerMisbehaved):
        announce(1, adapters=adapters)


def resealed(extras):
    """A record of peer 1 with these extras in place of its own."""
    data = seal_announcement(announce(1, adapters=(A,)), OPEN_SWARM_ID, key_of(1))
    fields = decode(read_announcement(data)[1].payload)
    return seal(TYPE, OPEN_SWARM_ID, (*fields[:-1], *extras), key_of(1)).encode()


def test_what_a_later_version_adds_is_passed_over():
    claimed, _ = read_announcement(resealed([(("adapters", (B,)), ("colour", 7))]))

    assert claimed.adapters == (B,)


@pytest.mark.parametrize(
    "extras",
    [
        [7],
        [(("adapters", 7),)],
        [(("adapters", (7,)),)],
        [(("adapters", (A,)), ("adapters", (B,)))],
        [("adapters",)],
        [((7, 7),)],
        [tuple((f"x{n}", n) for n in range(33))],
        [(), ()],
    ],
)
def test_extras_of_another_shape_are_refused(extras):
    with pytest.raises((NotCanonical, PeerMisbehaved)):
        read_announcement(resealed(extras))

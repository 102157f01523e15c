"""What a node tells of its reachability, and what strangers make of what they are told."""

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.address import Address
from protocol.announcements import read_announcement, seal_announcement
from protocol.canonical import NotCanonical
from protocol.errors import ManyhandsError, PeerMisbehaved
from protocol.reachability import Nat, Reach, Scope, Verdict, network_of, scope_of
from protocol.signing import OPEN_SWARM_ID, Envelope, seal
from tests.announcing import announce, key_of, peer_of, record


@given(st.sampled_from(Verdict), st.sampled_from(Nat), st.integers(0, 1))
def test_what_is_known_of_reachability_survives_an_announcement(verdict, nat, n_confirmed):
    told = announce(1, reach=Reach(verdict=verdict, nat=nat, n_confirmed=n_confirmed))

    data = seal_announcement(told, OPEN_SWARM_ID, key_of(1))

    assert read_announcement(data)[0].reach == told.reach


def test_while_nothing_is_known_nothing_is_told():
    assert announce(1, reach=Reach()).reach.is_dialable
    assert record(1, reach=Reach()).data == record(1).data


def test_who_is_behind_a_nat_is_not_to_be_dialled_and_who_was_dialled_back_is_public():
    dialable = {verdict for verdict in Verdict if Reach(verdict=verdict).is_dialable}
    public = {verdict for verdict in Verdict if Reach(verdict=verdict).is_public}

    assert dialable == {Verdict.UNKNOWN, Verdict.DIRECT, Verdict.MAPPED}
    assert public == {Verdict.DIRECT, Verdict.MAPPED}


def test_words_of_a_later_version_are_read_as_unknown_and_more_fields_passed_over():
    assert Reach.read({"reach": ["by pigeon", "spooky", 1, b"?"]}) == Reach(n_confirmed=1)


@pytest.mark.parametrize("bad", [3, [], ["direct"], ["direct", "none", True], [1, 2, 3], "direct"])
def test_nonsense_is_refused(bad):
    with pytest.raises(NotCanonical):
        Reach.read({"reach": bad})


@given(st.recursive(st.integers() | st.text() | st.booleans(), lambda each: st.lists(each)))
def test_any_value_is_read_or_refused_as_one_of_our_errors(value):
    with contextlib.suppress(ManyhandsError):
        Reach.read({"reach": value})


def test_a_signed_announcement_cannot_confirm_more_addresses_than_it_names():
    fields = cbor2.loads(Envelope.decode(record(1, region="eu").data).payload)
    fields.append([["reach", ["direct", "none", 2]]])
    data = seal("mh/announcement/1", OPEN_SWARM_ID, fields, key_of(1)).encode()

    with pytest.raises(PeerMisbehaved):
        read_announcement(data)


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.0.0.1", Scope.MACHINE),
        ("::1", Scope.MACHINE),
        ("localhost", Scope.MACHINE),
        ("0.0.0.0", Scope.MACHINE),
        ("10.1.2.3", Scope.NETWORK),
        ("192.168.1.7", Scope.NETWORK),
        ("100.64.0.1", Scope.NETWORK),
        ("169.254.9.9", Scope.NETWORK),
        ("fe80::1", Scope.NETWORK),
        ("fd00::1", Scope.NETWORK),
        ("203.0.113.5", Scope.WORLD),
        ("2001:db8::1", Scope.WORLD),
        ("node.example", Scope.WORLD),
    ],
)
def test_an_address_tells_from_how_far_it_can_be_dialled(host, scope):
    assert scope_of(host) is scope


def test_one_operators_addresses_are_told_by_their_prefix():
    assert network_of("203.0.113.5") == network_of("203.0.113.250") == "203.0.113.0/24"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert network_of("203.0.114.5") != network_of("203.0.113.5")
    assert network_of("node.example") == "node.example"


def test_what_a_peer_says_nobody_can_dial_is_dialled_last_but_for_what_a_neighbour_has_confirmed():
    own = tuple(Address(host, 31400, peer_of(1)) for host in ("192.168.1.7", "10.0.0.7"))
    relayed = Address("203.0.113.9", 31402, peer_of(1), peer_of(2))
    addresses = (*own, relayed)

    def order(verdict: Verdict, n_confirmed: int = 0) -> tuple[Address, ...]:
        reach = Reach(verdict=verdict, n_confirmed=n_confirmed)
        return announce(1, addresses=addresses, reach=reach).to_dial

    for verdict in (Verdict.UNKNOWN, Verdict.DIRECT, Verdict.MAPPED):
        assert order(verdict) == addresses
    assert order(Verdict.NAT) == order(Verdict.FIREWALLED) == (relayed, *own)
    assert order(Verdict.NAT, n_confirmed=1) == (own[0], relayed, own[1])
    hidden = announce(1, addresses=addresses, reach=Reach(verdict=Verdict.NAT))
    assert hidden.ways == (relayed, own[0])

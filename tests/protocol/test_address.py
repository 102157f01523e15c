"""Multiaddr text, and what is not one that Manyhands can dial."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.address import Address
from protocol.errors import UsageError
from protocol.identity import Identity
from protocol.path import Path
from protocol.signing import SigningKey

PEER = Identity(SigningKey.from_seed(bytes(32))).peer_id
RELAY = Identity(SigningKey.from_seed(bytes([1]) * 32)).peer_id

hosts = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z][a-z0-9-]{0,9}[a-z]){0,3}", fullmatch=True),
)


@given(host=hosts, port=st.integers(1, 65535))
def test_an_address_survives_its_text(host, port):
    address = Address(host, port, PEER)

    assert Address.parse(str(address)) == address


@given(host=hosts, port=st.integers(1, 65535))
def test_a_relayed_address_survives_its_text_and_leads_to_the_relay(host, port):
    address = Address(host, port, PEER, RELAY)

    assert Address.parse(str(address)) == address
    assert str(address).endswith(f"/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")
    assert (address.path, Address(host, port, PEER).path) == (Path.RELAYED, Path.DIRECT)
    assert address.target == Address(host, port, RELAY).target


@given(host=hosts, port=st.integers(1, 65535))
def test_a_tunnel_survives_its_text_and_is_no_relayed_address(host, port):
    tunnel, relayed = (Address(host, port, PEER, RELAY, is_tunnel) for is_tunnel in (True, False))

    assert Address.parse(str(tunnel)) == tunnel != relayed
    assert str(tunnel) == f"{relayed}/tunnel"
    assert tunnel.path is Path.CIRCUIT


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/203.0.113.5/tcp/1/p2p/{PEER}/tunnel",
        "/ip4/203.0.113.5/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}/tunnel/tunnel",
        f"/ip4/203.0.113.5/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}",
        "/ip4/203.0.113.5/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}/p2p-circuit/p2p/{RELAY}",
        "/ip4/203.0.113.5/tcp/1/p2p/{RELAY}/p2p-circuit",
        "/ip4/203.0.113.5/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/",
        "/ip4/203.0.113.5/tcp/1/p2p-circuit/p2p/{PEER}",
    ],
)
def test_circuits_that_lead_nowhere_are_refused(text):
    with pytest.raises(UsageError):
        Address.parse(text.format(RELAY=RELAY, PEER=PEER))


@pytest.mark.parametrize(
    ("host", "family", "target"),
    [
        ("203.0.113.5", "ip4", "203.0.113.5:31400"),
        ("2001:db8::5", "ip6", "[2001:db8::5]:31400"),
        ("node.example.org", "dns4", "node.example.org:31400"),
    ],
)
def test_each_family_has_its_text_and_its_target(host, family, target):
    address = Address.parse(f"/{family}/{host}/tcp/31400/p2p/{PEER}")

    assert (address.host, address.port, address.peer_id) == (host, 31400, PEER)
    assert address.family == family
    assert address.target == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "203.0.113.5:31400",
        "/ip4/203.0.113.5/tcp/31400",
        f"/ip4/203.0.113.5/udp/31400/p2p/{PEER}",
        f"/ip4/203.0.113.5/tcp/0/p2p/{PEER}",
        f"/ip4/203.0.113.5/tcp/65536/p2p/{PEER}",
        f"/ip4/203.0.113.5/tcp/+1/p2p/{PEER}",
        f"/ip4/203.0.113.5/tcp/99999999999999999999/p2p/{PEER}",
        f"/ip4/300.0.113.5/tcp/1/p2p/{PEER}",
        f"/ip4/2001:db8::5/tcp/1/p2p/{PEER}",
        f"/ip6/fe80::1%eth0/tcp/1/p2p/{PEER}",
        f"/dns4/203.0.113.5/tcp/1/p2p/{PEER}",
        f"/dns4/-bad-.example/tcp/1/p2p/{PEER}",
        f"/dns4//tcp/1/p2p/{PEER}",
        f"/dns4/{'a' * 64}/tcp/1/p2p/{PEER}",
        f"/dns4/{'a.' * 130}b/tcp/1/p2p/{PEER}",
        "/ip4/203.0.113.5/tcp/1/p2p/12D3KooWnobody",
        f"/ip4/203.0.113.5/tcp/1/p2p/{PEER}/p2p-circuit",
    ],
)
def test_what_cannot_be_dialled_is_a_usage_error_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        Address.parse(text)

    assert caught.value.hint


@given(text=st.text())
def test_any_text_is_an_address_or_a_usage_error(text):
    with contextlib.suppress(UsageError):
        Address.parse(text)

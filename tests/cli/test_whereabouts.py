"""What people read of whether their node can be reached, and of what mends it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.condition import Seen, condition_of
from manyhands.own_words import carrying_view, fetch_own_words, read
from manyhands.tables import show_status
from manyhands.whereabouts import advice, peers_of, reach_view, spoken
from protocol.address import Address
from protocol.errors import PeerUnreachable
from protocol.reachability import Nat, Reach, Verdict
from tests.announcing import announce, peer_of
from tests.cli.command import assert_explained, manyhands

EMPTY = {"version": "0", "home": "h", "bans": [], "models": [], "peers_not_well": []}
SYMMETRIC = Reach(verdict=Verdict.NAT, nat=Nat.SYMMETRIC)


@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_has_words_and_what_is_wrong_a_step_that_mends_it(verdict):
    reach = Reach(verdict=verdict)

    assert spoken(reach)
    assert bool(advice(reach, 31400)) == (not reach.is_dialable)
    assert "31400" in advice(reach, 31400) or reach.is_dialable


def test_a_router_that_forwards_nothing_can_be_asked_to():
    assert "--map-port" in advice(SYMMETRIC, 31400)
    assert "symmetric" in spoken(SYMMETRIC)


def test_who_cannot_be_reached_and_says_so_itself_is_told_with_both():
    peer = announce(1, reach=SYMMETRIC)

    [why] = condition_of(peer, Seen(why_not="nobody answers")).why

    assert why.startswith("not reachable from here: nobody answers; by its own word it is behind")


def test_status_tells_of_a_node_of_this_home_how_it_is_reached_and_what_to_do(capsys):
    address = Address("192.168.1.7", 31400, peer_of(1))
    view = reach_view(SYMMETRIC, (address,), "3 peers dialled 203.0.113.5:31400 in vain")
    record = {"command": "serve", "model": "tiny", "pid": 7, "without": [], "signature": ""}

    show_status({**EMPTY, "running": [{**record, "reach": [view]}]})

    told = " ".join(capsys.readouterr().out.split())
    assert "reach it is behind a router that forwards nothing to it" in told
    assert "(3 peers dialled 203.0.113.5:31400 in vain)" in told
    assert "fix: forward TCP port 31400 to this machine in the router, or" in told


def test_addresses_that_are_none_belong_to_nobody():
    address = Address("192.168.1.7", 31400, peer_of(1))

    assert peers_of([str(address), "nonsense", ""]) == {peer_of(1)}


class Answering:
    """A node that answers `status` with this."""

    def __init__(self, answer):
        self.answer = answer

    async def call(self, method, request, *, timeout_s):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (json.dumps({"reach": {"why": "2 peers reached it"}}).encode(), "2 peers reached it"),
        (json.dumps({"reach": {"why": "x" * 999}}).encode(), "x" * 300),
        (json.dumps({"reach": {"why": "\x1b[31m"}}).encode(), ""),
        (json.dumps({"reach": None}).encode(), ""),
        (b"[]", ""),
        (b"\xff", ""),
        (PeerUnreachable("", "gone"), ""),
    ],
)
async def test_what_a_node_says_of_it_is_shown_only_if_it_can_be(answer, why):
    assert (await fetch_own_words(Answering(answer))).why == why


CARRYING = {
    "relay": {"bytes": 3 * 2**20, "peers": {"a": {}, "b": {}}, "reservations": 1, "connections": 4},
    "via": [{"relay": peer_of(2), "expires_ms": 1_760_000_000_000}, "nonsense", {"relay": 7}],
    "tunnels": {"streams": 2, "punched": 1, "carried_bytes": 2**30, "relays": [peer_of(3), 1]},
}


def test_what_a_node_of_this_home_carries_and_who_carries_it_is_shown_and_told_to_scripts(capsys):
    view = carrying_view(read(json.dumps(CARRYING).encode()))
    record = {"command": "serve", "model": "tiny", "pid": 7, "without": [], "signature": ""}

    show_status({**EMPTY, "running": [{**record, "reach": [], "carrying": [view]}]})

    told = " ".join(capsys.readouterr().out.split())
    assert "1 peers hold a place, 4 connections are open; 3.0M bytes of 2 peers so far" in told
    assert f"carried by …{peer_of(2)[-6:]} until" in told
    assert "tunnels 2 streams open, 1 holes punched, 1.0G bytes" in told
    assert json.loads(json.dumps(view))["via"] == [CARRYING["via"][0]]


@pytest.mark.parametrize("nothing", [{}, {"relay": None, "via": [], "tunnels": {"streams": 0}}])
def test_a_node_that_has_nothing_to_do_with_relays_says_nothing_of_them(nothing):
    assert carrying_view(read(json.dumps(nothing).encode())) == {}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["reach", "relay", "via", "tunnels", "peers", "bytes", "expires_ms"]
                ),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_a_node_answers_is_read_without_an_error(answer):
    assert carrying_view(read(json.dumps(answer).encode())) is not None


def test_no_router_is_asked_for_a_port_that_only_this_machine_reaches():
    ended = manyhands("serve", "tiny", "--map-port", "--listen", "127.0.0.1:0")

    assert_explained(ended, 2, "no router forwards a port to 127.0.0.1", "--map-port")

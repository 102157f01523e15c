"""Answers over paths of every kind, between real nodes on hosts that real routers keep apart."""

import time

import pytest

from tests.namespaces.lab import Lab, Nat
from tests.namespaces.nodes import Served, generate, start_all

pytestmark = [pytest.mark.slow, pytest.mark.swarm]


def test_a_client_behind_a_symmetric_router_is_answered_by_a_public_node_and_a_full_cone(lab: Lab):
    first = Served(lab.host("public"), "0:4")
    second = Served(lab.host("cone", Nat.FULL_CONE), "4:8")
    start_all([first, second], first.address, second.address)

    answer = generate(lab.host("client", Nat.SYMMETRIC), "--join", first.address)

    assert [hop["peer"] for hop in answer["route"]] == [first.peer, second.peer]
    assert answer["usage"]["completion_tokens"] == 16
    assert second.status()["peer"] == second.peer


def test_a_home_whose_router_lets_in_whom_it_has_sent_to_serves_strangers_through_a_relay(lab: Lab):
    public = [
        Served(lab.host("one"), "0:4", "--relay", "0.0.0.0:31402"),
        Served(lab.host("two"), "0:4"),
    ]
    home = Served(lab.host("home", Nat.RESTRICTED), "4:8")
    start_all(public, *(node.address for node in public))
    start_all([home], *(node.address for node in public))
    until_s = time.monotonic() + 60
    while not (told := home.status())["via"]:
        assert time.monotonic() < until_s, told

    answer = generate(lab.host("client", Nat.SYMMETRIC), "--join", public[0].address)

    assert answer["route"][1]["peer"] == home.peer
    told = home.status()
    assert (told["reach"]["verdict"], told["reach"]["stranger"]) == ("mapped", None)
    assert public[0].status()["relay"]["peers"][home.peer]["to_peer_bytes"] > 0

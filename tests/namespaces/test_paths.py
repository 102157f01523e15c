"""Answers over paths of every kind, between real nodes on hosts that real routers keep apart."""

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

"""Real nodes that only libp2p joins: through a hole in two routers, and through a circuit."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from protocol.transport.libp2p import is_installed
from tests.namespaces.lab import Lab, Nat
from tests.namespaces.nodes import Served, answering, generate, start_all

pytestmark = [
    pytest.mark.slow,
    pytest.mark.swarm,
    pytest.mark.libp2p,
    pytest.mark.skipif(not is_installed(), reason="the libp2p extra is not installed"),
]

LISTEN = ("--libp2p", "0.0.0.0:31401")
SPLICING = 31402
N_TOKENS = 40


def swarm(lab: Lab, kind: Nat, *relaying: object) -> tuple[Served, Served, Served]:
    """A public node, which is the others' bootstrap, and two behind routers."""
    public = Served(lab.host("public"), "0:3", *LISTEN, *relaying)
    public.start()
    (bootstrap,) = public.until_ready()["libp2p"]
    hidden = (*LISTEN, "--bootstrap", bootstrap, "--via", "auto")
    two = [
        Served(lab.host(name, kind), span, *hidden)
        for name, span in (("second", "3:6"), ("third", "6:8"))
    ]
    start_all(two, public.address)
    return public, *two


def ask(lab: Lab, public: Served, *hidden: Served) -> dict[str, Any]:
    """An answer, asked for by somebody behind a router, too."""
    required = (word for node in hidden for word in ("--require", node.peer))
    options = ("--join", public.address, "--libp2p", "--wait=90", "--max-tokens", N_TOKENS)
    client = lab.host("client", Nat.PORT_RESTRICTED)
    return generate(client, *options, *required, timeout_s=180)


def tunnels(node: Served) -> dict[str, Any]:
    return dict(node.status()["tunnels"])


def check(answer: dict[str, Any], holds: Callable[[], bool]) -> None:
    assert [hop["span"] for hop in answer["route"]] == [[0, 3], [3, 6], [6, 8]]
    assert len(answer["token_ids"]) == N_TOKENS
    assert holds()


def test_homes_reach_each_other_through_holes_that_a_public_node_helps_to_arrange(lab: Lab):
    public, second, third = swarm(lab, Nat.PORT_RESTRICTED)

    answer = ask(lab, public, second, third)

    check(answer, lambda: tunnels(second)["punched"] > 0 < tunnels(third)["punched"])
    carried = tunnels(public)["relaying"]["carried_bytes"]
    assert carried < tunnels(third)["carried_bytes"]  # a few words, and no hidden states


def test_symmetric_homes_reach_each_other_by_circuits_where_splicing_is_blocked(lab: Lab):
    public, second, third = swarm(lab, Nat.SYMMETRIC, "--relay", f"0.0.0.0:{SPLICING}")
    public.host.iptables(f"-A INPUT -p tcp --dport {SPLICING} -j DROP")

    answer = ask(lab, public, second, third)

    check(answer, lambda: tunnels(public)["relaying"]["carried_bytes"] > 100_000)
    assert tunnels(second)["punched"] == tunnels(third)["punched"] == 0


def test_a_hole_that_falls_silent_in_mid_answer_is_left_for_a_circuit(lab: Lab):
    public, second, third = swarm(lab, Nat.PORT_RESTRICTED, "--relay", f"0.0.0.0:{SPLICING}")
    public.host.iptables(f"-A INPUT -p tcp --dport {SPLICING} -j DROP")
    options = ("--join", public.address, "--libp2p", "--wait=120", "--max-tokens", 150)
    options += ("--require", second.peer, "--require", third.peer)
    client = lab.host("client", Nat.PORT_RESTRICTED)
    right = generate(client, *options, timeout_s=180)
    until_s = time.monotonic() + 60
    while second.status()["paths"].get(third.peer) != "punched":
        assert time.monotonic() < until_s, second.status()
        generate(client, *options, timeout_s=180)

    with answering(client, *options) as told:
        for event in told:
            if event["event"] == "token" and event["index"] == 10:
                lab.cut(second.host, third.host)

    assert event["event"] == "done", f"{event}\n{lab.errors()}"
    assert event["token_ids"] == right["token_ids"]
    assert second.status()["paths"][third.peer] == "circuit"

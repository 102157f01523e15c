"""Small swarms of people behind routers, with hardly anybody who can be dialled."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.namespaces.lab import Lab, Nat
from tests.namespaces.nodes import Served, answering, generate, start_all

pytestmark = [pytest.mark.slow, pytest.mark.swarm]

RELAYING = ("--relay", "0.0.0.0:31402")
N_TOKENS, LONG = 100, 900


def until(node: Served, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """What a node says of itself, once that `holds`."""
    until_s = time.monotonic() + 60
    while not holds(told := node.status()):
        assert time.monotonic() < until_s, f"{told}\n{node.host.errors()}"
        time.sleep(0.5)
    return told


def is_judged(told: dict[str, Any]) -> bool:
    return bool(told["reach"]["verdict"] != "unknown")


def test_with_one_public_peer_all_homes_learn_that_they_are_hidden_and_are_carried(lab: Lab):
    one, other, shut = Nat.PORT_RESTRICTED, Nat.SYMMETRIC, Nat.FIREWALL
    hosts = [lab.host(kind.name, kind) for kind in (one, other, shut)]
    hosts.append(lab.host("neighbour", behind=hosts[0].router))
    public = Served(lab.host("public"), "0:4", *RELAYING)
    homes = [Served(host, "4:8") for host in hosts]
    start_all([public])
    start_all(homes, public.address)

    told = [until(home, lambda told: told["via"] and is_judged(told)) for home in homes]
    client = lab.host("client", Nat.PORT_RESTRICTED)
    required = ("--join", public.address, "--wait=60", "--no-spares", "--require", public.peer)
    answers = [
        generate(client, *required, "--require", home.peer, "--max-tokens", 16) for home in homes
    ]

    verdicts = [view["reach"]["verdict"] for view in told]
    assert verdicts == ["nat", "nat", "firewalled", "nat"]
    for view in told:
        assert view["reach"]["why"].startswith("1 peer dialled ")
        assert [place["relay"] for place in view["via"]] == [public.peer]
    routes = [[hop["peer"] for hop in answer["route"]] for answer in answers]
    assert routes == [[public.peer, home.peer] for home in homes]
    assert len({tuple(answer["token_ids"]) for answer in answers}) == 1


def test_a_way_that_closes_in_mid_answer_gives_place_to_a_relay(lab: Lab):
    first, relay = Served(lab.host("first"), "0:4"), Served(lab.host("relay"), "0:4", *RELAYING)
    home = Served(lab.host("home", Nat.FULL_CONE), "4:8", "--via", "auto")
    start_all([first, relay], first.address)
    start_all([home], first.address)
    until(home, lambda told: told["via"])
    client = lab.host("client", Nat.SYMMETRIC)
    required = ("--require", first.peer, "--require", home.peer, "--no-spares", "--wait=60")
    asked = ("--join", first.address, *required, "--max-tokens", N_TOKENS, "--timeout", 120)
    before, line = generate(client, *asked), {}
    assert carried(relay, home) < 1_000  # it was dialled at its router, all the way

    def close() -> None:
        assert home.host.router is not None
        home.host.router.iptables("-t raw -I PREROUTING -i wan -p tcp --dport 31400 -j DROP")

    with answering(client, *asked) as lines:
        for line in lines:
            if line["event"] == "token" and line["index"] == 10:
                close()

    assert line.get("event") == "done", f"{line}\n{lab.errors()}"
    assert line["token_ids"] == before["token_ids"]
    assert [hop["peer"] for hop in line["route"]] == [first.peer, home.peer]
    assert carried(relay, home) > 10_000


def test_a_home_that_is_opened_in_mid_answer_is_not_carried_any_longer(lab: Lab):
    relay = Served(lab.host("relay"), "0:4", *RELAYING)
    first = Served(lab.host("first"), "0:4", "-v")
    home = Served(lab.host("home", Nat.FIREWALL), "4:8")
    start_all([relay, first], relay.address)
    start_all([home], relay.address)
    until(home, lambda told: told["via"])
    required = ("--require", first.peer, "--require", home.peer, "--no-spares", "--wait=60")
    asked = ("--join", relay.address, *required, "--max-tokens", LONG, "--timeout", 240)
    client, moved_at, line = lab.host("client"), None, {}

    with answering(client, *asked) as lines:
        for line in lines:
            if line["event"] != "token":
                continue
            if line["index"] == 5:
                home.host.iptables("-F INPUT")
            if moved_at is None and "a better way" in first.host.errors():
                moved_at = line["index"]
    was_carried = carried(relay, home)
    later = generate(client, *asked, timeout_s=240)

    assert was_carried > 5_000
    assert line.get("event") == "done", f"{line}\n{lab.errors()}"
    assert moved_at is not None, lab.errors()
    assert 5 <= moved_at < LONG - 1
    assert line["failovers"] == 0
    assert line["token_ids"] == later["token_ids"]


def carried(relay: Served, home: Served) -> int:
    """Bytes that a relay has carried for a home."""
    told = relay.status()["relay"]["peers"].get(home.peer, {})
    return int(told.get("to_peer_bytes", 0)) + int(told.get("from_peer_bytes", 0))

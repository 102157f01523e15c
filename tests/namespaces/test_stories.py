"""A swarm as the internet has it: two relays, homes behind routers of every kind, a client.

One swarm serves all tests of this file, in their order. `first` is the bootstrap and serves the
first half of the model, as the relays do; the homes serve the second half. What a test kills stays
dead.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.namespaces.lab import Host, Lab, Nat
from tests.namespaces.nodes import MANYHANDS, Served, answering, generate, start_all

pytestmark = [pytest.mark.slow, pytest.mark.swarm]

HOMES = [Nat.FULL_CONE, Nat.PORT_RESTRICTED, Nat.SYMMETRIC, Nat.FIREWALL]
RELAYING = ("--relay", "0.0.0.0:31402")
N_TOKENS = 120
FORGET_S = 90.0  # a record lives for 30 seconds; everybody here has its own


@dataclass
class Swarm:
    lab: Lab
    first: Served
    relays: list[Served]
    homes: dict[Nat, Served]
    client: Host

    def options(self, home: Served, *more: object) -> tuple[object, ...]:
        """Of an answer by the bootstrap and one home."""
        required = ("--require", self.first.peer, "--require", home.peer)
        joins = (f"--join={node.address}" for node in (self.first, *self.relays))
        return (*joins, *required, "--no-spares", "--wait=60", *more)


@pytest.fixture(scope="module")
def swarm(shared_lab: Lab) -> Swarm:
    lab = shared_lab
    first = Served(lab.host("first"), "0:4")
    relays = [Served(lab.host(f"relay{n}"), "0:4", *RELAYING) for n in (1, 2)]
    homes = {kind: Served(lab.host(kind.name, kind), "4:8") for kind in HOMES}
    start_all([first, *relays], first.address)
    start_all(homes.values(), first.address)
    return Swarm(lab, first, relays, homes, lab.host("client", Nat.SYMMETRIC))


@pytest.fixture(scope="module")
def reference(swarm: Swarm) -> list[int]:
    """The answer while nothing happens, by the one home that can be dialled."""
    asked = swarm.options(swarm.homes[Nat.FULL_CONE], "--max-tokens", N_TOKENS)
    return list(generate(swarm.client, *asked)["token_ids"])


def meanwhile(swarm: Swarm, home: Served, happens: Any, *, at: int = 10) -> dict[str, Any]:
    """An answer during which something happens; the last line of it."""
    line: dict[str, Any] = {}
    with answering(
        swarm.client, *swarm.options(home, "--max-tokens", N_TOKENS, "--timeout", 120)
    ) as lines:
        for line in lines:
            if line["event"] == "token" and line["index"] == at:
                happens()
    assert line.get("event") == "done", f"{line}\n{swarm.lab.errors()}"
    return line


@pytest.mark.parametrize("kind", HOMES, ids=lambda kind: kind.name)
def test_a_home_behind_each_kind_of_router_is_part_of_an_answer(
    swarm: Swarm, reference: list[int], kind: Nat
):
    home = swarm.homes[kind]

    answer = generate(swarm.client, *swarm.options(home, "--max-tokens", N_TOKENS))

    assert [hop["peer"] for hop in answer["route"]] == [swarm.first.peer, home.peer]
    assert answer["token_ids"] == reference


def carried(relay: Served, home: Served) -> int:
    """Bytes that a relay has carried for a home."""
    told = relay.status()["relay"]["peers"].get(home.peer, {})
    return int(told.get("to_peer_bytes", 0)) + int(told.get("from_peer_bytes", 0))


def relay_in_use(swarm: Swarm, home: Served) -> Served:
    """That which carries most when a home is asked for an answer."""
    before = [carried(relay, home) for relay in swarm.relays]
    generate(swarm.client, *swarm.options(home, "--max-tokens", 40))
    after = [carried(relay, home) for relay in swarm.relays]
    grown = [late - early for early, late in zip(before, after, strict=True)]
    assert max(grown) > 10_000, grown
    return swarm.relays[grown.index(max(grown))]


def test_a_relay_that_falls_silent_in_mid_answer_costs_no_token(swarm: Swarm, reference: list[int]):
    home = swarm.homes[Nat.PORT_RESTRICTED]
    relay = relay_in_use(swarm, home)

    done = meanwhile(swarm, home, lambda: swarm.lab.cut(relay.host, home.host))
    swarm.lab.heal()

    assert done["token_ids"] == reference


def test_a_relay_that_is_killed_in_mid_answer_costs_no_token(swarm: Swarm, reference: list[int]):
    home = swarm.homes[Nat.SYMMETRIC]
    relay = relay_in_use(swarm, home)

    done = meanwhile(swarm, home, relay.end)

    assert done["token_ids"] == reference


def knows(host: Host, asked: Served, other: Served) -> bool:
    """Whether a node still has another in its table, as somebody on a host beside it is told."""
    home = host.lab.directory / f"{host.name}-client"
    command = ("peers", f"--join={asked.address}", "--home", home, "--json")
    ended = host.run(*MANYHANDS, *command)
    assert ended.code == 0, ended.err
    return other.peer in [row["peer"] for row in json.loads(ended.out)["peers"]]


def until(holds: Callable[[], bool], why: Callable[[], str]) -> None:
    until_s = time.monotonic() + FORGET_S
    while not holds():
        assert time.monotonic() < until_s, why()


def test_two_halves_forget_each_other_and_are_one_again_when_it_heals(
    swarm: Swarm, reference: list[int]
):
    cone, home = swarm.homes[Nat.FULL_CONE], swarm.homes[Nat.PORT_RESTRICTED]
    (relay, *_) = (node for node in swarm.relays if node.process and node.process.poll() is None)
    there, errors = swarm.lab.host("other-client", Nat.PORT_RESTRICTED), swarm.lab.errors
    here = [swarm.first.host, cone.host, swarm.client]
    edges = {host.edge for host in here}

    def ask(client: Host, joined: Served, asked: Served) -> list[int]:
        """An answer by these two; asked for by somebody who knows nobody else."""
        required = (f"--join={joined.address}", "--require", joined.peer, "--require", asked.peer)
        options = ("--no-spares", "--wait=60", "--max-tokens", N_TOKENS)
        return list(generate(client, *required, *options)["token_ids"])

    swarm.lab.partition(here, {host.edge for host in swarm.lab.hosts} - edges)
    until(lambda: not knows(swarm.client, swarm.first, home), errors)
    until(lambda: not knows(there, relay, cone), errors)
    parted = ask(swarm.client, swarm.first, cone), ask(there, relay, home)
    swarm.lab.heal()
    until(lambda: knows(swarm.client, swarm.first, home), errors)
    until(lambda: knows(there, relay, cone), errors)
    healed = ask(swarm.client, swarm.first, home), ask(there, relay, cone)

    assert [*parted, *healed] == [reference] * 4


def test_the_bootstrap_goes_for_good_and_the_others_go_on(swarm: Swarm, reference: list[int]):
    swarm.first.host.kill()
    alive = [node for node in swarm.relays if node.process and node.process.poll() is None]

    for home in swarm.homes.values():
        joins = [f"--join={node.address}" for node in alive]
        asked = (*joins, "--require", home.peer, "--wait=60", "--max-tokens", N_TOKENS)
        answer = generate(swarm.client, *asked)
        assert answer["token_ids"] == reference
        assert answer["route"][0]["peer"] in [node.peer for node in alive]

    newcomer = Served(swarm.lab.host("newcomer", Nat.PORT_RESTRICTED), "4:8")
    start_all([newcomer], alive[0].address)
    asked = (f"--join={alive[0].address}", "--require", newcomer.peer, "--wait=60")
    assert generate(swarm.client, *asked, "--max-tokens", N_TOKENS)["token_ids"] == reference

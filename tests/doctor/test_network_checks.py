"""The doctor on the ways to others: real listeners on loopback, and names that nobody has."""

import importlib.util
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from manyhands.doctor.case import Asked, Case
from manyhands.doctor.examining import examine
from manyhands.doctor.finding import Finding, Verdict
from manyhands.doctor.network import clock_finding, reach_finding
from manyhands.doctor.registry import chosen
from manyhands.doctor.ways import mapping_finding, nat_finding, router_finding
from manyhands.home import Home, open_identity
from manyhands.local import free_ports
from manyhands.own_words import PortAsked
from node.ports.router import NatPmp, Pcp
from node.ports.upnp import Upnp
from protocol.address import Address
from protocol.announcement_table import Merged
from protocol.clock import wall_ms
from protocol.identity import Identity
from protocol.measured import Measured
from protocol.reachability import Nat, Reach
from protocol.reachability import Verdict as Reached
from tests.announcing import key_of, peer_of
from tests.doctor.peers import announced, nobody, peer
from tests.node.ports.routers import Router, serving


@pytest.fixture
def look(tmp_path):
    """Run one check; what it found."""

    async def run(check: str, *join: Address, **more: object) -> Finding:
        asked = Asked(home=tmp_path / "home", join=join, **more)  # type: ignore[arg-type]
        [result] = await examine(chosen((check,), ()), Case(asked))
        return result.finding

    return run


async def test_addresses_that_answer_are_well_and_the_others_are_named(look):
    async with peer(1) as address:
        dead = nobody(2)

        well = await look("bootstrap", address)
        half = await look("bootstrap", address, dead)
        impostor = await look("bootstrap", Address("127.0.0.1", address.port, peer_of(3)))
    none = await look("bootstrap", dead)

    assert well.verdict is Verdict.OK
    assert "1 of 1 addresses answer" in well.reason
    assert "1 peers are announced" in well.reason
    assert (half.verdict, dead.target in half.reason) == (Verdict.WARN, True)
    assert (impostor.verdict, "is peer" in impostor.reason) == (Verdict.FAIL, True)
    assert f"use /p2p/{peer_of(1)}" in impostor.fix
    assert (none.verdict, "0 of 1" in none.reason) == (Verdict.FAIL, True)
    assert (await look("bootstrap")).verdict is Verdict.SKIP


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "words"),
    [(0, "ok", ""), (120, "warn", "120.0 s behind"), (1200, "fail", "ten minutes from now")],
)
async def test_a_clock_that_differs_from_those_of_peers_is_told(look, ahead_s, verdict, words):
    async with peer(1, ahead_ms=1000 * ahead_s) as address:
        found = await look("clock", address)

    assert found.verdict == verdict
    assert words in found.reason


@pytest.mark.parametrize(
    ("now_s", "skews_s", "dropped", "verdict"),
    [
        (0.0, [], {}, "fail"),
        (2e9, [], {}, "skip"),
        (2e9, [-0.2, 0.1, 400.0], {}, "ok"),  # one peer's clock is its own affair
        (2e9, [-400.0, -401.0, 0.1], {}, "warn"),
        (2e9, [601.0], {}, "fail"),
        (2e9, [0.1], {Merged.EXPIRED: 9}, "fail"),
        (2e9, [0.1, 0.2], {Merged.EXPIRED: 1, Merged.FORGED: 9}, "ok"),
    ],
)
def test_the_median_of_clocks_counts_and_what_no_clock_can_be(now_s, skews_s, dropped, verdict):
    assert clock_finding(now_s, skews_s, dropped).verdict == verdict


async def test_a_name_that_nobody_has_is_an_error(look):
    found = await look("dns", Address("no-such-host.invalid", 31400, peer_of(1)))
    local = await look("dns", Address("localhost", 31400, peer_of(1)))
    hub = await look("dns", environment={"HF_ENDPOINT": "http://hub.invalid:80"})

    assert (found.verdict, "no-such-host.invalid" in found.reason) == (Verdict.FAIL, True)
    assert local.verdict is Verdict.OK
    assert (hub.verdict, "hub.invalid" in hub.reason) == (Verdict.WARN, True)


REACHES: Sequence[tuple[Reach, str, str]] = (
    (Reach(), "skip", ""),
    (Reach(verdict=Reached.DIRECT, nat=Nat.NONE, n_confirmed=1), "ok", ""),
    (Reach(verdict=Reached.MAPPED, nat=Nat.ENDPOINT_INDEPENDENT, n_confirmed=1), "ok", ""),
    (Reach(verdict=Reached.NAT, nat=Nat.SYMMETRIC), "warn", "forward TCP port 31400"),
    (Reach(verdict=Reached.FIREWALLED), "warn", "firewall"),
)


@pytest.mark.parametrize(("reach", "verdict", "fix"), REACHES)
def test_what_peers_found_of_a_node_is_told_with_the_step_that_opens_it(reach, verdict, fix):
    found = reach_finding(reach, (nobody(1),), 31400)

    assert found.verdict == verdict
    assert fix in found.fix


async def test_the_node_of_this_home_is_judged_by_what_it_announces(look, tmp_path):
    ours = open_identity(Home.at(tmp_path / "home").node)
    reach = Reach(verdict=Reached.NAT, nat=Nat.SYMMETRIC)
    said = announced(ours, Address("10.1.2.3", 31400, ours.peer_id), wall_ms(), reach=reach)

    async with peer(1) as address:
        unknown = await look("reachability", address)
    async with peer(1, said) as address:
        known = await look("reachability", address)

    assert unknown.verdict is Verdict.SKIP
    assert (known.verdict, "symmetric" in known.reason) == (Verdict.WARN, True)


@pytest.mark.parametrize("nat", [*Nat, "", "nonsense"])
def test_each_kind_of_router_is_told_and_only_the_symmetric_one_is_a_warning(nat):
    assert (nat_finding(nat).verdict is Verdict.WARN) == (nat == Nat.SYMMETRIC)


def test_what_the_router_gave_the_running_node_is_told_or_why_it_gave_nothing():
    given = mapping_finding(PortAsked(protocol="PCP", external="203.0.113.5:31400", problem=""))
    refused = mapping_finding(PortAsked(protocol="", external="", problem="it is full"))

    assert (given.verdict, "203.0.113.5:31400" in given.reason) == (Verdict.OK, True)
    assert (refused.verdict, "it is full" in refused.reason) == (Verdict.WARN, True)


async def test_a_router_that_nobody_asked_tells_its_address_and_maps_nothing():
    router = Router(host="8.8.4.4")
    async with serving(router) as port:
        outside = await router_finding(ways_to(port))
    async with serving(Router(host="8.8.4.4", pcp=False)) as port:
        older = await router_finding(ways_to(port))
    async with serving(Router(host="10.0.0.1")) as port:
        behind = await router_finding(ways_to(port))
    nobody_there = await router_finding(ways_to(port))

    assert (outside.verdict, "8.8.4.4 outside" in outside.reason) == (Verdict.OK, True)
    assert "by PCP, NAT-PMP:" in outside.reason
    assert router.mapped == {}
    assert "by NAT-PMP:" in older.reason
    assert (behind.verdict, "10.0.0.1" in behind.reason) == (Verdict.WARN, True)
    assert (nobody_there.verdict, "PCP: the router does not" in nobody_there.reason) == (
        Verdict.SKIP,
        True,
    )
    assert (await router_finding(())).verdict is Verdict.SKIP


async def test_a_router_that_speaks_upnp_alone_is_not_taken_for_a_deaf_one():
    class Igd(Upnp):
        """What the library finds, and says of it."""

        def __init__(self, host: str) -> None:
            super().__init__()
            self._device = SimpleNamespace(externalipaddress=lambda: host)

    async with serving(Router()) as port:
        pass
    found = await router_finding((*ways_to(port), Igd("8.8.4.4")))
    behind = await router_finding((Igd("192.168.0.2"),))

    assert (found.verdict, "by UPnP:" in found.reason) == (Verdict.OK, True)
    assert behind.verdict is Verdict.WARN


def ways_to(port: int) -> tuple[Pcp, NatPmp]:
    return Pcp("127.0.0.1", port=port), NatPmp("127.0.0.1", port=port)


@pytest.mark.parametrize("speaks", [True, False])
async def test_peers_are_asked_to_dial_the_port_of_a_machine_that_serves_nothing_yet(look, speaks):
    port = free_ports(1)[0]
    async with peer(1, dials_back=speaks) as address:
        found = await look("dial-back", address, listen=("127.0.0.1", port))
        behind = await look("dial-back", address, listen=("127.0.0.2", port))
    nobody_met = await look("dial-back", nobody(2), listen=("127.0.0.1", port))

    if speaks:
        assert (found.verdict, f"127.0.0.1:{port}" in found.reason) == (Verdict.OK, True)
        assert (behind.verdict, "in vain: refused" in behind.reason) == (Verdict.WARN, True)
        assert behind.fix
    else:
        assert (found.verdict, "nobody who was met dialled back" in found.reason) == (
            Verdict.SKIP,
            True,
        )
    assert (nobody_met.verdict, "nobody was met" in nobody_met.reason) == (Verdict.SKIP, True)


async def test_a_port_that_is_in_use_is_not_dialled_back(look):
    with socket.create_server(("127.0.0.1", 0)) as held:
        async with peer(1, dials_back=True) as address:
            found = await look("dial-back", address, listen=held.getsockname()[:2])

    assert found.verdict is Verdict.SKIP


async def test_relays_are_dialled_and_where_there_are_none_nothing_is_wrong(look):
    relaying = Measured(relay_slots=3)
    dead = nobody(2)
    gone = announced(Identity(key_of(2)), dead, wall_ms(), measured=relaying)
    async with peer(1) as address:
        none = await look("relays", address)
    async with peer(1, measured=relaying) as address:
        some = await look("relays", address)
    async with peer(1, gone) as address:
        silent = await look("relays", address)

    assert none.verdict is Verdict.SKIP
    assert (some.verdict, "room for 3 more; 1 of 1 answer" in some.reason) == (Verdict.OK, True)
    assert (silent.verdict, "0 of 1 answer" in silent.reason) == (Verdict.WARN, True)


async def test_those_who_are_announced_are_dialled_and_who_does_not_answer_is_named(look):
    gone = announced(Identity(key_of(2)), nobody(2), wall_ms())
    async with peer(1) as address:
        well = await look("peers", address)
    async with peer(1, gone) as address:
        lost = await look("peers", address)

    assert (well.verdict, "of 1 peers these answer: 1 direct" in well.reason) == (Verdict.OK, True)
    assert (lost.verdict, f"…{peer_of(2)[-12:]}: " in lost.reason) == (Verdict.WARN, True)
    assert lost.fix == f"manyhands swarm why {peer_of(2)}"
    assert (await look("peers")).verdict is Verdict.SKIP


async def test_where_no_node_runs_nobody_is_asked_about_its_router(look):
    assert (await look("nat")).verdict is Verdict.SKIP


async def test_libp2p_is_told_to_be_there_or_how_to_get_it(look):
    found = await look("libp2p")

    if importlib.util.find_spec("libp2p") is None:
        assert (found.verdict, "manyhands[libp2p]" in found.fix) == (Verdict.WARN, True)
    else:
        assert found.verdict is Verdict.OK


async def test_one_check_that_hangs_or_breaks_hides_no_other(look, tmp_path):
    async def breaks(case: Case) -> Finding:
        raise RuntimeError("oh")

    [port] = chosen(("port",), ())
    [met] = chosen(("bootstrap",), ())
    asked = Asked(home=tmp_path, join=(nobody(1),), listen=("127.0.0.1", 0))
    began_s = time.monotonic()

    results = await examine(
        [replace(met, deadline_s=0.0), replace(port, id="broken", examine=breaks), port],
        Case(asked),
    )

    assert [result.finding.verdict.value for result in results] == ["warn", "fail", "skip"]
    assert "could not be told" in results[0].finding.reason
    assert "RuntimeError: oh" in results[1].finding.reason
    assert time.monotonic() - began_s < 5


@pytest.mark.slow
async def test_a_node_that_cannot_start_on_loopback_is_an_error(look, monkeypatch):
    monkeypatch.setenv("MANYHANDS_SERVE_DEVICE", "cuda:9")

    found = await look("generation")

    assert (found.verdict, "no device cuda:9" in found.reason) == (Verdict.FAIL, True)

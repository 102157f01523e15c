"""The service through libp2p, between homes that nothing else connects: holes, and circuits.

The relay is a peer of ours, or the reference daemon in Go.
"""

import asyncio
import time
from pathlib import Path

import pytest

from protocol.transport.libp2p import is_installed
from tests.namespaces.lab import Host, Lab, Nat
from tests.namespaces.tunnel_peer import TunnelPeer
from tests.p2pd import IDENTIFY, Daemon, bytes_of, find_p2pd, peer_text, read

P2PD = find_p2pd()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.libp2p,
    pytest.mark.skipif(not is_installed(), reason="the libp2p extra is not installed"),
]


def pair(
    lab: Lab, relay: str, called: Nat, caller: Nat
) -> tuple[TunnelPeer, TunnelPeer, list[str]]:
    """Two peers that know a relay, and where the first has its place."""
    there = TunnelPeer(lab.host("there", called), relay)
    here = TunnelPeer(lab.host("here", caller), relay)
    return there, here, there.until("relays", bool)


@pytest.mark.parametrize(
    ("called", "caller"),
    [
        (Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED),
        (Nat.SYMMETRIC, Nat.RESTRICTED),
        (Nat.FIREWALL, Nat.PORT_RESTRICTED),
    ],
    ids=lambda kind: kind.name,
)
def test_a_hole_is_punched_and_the_service_answers_through_it(lab: Lab, called: Nat, caller: Nat):
    relay = TunnelPeer(lab.host("relay"))
    there, here, relays = pair(lab, relay.address, called, caller)

    answer = here.ask("echo", there.peer_id, relays, True, [1024] * 20)
    relay.host.kill()
    without = here.ask("echo", there.peer_id, relays, True, [1024] * 20)

    assert answer.get("caller") == without.get("caller") == here.peer_id, (answer, without)
    assert here.until("status", lambda told: told["punched"])["punched"] == 1


def test_a_circuit_in_use_is_left_for_the_hole_when_the_routers_let_each_other_through(lab: Lab):
    relay = TunnelPeer(lab.host("relay"))
    there, here, relays = pair(lab, relay.address, Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED)
    lab.cut(there.host, here.host)

    assert here.ask("reach", there.peer_id, relays) == "circuit"
    assert here.ask("move") == "circuit"
    time.sleep(25)  # all attempts of the first round have failed: there will be another one
    lab.heal()

    assert here.until("move", lambda path: path != "circuit", timeout_s=240) == "punched"
    relay.host.kill()
    assert here.ask("move") == "punched"


def test_symmetric_routers_take_no_hole_and_are_reached_by_a_circuit(lab: Lab):
    relay = TunnelPeer(lab.host("relay"))
    there, here, relays = pair(lab, relay.address, Nat.SYMMETRIC, Nat.SYMMETRIC)

    circuit = here.ask("echo", there.peer_id, relays, False, [1024] * 20)
    punched = here.ask("echo", there.peer_id, relays, True, [])
    again = here.ask("echo", there.peer_id, relays, True, [])

    assert circuit.get("caller") == here.peer_id, circuit
    assert "no hole could be punched" in punched["error"]
    assert "a while ago" in again["error"]
    assert relay.ask("status")["relaying"]["carried_bytes"] > 2 * 20 * 1024


def test_who_sees_two_of_its_ports_knows_that_its_router_is_symmetric(lab: Lab):
    relay, other = TunnelPeer(lab.host("relay")), TunnelPeer(lab.host("other"))
    here = TunnelPeer(lab.host("here", Nat.SYMMETRIC), relay.address, other.address)

    assert here.until("status", lambda told: len(told["relays"]) == 2)["symmetric"]


def test_the_routers_own_choice_of_port_is_what_is_dialled(lab: Lab):
    relay = TunnelPeer(lab.host("relay"))
    first = TunnelPeer(lab.host("first", Nat.PORT_RESTRICTED), relay.address)
    there = TunnelPeer(lab.host("there", behind=first.host.router), relay.address)
    here = TunnelPeer(lab.host("here", Nat.PORT_RESTRICTED), relay.address)
    relays = there.until("relays", bool)  # from the port that `first` has already taken outside

    answer = here.ask("echo", there.peer_id, relays, True, [1024])

    assert answer.get("caller") == here.peer_id, answer


def test_a_circuit_is_found_again_through_another_relay(lab: Lab):
    one, two = TunnelPeer(lab.host("one")), TunnelPeer(lab.host("two"))
    there = TunnelPeer(lab.host("there", Nat.SYMMETRIC), one.address, two.address)
    here = TunnelPeer(lab.host("here", Nat.SYMMETRIC), one.address, two.address)
    relays = there.until("relays", lambda told: len(told) == 2)

    assert "caller" in here.ask("echo", there.peer_id, relays, False, [1024])
    one.host.kill()
    answer = here.ask("echo", there.peer_id, relays, False, [1024])

    assert answer.get("caller") == here.peer_id, answer


@pytest.fixture
def daemon(lab: Lab) -> str:
    """The reference daemon as a relay: its address."""
    host = lab.host("relay")
    socket = lab.directory / "p2pd.sock"
    flags = ("-quic=false", "-relayService=1", "-forceReachabilityPublic", "-q")
    host.start(P2PD, f"-listen=/unix{socket}", f"-hostAddrs=/ip4/{host.address}/tcp/4001", *flags)
    return f"/ip4/{host.address}/tcp/4001/p2p/{asyncio.run(_identify(socket, host))}"


async def _identify(socket: Path, host: Host) -> str:
    asking = Daemon(socket, b"", None)  # type: ignore[arg-type]  # it is what we ask for
    async with asyncio.timeout(30):
        while True:
            try:
                told = read(bytes_of((await asking.ask(IDENTIFY))[4][0]))
                return peer_text(bytes_of(told[1][0]))
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.1)


@pytest.mark.skipif(P2PD is None, reason="no p2pd: scripts/test fetches it where it can")
def test_through_the_reference_daemon_holes_are_arranged_and_what_it_carries_is_known(
    lab: Lab, daemon: str
):
    """It runs two relay services that race for the protocol: one says 128 KiB in two minutes, whose
    circuits are good for a few words only, the other 4 GiB in half an hour.
    """
    there, here, relays = pair(lab, daemon, Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED)

    circuit = here.ask("echo", there.peer_id, relays, False, [1024])
    punched = here.ask("echo", there.peer_id, relays, True, [1024, 4 * 2**20])

    assert relays == [daemon]
    carried = circuit.get("caller") == here.peer_id
    assert carried or "a few words only" in circuit["error"], circuit
    assert punched.get("caller") == here.peer_id, punched

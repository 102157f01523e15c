"""Every verdict on a node's reachability, found by real dial-backs through real routers."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.namespaces.lab import Host, Lab, Nat, Router
from tests.namespaces.nodes import MANYHANDS, Served, start_all
from tests.namespaces.upnp import miniupnpd, why_no_miniupnpd

pytestmark = pytest.mark.slow

PEER = (sys.executable, "-m", "tests.namespaces.whereabouts")
N_DIALERS = 3
DOCTOR = ("--only", "port-mapping")


class Swarm:
    """Public peers that dial back, and whoever asks them."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.n_peers = lab, N_DIALERS
        self.hosts = [lab.host(f"dialer{n}") for n in range(1, N_DIALERS + 1)]
        self.asked = [f"--ask={n}@{host.address}" for n, host in enumerate(self.hosts, start=1)]
        for n, host in enumerate(self.hosts, start=1):
            said(host.start(*PEER, n, "0.0.0.0"), lambda view: True)

    def ask(self, host: Host, *more: str) -> "subprocess.Popen[str]":
        self.n_peers += 1
        return host.start(*PEER, self.n_peers, "0.0.0.0", *self.asked, *more)


def said(
    process: "subprocess.Popen[str]", holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The first thing a peer says that `holds`; it is killed if it takes a minute."""
    assert process.stdout is not None
    until_s = time.monotonic() + 60
    for line in process.stdout:
        view = dict(json.loads(line))
        if holds(view):
            return view
        assert time.monotonic() < until_s, view
    raise AssertionError("it ended before it said so")


def has_verdict(view: dict[str, Any]) -> bool:
    """And, which takes all answers of a round, how its router maps."""
    return view["verdict"] != "unknown" and view["nat"] != "unknown"


def test_each_kind_of_home_gets_the_verdict_that_is_true_of_it(lab: Lab):
    swarm = Swarm(lab)
    homes = {kind: lab.host(f"home-{kind.name}", kind) for kind in Nat}

    asking = {kind: swarm.ask(home) for kind, home in homes.items()}
    told = {kind: said(process, has_verdict) for kind, process in asking.items()}

    verdicts = {kind: (view["verdict"], view["nat"]) for kind, view in told.items()}
    assert verdicts == {
        Nat.NONE: ("direct", "none"),
        Nat.FIREWALL: ("firewalled", "none"),
        Nat.FULL_CONE: ("mapped", "endpoint-independent"),
        # It forwards all to whom its home has sent to, and who is asked to dial has been sent to.
        Nat.RESTRICTED: ("mapped", "endpoint-independent"),
        Nat.PORT_RESTRICTED: ("nat", "endpoint-independent"),
        Nat.SYMMETRIC: ("nat", "symmetric"),
    }
    for kind, view in told.items():
        home, is_public = homes[kind], view["verdict"] in ("direct", "mapped")
        assert view["seen_hosts"] == [home.seen_as]
        assert view["n_confirmed"] == is_public
        first = home.seen_as if is_public else home.address
        assert view["addresses"][0] == f"{first}:31400"
        dialled = {witness["outcome"] for witness in view["witnesses"]}
        assert dialled == ({"reached"} if is_public else {"timed out"})


def test_a_node_whose_firewall_is_opened_and_closed_learns_of_both(lab: Lab):
    swarm = Swarm(lab)
    home = lab.host("home", Nat.FIREWALL)
    process = swarm.ask(home)
    assert said(process, has_verdict)["verdict"] == "firewalled"

    home.iptables("-F INPUT")
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)

    assert said(swarm.ask(home), has_verdict)["verdict"] == "direct"


@pytest.mark.swarm
def test_who_serves_behind_a_router_reads_in_status_how_it_is_and_what_to_do(lab: Lab):
    public = [Served(lab.host("one"), "0:4"), Served(lab.host("two"), "4:8")]
    start_all(public, *(node.address for node in public))
    home = Served(lab.host("home", Nat.SYMMETRIC), "0:8")
    home.start(*(node.address for node in public))
    assert home.until_ready()["reach"] == "unknown"
    until_s = time.monotonic() + 60
    while home.status()["reach"]["verdict"] == "unknown":
        assert time.monotonic() < until_s, home.host.errors()

    def reads(*command: object) -> dict[str, Any]:
        ended = home.host.run(*MANYHANDS, *command, "--home", home.home.root, "--json")
        assert ended.code == 0, ended.err
        return dict(json.loads(ended.out))

    [told] = reads("status")["running"][0]["reach"]
    rows = {row["peer"]: row for row in reads("peers")["peers"]}

    assert (told["peer"], told["verdict"], told["nat"]) == (home.peer, "nat", "symmetric")
    assert told["why"].startswith(f"2 peers dialled {home.host.seen_as}:31400")
    assert told["fix"].startswith("forward TCP port 31400")
    assert (rows[home.peer]["reach"], rows[home.peer]["nat"]) == ("nat", "symmetric")


# --- a router that forwards a port when it is asked to ------------------------------------------

needs_miniupnpd = pytest.mark.skipif(bool(why_no_miniupnpd()), reason=why_no_miniupnpd())


def forwarded(router: Router) -> str:
    return router.run("nft", "list", "chain", "inet", "miniupnpd", "prerouting").out


@needs_miniupnpd
@pytest.mark.parametrize("way", ["PCP", "UPnP"])
def test_a_real_router_forwards_a_port_for_as_long_as_the_node_runs(lab: Lab, way: str):
    if way == "UPnP":
        pytest.importorskip("miniupnpc", reason="pip install 'manyhands[upnp]'")
    swarm = Swarm(lab)
    home = lab.host("home", Nat.PORT_RESTRICTED)
    assert isinstance(home.router, Router)
    miniupnpd(home.router, natpmp=way == "PCP", upnp=way == "UPnP")

    looked = home.run(*MANYHANDS, "doctor", "--json", *DOCTOR, "--home", lab.directory / "doctor")
    [asked] = json.loads(looked.out)["checks"]
    before = forwarded(home.router)
    process = swarm.ask(home, "--map-port")
    view = said(process, lambda view: view["verdict"] == "mapped")
    during = forwarded(home.router)
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)

    assert (asked["verdict"], way in asked["reason"]) == ("ok", True), "whether it would"
    assert "dnat" not in before, "asking maps nothing"
    assert view["port_mapping"]["protocol"] == way
    assert view["port_mapping"]["problem"] == ""
    outside = int(view["port_mapping"]["external"].rpartition(":")[2])
    assert view["addresses"][0] == f"{home.seen_as}:{outside}"
    assert view["n_confirmed"] == 1
    assert f"dnat ip to {home.address}:31400" in during
    assert "dnat" not in forwarded(home.router)


def test_a_router_that_forwards_nothing_is_named_with_every_reason(lab: Lab):
    swarm = Swarm(lab)
    process = swarm.ask(lab.host("home", Nat.PORT_RESTRICTED), "--map-port")

    view = said(process, lambda view: "UPnP" in view["port_mapping"]["problem"])

    problem = view["port_mapping"]["problem"]
    assert "PCP: " in problem
    assert "NAT-PMP: " in problem
    assert "UPnP: " in problem
    assert view["port_mapping"]["external"] is None

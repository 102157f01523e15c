"""The laboratory itself: its routers let through what such routers do, and its faults happen."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.namespaces.lab import Host, Lab, Nat, remove_leftovers

PATIENCE_S = 0.2  # for what must not come; a datagram is there when its sending returns,
COMES_S = 10.0  # but the first one, before which routers have to find each other


def datagrams(host: Host, port: int) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(type=socket.SOCK_DGRAM)
        made.bind(("", port))
        made.settimeout(PATIENCE_S)
        return made

    return host.inside(make)


def seen_at(server: socket.socket, at: Host, sender: socket.socket) -> tuple[str, int]:
    """Where a datagram to a server comes from, as the server sees it."""
    sender.sendto(b"?", (at.address, server.getsockname()[1]))
    server.settimeout(COMES_S)
    address: tuple[str, int] = server.recvfrom(99)[1]
    server.settimeout(PATIENCE_S)
    return address


def gets_in(sender: socket.socket, to: tuple[str, int], listening: socket.socket) -> bool:
    sender.sendto(b"!", to)
    with contextlib.suppress(TimeoutError):
        return listening.recv(99) == b"!"
    return False


def test_a_router_of_each_kind_lets_in_what_its_kind_does(lab: Lab):
    hosts = [lab.host("one"), lab.host("other"), lab.host("stranger")]
    one, other, strange = (datagrams(host, 5000) for host in hosts)
    same_host = datagrams(hosts[0], 5001)
    keeps_port, lets_in = set(), {}

    for kind in Nat:
        home = lab.host(f"home-{kind.name}", kind)
        asking = datagrams(home, 7000)
        seen = seen_at(one, hosts[0], asking)
        if seen == seen_at(other, hosts[1], asking):
            keeps_port.add(kind)
        lets_in[kind] = [gets_in(each, seen, asking) for each in (one, same_host, strange)]
        assert seen[0] == home.seen_as

    assert set(Nat) - keeps_port == {Nat.SYMMETRIC}
    assert lets_in == {
        Nat.NONE: [True, True, True],
        Nat.FIREWALL: [True, False, False],
        Nat.FULL_CONE: [True, True, True],
        Nat.RESTRICTED: [True, True, False],
        Nat.PORT_RESTRICTED: [True, False, False],
        Nat.SYMMETRIC: [True, False, False],
    }


def connects(host: Host, to: Host, port: int = 5000) -> bool:
    with contextlib.suppress(TimeoutError):
        host.inside(lambda: socket.create_connection((to.seen_as, port), PATIENCE_S)).close()
        return True
    return False


def test_what_is_cut_is_silent_until_it_heals(lab: Lab):
    server, home, other = lab.host("server"), lab.host("home", Nat.SYMMETRIC), lab.host("other")
    listening = server.inside(lambda: socket.create_server(("", 5000)))

    lab.partition([home], [server])
    parted = connects(home, server), connects(other, server)
    lab.heal()
    lab.cut(server)
    alone = connects(home, server), connects(other, server)
    lab.heal()

    assert (parted, alone) == ((False, True), (False, False))
    assert connects(home, server)
    assert connects(other, server)
    listening.close()


def test_neighbours_at_home_reach_each_other_and_nobody_reaches_them(lab: Lab):
    alice = lab.host("alice", Nat.PORT_RESTRICTED)
    bob, outside = lab.host("bob", behind=alice.router), lab.host("outside")
    listening = alice.inside(lambda: socket.create_server(("", 5000)))

    near = bob.inside(lambda: socket.create_connection((alice.address, 5000), PATIENCE_S))

    assert near.getpeername()[0] == alice.address
    assert not connects(outside, alice)
    near.close()
    listening.close()


def test_a_home_behind_a_providers_router_gets_out_and_nobody_gets_in(lab: Lab):
    provider = lab.router("provider", Nat.SYMMETRIC)
    homes = [lab.host(name, Nat.FULL_CONE, behind=provider) for name in ("one", "other")]
    outside = lab.host("outside")
    servers = [host.inside(lambda: socket.create_server(("", 5000))) for host in (outside, *homes)]

    for home in homes:
        home.inside(lambda: socket.create_connection((outside.address, 5000), 5)).close()
        connection, seen = servers[0].accept()
        connection.close()
        assert seen[0] == home.seen_as == provider.address
        assert home.edge is provider
        assert not connects(outside, home)
    for server in servers:
        server.close()


def test_what_a_killed_run_left_is_removed_and_what_runs_stays(lab: Lab):
    lab.host("mine")
    code = (
        "import os, sys; from tests.namespaces.lab import Lab\n"
        "lab = Lab().__enter__(); lab.host('left').start('sleep', '60')\n"
        "print(lab.prefix, lab.directory, flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    prefix, directory = killed.stdout.split()

    remove_leftovers()

    assert killed.returncode == -signal.SIGKILL
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert prefix not in names
    assert not os.path.exists(directory)
    assert f"{lab.prefix}mine" in names


def test_processes_end_with_the_lab():
    with Lab() as lab:
        started = lab.host("here").start("sleep", "60")

    assert started.poll() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(started.pid, 0)

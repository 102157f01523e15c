"""A small internet inside this kernel: a public segment, and homes behind routers of any kind.

In: hosts by name, each with the router it sits behind, and faults to happen to them. Out: network
namespaces with real sockets, real address translation (iptables) and real processes. It needs root,
`ip` and `iptables`; `why_not()` says what is missing.

    with Lab() as lab:
        relay = lab.host("relay")                         # public: 198.51.100.2
        alice = lab.host("alice", Nat.SYMMETRIC)          # 10.1.0.2, seen as 198.51.100.3
        bob = lab.host("bob", behind=alice.router)        # on the same home network
        isp = lab.router("isp", Nat.SYMMETRIC)            # a provider's, before those of homes
        carol = lab.host("carol", Nat.FULL_CONE, behind=isp)  # behind two routers
        ended = alice.run("ping", "-c1", relay.address)   # to its end
        server = relay.start("python", "-m", "…")         # a Popen; its errors: relay.errors()
        port = relay.inside(lambda: socket.create_server(("", 0)))  # a thread in that namespace
        lab.cut(alice, relay); lab.partition([alice], [relay]); lab.heal(); relay.kill()

Packets that may not pass, or go to an address that nobody has, are lost in silence and never
refused, as on the internet. Nothing outside the namespaces is touched. Their names begin with
`mhlab-` and say whose they are: what a run that was killed left behind is removed by the next
`Lab()`. Delays are not emulated: this kernel need not have netem.
"""

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import TypeVar

from tests.cli.command import Ended, environment

T = TypeVar("T")

INTERNET = "198.51.100"  # RFC 5737, TEST-NET-2: what is public in here
_NAME = "mhlab-"
_NEW = ("-m", "conntrack", "--ctstate", "NEW")
_CLONE_NEWNET = 0x40000000
_running = itertools.count()


class Nat(Enum):
    """What stands between a host and the internet (the words of RFC 4787 and RFC 3489)."""

    NONE = "public"
    FIREWALL = "firewalled"  # an address of its own, but nobody can begin a conversation
    FULL_CONE = "full cone"  # one port outside for a port inside, open to everybody
    RESTRICTED = "address-restricted cone"  # open to addresses that the host has sent to
    PORT_RESTRICTED = "port-restricted cone"  # open to the very ports it has sent to: most homes
    SYMMETRIC = "symmetric"  # that, and each conversation gets a port of its own

    @property
    def translates(self) -> bool:
        return self not in (Nat.NONE, Nat.FIREWALL)


def why_not() -> str:
    """What keeps this machine from running a lab; empty if nothing does."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "iptables") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install iproute2 iptables)"
    return ""


class Host:
    """A machine of its own: one namespace. Made by `Lab.host`."""

    def __init__(self, lab: "Lab", name: str, address: str, router: "Router | None") -> None:
        self.lab, self.name, self.address, self.router = lab, name, address, router
        self.namespace = f"{lab.prefix}{name}"
        self._processes: list[subprocess.Popen[str]] = []
        self._errors: list[Path] = []

    @property
    def seen_as(self) -> str:
        """Its address on the internet: its own, or its outermost router's."""
        return self.router.seen_as if self.router else self.address

    @property
    def edge(self) -> "Host":
        """Where its packets enter the internet: its outermost router, or itself."""
        return self.router.edge if self.router else self

    def run(self, *command: object, timeout_s: float = 60, **env: str) -> Ended:
        """Run a command here to its end."""
        done = subprocess.run(
            self._here(command),
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout_s, env=environment(**env),
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(
        self, *command: object, stdin: int = subprocess.DEVNULL, **env: str
    ) -> "subprocess.Popen[str]":
        """Start a command here; stdout is a pipe, stderr kept for `errors`."""
        self._errors.append(self.lab.directory / f"{self.name}-{len(self._errors)}.err")
        with self._errors[-1].open("w") as errors:
            process = subprocess.Popen(
                self._here(command),
                stdin=stdin, stdout=subprocess.PIPE, stderr=errors,
                text=True, env=environment(OMP_WAIT_POLICY="passive", **env),
            )  # fmt: skip
        self._processes.append(process)
        return process

    def errors(self) -> str:
        """What the processes started here have said on stderr so far."""
        return "\n".join(f"--- {path.stem}\n{path.read_text()}" for path in self._errors)

    def inside(self, work: Callable[[], T]) -> T:
        """Call `work` in a thread inside this namespace: sockets it makes are this host's."""
        with ThreadPoolExecutor(1, initializer=self._enter) as thread:
            return thread.submit(work).result()

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to all that was started here and still runs; SIGKILL is waited for."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signum)
                if signum == signal.SIGKILL:
                    process.wait()

    def shape(self, mbit_per_s: int) -> None:
        """From now on this host's edge sends to the internet no faster."""
        rate = f"rate {mbit_per_s}mbit burst 64kbit latency 200ms"
        _do(f"ip netns exec {self.edge.namespace} tc qdisc replace dev wan root tbf {rate}")

    def iptables(self, rule: str) -> None:
        _do(f"ip netns exec {self.namespace} iptables -w {rule}")

    def _here(self, command: Sequence[object]) -> list[str]:
        return ["nice", "-n", "10", "ip", "netns", "exec", self.namespace, *map(str, command)]

    def _enter(self) -> None:
        with Path(f"/run/netns/{self.namespace}").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {self.namespace}")


class Router(Host):
    """A home's router: `wan` outside, `lan` inside. A host too: miniupnpd may run on it."""

    def __init__(
        self,
        lab: "Lab",
        name: str,
        address: str,
        provider: "Router | None",
        kind: Nat,
        network: str,
    ) -> None:
        super().__init__(lab, name, address, provider)
        self.kind, self.network = kind, network  # as "10.1.0"
        self.n_hosts = 0

    def next_address(self) -> str:
        """Inside, for one more host."""
        self.n_hosts += 1
        return f"{self.network}.{self.n_hosts + 1}"

    def translate(self) -> None:
        random = "--random-fully" if self.kind is Nat.SYMMETRIC else ""
        self.iptables(f"-t nat -A POSTROUTING -o wan -j MASQUERADE {random}")
        if self.kind in (Nat.FULL_CONE, Nat.RESTRICTED):
            first = f"-j DNAT --to-destination {self.network}.2"
            self.iptables(f"-t nat -A PREROUTING -i wan -p tcp {first}")
            self.iptables(f"-t nat -A PREROUTING -i wan -p udp {first}")
        if self.kind is Nat.RESTRICTED:
            self.iptables("-A FORWARD -o wan -m recent --name met --set --rdest")
            self.iptables("-A FORWARD -i wan -m recent --name met --rcheck --rsource -j ACCEPT")
        if self.kind is not Nat.FULL_CONE:
            self.iptables(f"-A FORWARD -i wan {' '.join(_NEW)} -j DROP")
            self.iptables(f"-A INPUT -i wan {' '.join(_NEW)} -j DROP")


class Lab:
    """See the module. Leaving it ends every process and removes every namespace."""

    def __init__(self) -> None:
        remove_leftovers()
        self.prefix = f"{_NAME}{os.getpid()}-{_birth(os.getpid())}-{next(_running)}-"
        self.directory = Path(tempfile.mkdtemp(prefix=self.prefix))  # homes and logs
        self.hosts: list[Host] = []
        self._internet = f"{self.prefix}internet"
        self._n_public = self._n_homes = 0

    def __enter__(self) -> "Lab":
        _do(f"ip netns add {self._internet}")
        _do(f"ip -n {self._internet} link add br0 type bridge")
        _do(f"ip -n {self._internet} link set br0 up")
        # A way for what nobody has: without it, senders would be told at once.
        _do(f"ip -n {self._internet} addr add {INTERNET}.1/24 dev br0")
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.kill()
        _remove(self.prefix)

    def host(self, name: str, nat: Nat = Nat.NONE, *, behind: Router | None = None) -> Host:
        """A new host: on the internet, alone in a home with such a router, or one more in a home.

        A home whose own router is `behind` another one has two. With a full or address-restricted
        cone all that comes from outside goes to the first host.
        """
        if nat.translates:
            behind = self.router(f"{name}-router", nat, behind=behind)
        if behind is None:
            host = Host(self, name, f"{INTERNET}.{self._next_public()}", None)
            self._add(host)
            self._plug(host, "wan", self._internet, host.address, f"{INTERNET}.1")
            if nat is Nat.FIREWALL:
                host.iptables(f"-A INPUT -i wan {' '.join(_NEW)} -j DROP")
            return host
        host = Host(self, name, behind.next_address(), behind)
        self._add(host)
        self._plug(host, "eth0", behind.namespace, host.address, f"{behind.network}.1")
        return host

    def router(self, name: str, kind: Nat, *, behind: Router | None = None) -> Router:
        """A router with nobody behind it yet; it may be behind a provider's itself."""
        self._n_homes += 1
        network = f"10.{self._n_homes}.0"
        address = behind.next_address() if behind else f"{INTERNET}.{self._next_public()}"
        segment = behind.namespace if behind else self._internet
        router = Router(self, name, address, behind, kind, network)
        self._add(router)
        self._plug(router, "wan", segment, address, f"{behind.network if behind else INTERNET}.1")
        _do(f"ip -n {router.namespace} link add br0 type bridge")
        _do(f"ip -n {router.namespace} addr add {network}.1/24 dev br0")
        _do(f"ip -n {router.namespace} link set br0 up")
        _do(f"ip netns exec {router.namespace} sysctl -qw net.ipv4.ip_forward=1")
        router.translate()
        return router

    def cut(self, one: Host, other: Host | None = None) -> None:
        """Drop all packets between two hosts, or between one and the internet, in silence.

        A home's hosts are cut off together; what they say to each other is not touched.
        """
        if other is None:
            one.edge.iptables("-t raw -I PREROUTING -i wan -j DROP")
            one.edge.iptables("-t raw -I OUTPUT -o wan -j DROP")
            one.edge.iptables("-t mangle -I POSTROUTING -o wan -j DROP")
            return
        for here, there in ((one, other), (other, one)):
            here.edge.iptables(f"-t raw -I PREROUTING -i wan -s {there.seen_as} -j DROP")

    def partition(self, one_side: Iterable[Host], other_side: Iterable[Host]) -> None:
        """Cut every pair between two groups; within each all goes on."""
        for one, other in itertools.product(list(one_side), list(other_side)):
            self.cut(one, other)

    def heal(self) -> None:
        """Undo every cut and partition."""
        for edge in dict.fromkeys(host.edge for host in self.hosts):
            edge.iptables("-t raw -F")
            edge.iptables("-t mangle -F")

    def errors(self) -> str:
        """What all processes said on stderr: for a test that fails."""
        return "\n".join(host.errors() for host in self.hosts)

    def _next_public(self) -> int:
        self._n_public += 1
        return self._n_public + 1

    def _add(self, host: Host) -> None:
        _do(f"ip netns add {host.namespace}")
        _do(f"ip -n {host.namespace} link set lo up")
        self.hosts.append(host)

    def _plug(self, host: Host, device: str, segment: str, address: str, way_out: str) -> None:
        """A cable from a host's device to the bridge `br0` of a segment."""
        port = f"p{len(self.hosts)}"
        peer = f"peer name {port} netns {segment}"
        _do(f"ip link add {device} netns {host.namespace} type veth {peer}")
        _do(f"ip -n {segment} link set {port} master br0 up")
        _do(f"ip -n {host.namespace} addr add {address}/24 dev {device}")
        _do(f"ip -n {host.namespace} link set {device} up")
        _do(f"ip -n {host.namespace} route add default via {way_out}")


def remove_leftovers() -> None:
    """Namespaces, and processes in them, of labs whose run has ended without leaving them."""
    for name in _namespaces():
        pid, birth, *_ = name.removeprefix(_NAME).split("-")
        if _birth(int(pid)) != birth:
            _remove(f"{_NAME}{pid}-{birth}-")


def remove_own() -> None:
    """Whatever labs of this process have left, one whose making was interrupted, say."""
    _remove(f"{_NAME}{os.getpid()}-{_birth(os.getpid())}-")


def _remove(prefix: str) -> None:
    """All namespaces of one lab. Whatever runs inside was started there by it."""
    for name in [name for name in _namespaces() if name.startswith(prefix)]:
        try:
            for pid in _do(f"ip netns pids {name}").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _do(f"ip netns del {name}")
        except RuntimeError:  # another run may remove the same leftovers
            if name in _namespaces():
                raise
    for directory in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(directory, ignore_errors=True)


def _namespaces() -> list[str]:
    names = (line.split()[0] for line in _do("ip netns list").splitlines() if line.strip())
    return [name for name in names if name.startswith(_NAME)]


def _birth(pid: int) -> str:
    """When a process began, so that its number alone names nobody; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _do(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")
    return done.stdout

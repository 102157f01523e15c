"""One topology: made of namespaces, filled with real nodes, asked for an answer, taken down.

In: a `Topology`. Out: a `Result`: whether an answer flowed through the blocks that only the homes
serve, and how long after their start; what the swarm says of each home; where there was no answer,
what `doctor` says on the homes and on the client, by the ids of its checks.
"""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.nat_drawing import N_BLOCKS, WEB_PORTS, Filter, Kind, Topology
from benchmarks.nat_member import Ended, Forge, Running, TooLate
from protocol.address import Address
from tests.namespaces.lab import Host, Lab, Nat, Router
from tests.namespaces.nodes import PROMPT
from tests.namespaces.upnp import miniupnpd

READY_S, DOCTOR_S, PEERS_S = 40.0, 45.0, 30.0
N_TOKENS = 12
LIBP2P_PORT, HOME_PORT = 31401, 31400
# What may explain that a home is not part of an answer. That a router is symmetric or forwards
# nothing is no reason by itself, and whoever has no relay is told so by `relays`.
CHECKS = (
    *("bootstrap", "clock", "reachability", "port", "firewall", "nat", "port-mapping", "relays"),
    "peers",
)
EXPLAINING = frozenset({"bootstrap", "clock", "port", "port-mapping", "relays", "peers"})


@dataclass(frozen=True, slots=True)
class Said:
    """By a check of `doctor` that was not well, on one host."""

    host: str
    id: str
    verdict: str
    reason: str

    @property
    def explains(self) -> bool:
        return self.verdict == "fail" or self.id in EXPLAINING


@dataclass(slots=True)
class Result:
    topology: Topology
    token_ids: list[int] = field(default_factory=list)
    after_s: float = 0.0  # from the start of the homes to the end of the answer
    took_s: float = 0.0  # with all that is made and taken down
    first_token_ms: float = 0.0
    reach: dict[str, str] = field(default_factory=dict)  # by home: verdict, as announced
    error: str = ""
    said: list[Said] = field(default_factory=list)

    @property
    def is_explained(self) -> bool:
        return any(each.explains for each in self.said)


def run(topology: Topology, forge: Forge, patience_s: float) -> Result:
    """
    Raises:
        Stopped: somebody asked us to end.
    """
    result, began_s = Result(topology), time.monotonic()
    with Lab() as lab:
        _Trial(lab, topology, forge, patience_s, result).run()
    result.took_s = time.monotonic() - began_s
    return result


def reference(forge: Forge) -> list[int]:
    """The answer where nothing is in the way: of one public node that serves everything.

    Raises:
        TooLate: there is none.
    """
    topology = Topology(0, 1, (HOME_PORT, 31402), (), Kind(Nat.NONE))
    result = run(topology, forge, patience_s=60.0)
    if result.error:
        raise TooLate(f"not even one public node answers: {result.error}")
    return result.token_ids


class _Trial:
    def __init__(
        self, lab: Lab, topology: Topology, forge: Forge, patience_s: float, result: Result
    ) -> None:
        self._lab, self._topology, self._forge = lab, topology, forge
        self._patience_s, self._result = patience_s, result
        self._join: list[str] = []
        self._bootstrap: list[str] = []

    def run(self) -> None:
        topology, result = self._topology, self._result
        publics = [self._lab.host(f"public{n}") for n in range(topology.n_public)]
        homes = self._homes()
        client = self._host("client", topology.client)
        for host in publics:
            self._serve_publicly(host)
        began_s = time.monotonic()
        try:
            running = [
                self._serve_at_home(host, n, topology.homes[n].kind, topology.homes[n].span)
                for n, host in enumerate(homes)
            ]
            peers = {each.first_line(READY_S)["peer"]: n for n, each in enumerate(running)}
        except TooLate as late:
            result.error = str(late)
        else:
            self._ask(client, peers)
            result.after_s = time.monotonic() - began_s
        if result.error:
            result.said = self._examine([*homes, client])

    # --- what there is ----------------------------------------------------------------------------

    def _homes(self) -> list[Host]:
        hosts: list[Host] = []
        for n, home in enumerate(self._topology.homes):
            if home.is_neighbour:
                hosts.append(self._lab.host(f"home{n}", behind=hosts[-1].router))
            else:
                hosts.append(self._host(f"home{n}", home.kind))
        return hosts

    def _host(self, name: str, kind: Kind) -> Host:
        isp = self._lab.router(f"{name}-isp", kind.provider) if kind.provider else None
        host = self._lab.host(name, kind.nat, behind=isp)
        if kind.forwards and host.router is not None:
            miniupnpd(host.router, natpmp=True, upnp=False)
        _let_out(host.router or host, kind.filter)
        return host

    def _serve_publicly(self, host: Host) -> None:
        node_port, relay_port = self._topology.ports
        stop = min((home.span[0] for home in self._topology.homes), default=N_BLOCKS)
        libp2p = ("--libp2p", f"0.0.0.0:{LIBP2P_PORT}") if self._topology.is_on_libp2p else ()
        relay = ("--relay", f"0.0.0.0:{relay_port}")
        ready = self._serve(host, node_port, (0, stop), *relay, *libp2p).first_line(READY_S)
        self._join.append(str(Address(host.address, node_port, ready["peer"])))
        self._bootstrap += ready.get("libp2p", ())

    def _serve_at_home(self, host: Host, n: int, kind: Kind, span: tuple[int, int]) -> Running:
        options = ["--map-port"] if kind.forwards else []
        options += [f"--bootstrap={each}" for each in self._bootstrap]
        if self._bootstrap:
            options += ["--libp2p", f"0.0.0.0:{LIBP2P_PORT}"]
        return self._serve(host, HOME_PORT, span, *options)

    def _serve(self, host: Host, port: int, span: tuple[int, int], *more: str) -> Running:
        return self._forge.start(
            *(host, "serve", "tiny", "--home", self._home(host), "--span", f"{span[0]}:{span[1]}"),
            *("--listen", f"0.0.0.0:{port}", "--kv-cache", "32MiB", "--threads", 1),
            *("--dtype", "float32", *(f"--join={each}" for each in self._join), *more),
        )

    def _home(self, host: Host) -> str:
        return str(self._lab.directory / f"{host.name}-home")

    # --- what comes of it -------------------------------------------------------------------------

    def _ask(self, client: Host, homes: dict[str, int]) -> None:
        """An answer through every home; what it lacks is the result's error."""
        result = self._result
        libp2p = ("--libp2p",) if self._topology.is_on_libp2p else ()
        patience = ("--wait", self._patience_s, "--timeout", self._patience_s)
        ended = self._forge.run(
            *(client, "generate", "tiny", "--home", self._home(client), *self._joining()),
            *("--prompt", PROMPT, "--max-tokens", N_TOKENS, "--temperature", 0, "--ignore-eos"),
            *("--json", *patience, *libp2p),
            name="generate",
            within_s=self._patience_s + 15,
        )
        missing = set(homes) - {hop["peer"] for hop in ended.out.get("route", ())}
        if ended.code or missing:
            said = ended.errors.rpartition("error: ")[2].partition("\n")[0]
            result.error = said or f"ended with {ended.code}"
        else:
            result.token_ids = ended.out["token_ids"]
            result.first_token_ms = ended.out["timings"]["ttft_ms"]
        self._look(client, homes)

    def _look(self, client: Host, homes: dict[str, int]) -> None:
        """What the homes announce of themselves."""
        ended = self._forge.run(
            *(client, "peers", "--home", self._home(client), *self._joining(), "--json"),
            name="peers",
            within_s=PEERS_S,
        )
        told = {row["peer"]: row["reach"] for row in ended.out.get("peers", ())}
        self._result.reach = {f"home{n}": told.get(peer, "unseen") for peer, n in homes.items()}

    def _examine(self, hosts: Iterable[Host]) -> list[Said]:
        """By `doctor` on each of these, side by side."""
        hosts = list(hosts)
        with ThreadPoolExecutor(len(hosts)) as threads:
            return [said for each in threads.map(self._doctor, hosts) for said in each]

    def _doctor(self, host: Host) -> list[Said]:
        only = [f"--only={id}" for id in CHECKS]
        listen = f"0.0.0.0:{HOME_PORT}"
        ended: Ended = self._forge.run(
            *(host, "doctor", "--home", self._home(host), *self._joining(), "--listen", listen),
            *("--json", *only),
            name="doctor",
            within_s=DOCTOR_S,
        )
        checks: list[dict[str, Any]] = ended.out.get("checks", [])
        return [
            Said(host.name, each["id"], each["verdict"], each["reason"])
            for each in checks
            if each["verdict"] in ("warn", "fail")
        ]

    def _joining(self) -> list[str]:
        return [f"--join={each}" for each in self._join]


def _let_out(edge: Host, filter: Filter) -> None:
    """Forbid the rest; answers to what came in still go out."""
    chain = "FORWARD" if isinstance(edge, Router) else "OUTPUT"
    new = "-m conntrack --ctstate NEW"
    if filter is not Filter.ALL:
        edge.iptables(f"-I {chain} -o wan -p udp {new} -j DROP")
    if filter is Filter.WEB:
        edge.iptables("-N web")
        for port in WEB_PORTS:
            edge.iptables(f"-A web -p tcp --dport {port} -j RETURN")
        edge.iptables(f"-A web -p tcp {new} -j DROP")
        edge.iptables(f"-I {chain} -o wan -j web")

"""Checks of the ways to others: names, addresses, clocks, our port and what may close it."""

import asyncio
import importlib.util
import socket
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from manyhands.doctor.case import USUAL_PORT, Case
from manyhands.doctor.finding import Check, Finding, fail, in_thread, ok, on_thread, skip, warn
from manyhands.doctor.firewall import firewall_finding, look_at_firewalls
from manyhands.home import KEY_NAME
from manyhands.running import found_running
from manyhands.whereabouts import advice, spoken
from protocol.address import Address
from protocol.announcement_table import MAX_SKEW_MS, PLAUSIBLE_SKEW_MS, Merged
from protocol.errors import PeerError
from protocol.identity import load_peer_id
from protocol.reachability import Reach
from protocol.reachability import Verdict as Reached
from protocol.transport.reach import why_not_listening

BUILT_S = 1_760_000_000  # autumn 2025: no clock that is right shows less
SETTING = "let the system keep it: timedatectl set-ntp true (Linux), w32tm /resync (Windows)"


async def _names(case: Case) -> Finding:
    """The host names that were asked for, and the hub's."""
    wanted = {address.host for address in case.asked.join if address.family == "dns4"}
    hub = "" if wanted else _hub_host(case.asked.environment)
    loop, lost, found = asyncio.get_running_loop(), {}, []
    for name in sorted(filter(None, (*wanted, hub))):
        try:
            infos = await loop.getaddrinfo(name, 443, type=socket.SOCK_STREAM)
            found.append(f"{name} is {infos[0][4][0]}")
        except OSError as error:
            lost[name] = error.strerror or str(error)
    if not lost:
        return ok(", ".join(found))
    told = ", ".join(f"{name}: {why}" for name, why in lost.items())
    if set(lost) == {hub}:
        return warn(f"{told}; models cannot be fetched", "check the network and /etc/resolv.conf")
    return fail(told, "check the name, or dial the address that it stands for: --join /ip4/…")


def _hub_host(environment: Mapping[str, str]) -> str:
    return urlsplit(environment.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""


async def _bootstrap(case: Case) -> Finding:
    met = await case.met()
    if not met.dialled:
        return skip("no --join, and no swarm is known on this home")
    came = {address: each for address, each in met.dialled.items() if isinstance(each, float)}
    lost = {address: each for address, each in met.dialled.items() if not isinstance(each, float)}
    peers = len(met.directory.live())
    told = f"{len(came)} of {len(met.dialled)} addresses answer"
    if came:
        told += f", the nearest in {min(came.values()):.1f} ms; {peers} peers are announced"
    if not lost:
        return ok(told)
    reasons = "; ".join(
        f"{address.target}: {error.reason if isinstance(error, PeerError) else error}"
        for address, error in list(lost.items())[:3]
    )
    first = next(iter(lost.values()))
    fix = first.hint or "check these addresses, and that a node runs there: manyhands serve MODEL"
    return warn(f"{told}; {reasons}", fix) if came else fail(f"{told}; {reasons}", fix)


async def _clock(case: Case) -> Finding:
    met = await case.met()
    table, now_ms = met.directory.table, met.directory.now_ms()
    skews_s = [table.skew_ms(peer.peer_id, now_ms) / 1000 for peer in met.directory.live()]
    dropped = {dropped.why: n for dropped, n in table.dropped.items()}
    return clock_finding(time.time(), skews_s, dropped)


def clock_finding(now_s: float, skews_s: Iterable[float], dropped: Mapping[Merged, int]) -> Finding:
    """About our clock, from how far those of peers are ahead of it.

    dropped: announcements that count for nothing by our clock, by why.
    """
    if now_s < BUILT_S:
        year = time.gmtime(now_s).tm_year
        return fail(f"the clock stands in {year}: no certificate holds by it", SETTING)
    far = {
        Merged.FUTURE: "made more than ten minutes from now",
        Merged.EXPIRED: "over for more than ten minutes",
    }
    known = sorted(skews_s)
    for why, words in far.items():
        if (n := dropped.get(why, 0)) > len(known):
            reason = f"by this clock {n} announcements are {words}, and {len(known)} count"
            return fail(reason, SETTING)
    if not known:
        return skip("nobody was met to compare clocks with")
    middle_s = statistics.median(known)
    told = f"{abs(middle_s):.1f} s {'behind' if middle_s > 0 else 'ahead of'} {len(known)} peer(s)"
    if abs(middle_s) * 1000 >= MAX_SKEW_MS:
        return fail(f"this clock is {told}: nobody believes what it announces", SETTING)
    if abs(middle_s) * 1000 > PLAUSIBLE_SKEW_MS:
        return warn(f"this clock is {told}", SETTING)
    return ok(f"this clock is {told}")


async def _reachability(case: Case) -> Finding:
    """Of the node that runs on this home, by what peers have shown it."""
    if not (case.home.node / KEY_NAME).exists():
        return skip("no node has run on this home: dial-back tells what one would meet")
    met, ours = await case.met(), load_peer_id(case.home.node / KEY_NAME)
    announced = met.directory.get(ours)
    if announced is None:
        return skip("no node of this home is announced to those who were met")
    return reach_finding(announced.reach, announced.addresses, case.endpoint[1])


def reach_finding(reach: Reach, addresses: Sequence[Address], port: int) -> Finding:
    """About a node that says this of itself, as peers have shown it."""
    targets = ", ".join(address.target for address in addresses) or "no address"
    match reach.verdict:
        case Reached.UNKNOWN:
            return skip(f"{spoken(reach)}: {targets}")
        case Reached.DIRECT | Reached.MAPPED:
            return ok(f"{spoken(reach)}: {targets}")
        case Reached.FIREWALLED | Reached.NAT:
            return warn(f"{spoken(reach)}: {targets}", advice(reach, port))


async def port_finding(case: Case) -> Finding:
    """Looked at once: who would listen there for a moment, too, waits for it."""
    return await case.once("port", lambda: in_thread(lambda: _port(case)))


def _port(case: Case) -> Finding:
    host, port = case.endpoint
    if port == 0:
        return skip("any port is taken that is free")
    try:
        with _trial(host) as trial:
            trial.bind((host, port))
            trial.listen()
    except (OSError, OverflowError):
        error = why_not_listening(host, port)
        ours = [record for record in found_running(case.home) if _listens(record.addresses, port)]
        if ours:
            return ok(f"port {port} is our own: {ours[0].command} with pid {ours[0].pid}")
        if case.asked.listen is None:
            return warn(f"{error}; a node takes any other, and others must learn it", error.hint)
        return fail(str(error), error.hint)
    return ok(f"port {port} on {host} is free")


def _trial(host: str) -> socket.socket:
    trial = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if sys.platform != "win32":  # there it would take a port that somebody listens on
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return trial


def _listens(addresses: Iterable[str], port: int) -> bool:
    return any(f"/tcp/{port}/" in address for address in addresses)


def _libp2p(case: Case) -> Finding:
    installing = "pip install 'manyhands[libp2p]'   (needs a C compiler and GMP: docs/network.md)"
    if importlib.util.find_spec("libp2p") is None:
        reason = "libp2p is not installed: no hash table, no mDNS, no holes through routers"
        return warn(f"{reason}; --join and gossip work without it", installing)
    try:
        import libp2p  # noqa: F401  (whether it can be)
    except Exception as error:  # a broken build raises whatever it likes
        return fail(f"libp2p cannot be loaded: {type(error).__name__}: {error}", installing)
    try:
        return ok(f"libp2p {version('libp2p')}")
    except PackageNotFoundError:
        return ok("libp2p is there")


async def _firewall(case: Case) -> Finding:
    port = case.endpoint[1] or USUAL_PORT
    return firewall_finding(await in_thread(look_at_firewalls), port)


CHECKS = (
    Check("dns", "whether names are found", _names),
    Check("bootstrap", "whether the given or remembered addresses answer", _bootstrap, 30.0),
    Check("clock", "our clock against those of peers", _clock, 30.0),
    Check("reachability", "whether peers can dial this home's node", _reachability, 30.0),
    Check("port", "whether a node could listen on its port", port_finding),
    Check("firewall", "whether this system's firewall lets others in", _firewall, 20.0),
    Check("libp2p", "what discovery and hole punching need", on_thread(_libp2p), 30.0),
)

"""The swarm that `chaos.py` disturbs: `manyhands up` in a process, and what can befall it.

In: how many nodes and replicas, a model, a home, a seeded die. Out: faults, one at a time, each
such that every block keeps a host that is up; what was done to whom, and when.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyhands.coverage import hosts_per_block
from manyhands.home import Home, open_identity
from manyhands.local import free_ports
from manyhands.running import found_running
from protocol.address import Address
from protocol.messages import Span
from protocol.transport import Transport

KINDS = {"kill": 5, "stall": 3, "drain": 3, "join": 2}  # and how often, of thirteen
STALLS_S = (0.5, 6.0)  # below 3 s it passes unnoticed, above the hop is given up
IDLE = 0.25  # how often a node that nobody uses is struck when none in use may be
GUEST_STAYS_S = 20.0
SETTLED_S = 2.0  # a node that came up is announced to everybody by then
READY_S, END_S = 300.0, 30.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to whom. Times are `time.monotonic`."""

    kind: str
    peer: str
    at_s: float
    until_s: float  # of a stall; else the same


@dataclass(slots=True)
class Host:
    """A place for a node process: who runs there changes, its peer id does not."""

    home: Home
    address: Address
    span: Span
    up_since_s: float | None = None
    is_stalled: bool = False

    @property
    def peer(self) -> str:
        return self.address.peer_id

    @property
    def pid(self) -> int | None:
        """Of the process that serves here now."""
        found = found_running(self.home)
        return found[0].pid if found else None

    def look(self, now_s: float) -> None:
        """Note since when it is up."""
        if self.pid is None or self.is_stalled:
            self.up_since_s = None
        elif self.up_since_s is None:
            self.up_since_s = now_s


@dataclass(slots=True)
class ChaosSwarm:
    """Made by `chaos_swarm`."""

    model: str
    directory: Path
    hosts: list[Host]
    n_blocks: int
    faults: list[Fault] = field(default_factory=list)
    guests: list[tuple[Host, asyncio.subprocess.Process]] = field(default_factory=list)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def addresses(self) -> list[Address]:
        return [host.address for host in self.hosts]

    def look(self) -> None:
        for host in (*self.hosts, *(guest for guest, _ in self.guests)):
            host.look(time.monotonic())

    def may_lose(self, host: Host) -> bool:
        """Whether it is up, and every block keeps another host that is up and known."""
        now_s = time.monotonic()
        others = [
            other.span
            for other in (*self.hosts, *(guest for guest, _ in self.guests))
            if other is not host
            and other.up_since_s is not None
            and now_s - other.up_since_s >= SETTLED_S
        ]
        return host.up_since_s is not None and 0 not in hosts_per_block(others, self.n_blocks)

    def strike(self, die: random.Random, in_use: Collection[str]) -> str:
        """The next fault, mostly to a peer in use; what it is, "" while none is bearable."""
        self.look()
        victims = [host for host in self.hosts if self.may_lose(host)]
        busy = [host for host in victims if host.peer in in_use]
        victims = busy or (victims if die.random() < IDLE else [])
        if not victims:
            return ""
        [kind] = die.choices([*KINDS], [*KINDS.values()])
        victim, stall_s = die.choice(victims), die.uniform(*STALLS_S)
        if kind == "join":
            self._start(self._guest(victim.span))
            return f"a guest starts for blocks {victim.span}"
        if (pid := victim.pid) is None:
            return ""
        self._hit(victim, pid, kind, stall_s)
        return f"{kind} node {self.hosts.index(victim) + 1}, blocks {victim.span}"

    def _hit(self, host: Host, pid: int, kind: str, stall_s: float) -> None:
        now_s = time.monotonic()
        by_kind = {"kill": signal.SIGKILL, "stall": signal.SIGSTOP, "drain": signal.SIGTERM}
        os.kill(pid, by_kind[kind])
        host.up_since_s = None
        if kind == "stall":
            host.is_stalled = True
            self._start(self._wake(host, pid, stall_s))
        until_s = now_s + stall_s if kind == "stall" else now_s
        self.faults.append(Fault(kind, host.peer, now_s, until_s))

    async def _wake(self, host: Host, pid: int, after_s: float) -> None:
        try:
            await asyncio.sleep(after_s)
        finally:
            host.is_stalled = False
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def _guest(self, span: Span) -> None:
        """A node that joins, stays for a while, and leaves as it should."""
        home = Home.at(self.directory / f"guest-{len(self.faults)}-{len(self.guests)}")
        address = Address("127.0.0.1", free_ports(1)[0], open_identity(home.node).peer_id)
        with (home.root / "serve.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "manyhands", "serve", self.model, "--gently"),
                *("--home", str(home.root), "--span", str(span), "--threads", "1"),
                *("--listen", f"127.0.0.1:{address.port}", "--kv-cache", "256MiB"),
                *("--accept-licence", "--drain", "5", "--parent", str(os.getpid())),
                *(f"--join={address}" for address in self.addresses),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=_environment(),
            )
        host = Host(home, address, span)
        try:
            assert process.stdout is not None
            if not await process.stdout.readline():
                return
            now_s = time.monotonic()
            self.guests.append((host, process))
            self.faults.append(Fault("join", host.peer, now_s, now_s))
            await asyncio.sleep(GUEST_STAYS_S)
            now_s = time.monotonic()
            self.guests.remove((host, process))
            self.faults.append(Fault("drain", host.peer, now_s, now_s))
            process.terminate()
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def calm_down(self) -> None:
        """No more faults: guests leave now, stalled nodes go on, all nodes of the swarm are up."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        until_s = time.monotonic() + READY_S
        while missing := [host for host in self.hosts if host.up_since_s is None]:
            if time.monotonic() > until_s:
                raise SystemExit(f"not up again: {[self._last_words(host) for host in missing]}")
            await asyncio.sleep(0.2)
            self.look()

    def _last_words(self, host: Host) -> str:
        log = (self.directory / "up.log").read_text(errors="replace").splitlines()
        name = f"node {self.hosts.index(host) + 1}"
        return "\n".join([f"{name}, stalled: {host.is_stalled}, pid {host.pid}", *log[-40:]])


@asynccontextmanager
async def chaos_swarm(
    model: str, n_blocks: int, directory: Path, *, nodes: int, replicas: int
) -> AsyncIterator[ChaosSwarm]:
    """`manyhands up`, ready; it is gone on the way out."""
    with (directory / "up.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "manyhands", "up", "--nodes", str(nodes)),
            *("--replicas", str(replicas), "--model", model, "--port", "0"),
            *("--home", str(directory), "--accept-licence"),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=_environment(),
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(READY_S):
            line = await process.stdout.readline()
        if not line:
            raise SystemExit((directory / "up.log").read_text())
        swarm = ChaosSwarm(model, directory, _hosts(json.loads(line), directory), n_blocks)
        swarm.look()  # so that who is up from the beginning may be struck at once
        yield swarm
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            with suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


def _hosts(ready: dict[str, Any], directory: Path) -> list[Host]:
    return [
        Host(Home.at(directory / "swarm" / f"node-{i + 1}"), Address.parse(address), Span(*span))
        for i, (address, span) in enumerate(zip(ready["addresses"], ready["spans"], strict=True))
    ]


@dataclass(frozen=True, slots=True)
class AtRest:
    """What a process holds while nothing is asked of it."""

    sessions: int
    tasks: int
    files: int
    resident_bytes: int  # less what is kept on purpose


async def at_rest(transport: Transport, hosts: Sequence[Host]) -> dict[str, AtRest]:
    """By peer; waits until no node holds a session any more, or ten seconds."""
    found: dict[str, AtRest] = {}
    until_s = time.monotonic() + 10
    for host in hosts:
        while True:
            connection = await transport.dial(host.address)
            told = json.loads(await connection.call("status", b"", timeout_s=10))
            await connection.aclose()
            if not told["sessions"] or time.monotonic() > until_s:
                break
            await asyncio.sleep(0.2)
        assert host.pid is not None
        found[host.peer] = AtRest(
            sessions=told["sessions"] + bool(told["kv_reserved_bytes"]),
            tasks=told["tasks"],
            files=len(os.listdir(f"/proc/{host.pid}/fd")),
            resident_bytes=resident_bytes(host.pid) - told["retained_bytes"] - told["audit_bytes"],
        )
    return found


def own_rest() -> AtRest:
    return AtRest(
        sessions=0,
        tasks=len(asyncio.all_tasks()),
        files=len(os.listdir("/proc/self/fd")),
        resident_bytes=resident_bytes(os.getpid()),
    )


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}

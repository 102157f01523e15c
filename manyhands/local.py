"""A swarm on this machine: `serve` processes, each with a home and a span of its own.

In: a model, spans, a directory. Out: processes that are ready, can be killed one by one and started
again, and are all gone when the context ends, however it ends: each asks the kernel to end with
this process. They get a session of their own, so that Ctrl-C in a terminal reaches this process
alone, which then ends them in order.
"""

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import manyhands
from manyhands.home import Home, open_identity
from protocol.address import Address
from protocol.errors import ConfigError, IntegrityError, ManyhandsError, OutOfMemory, UsageError
from protocol.messages import Span

HOST = "127.0.0.1"
NOBODYS_PORTS = range(20_000, 32_000)
QUIET_S, LOOK_S = 120.0, 1.0  # without a word of a node that loads
STOP_S = 10.0
KV_CACHE = "256MiB"

BY_EXIT_CODE: dict[int, type[ManyhandsError]] = {
    2: UsageError,
    3: ConfigError,
    7: OutOfMemory,
    8: IntegrityError,
}


def even_split(n_blocks: int, n_nodes: int) -> tuple[Span, ...]:
    """Spans that cover all blocks once, whose lengths differ by one at most.

    Raises:
        UsageError: there are more nodes than blocks, or none.
    """
    if not 1 <= n_nodes <= n_blocks:
        raise UsageError(
            f"{n_blocks} blocks cannot be split over {n_nodes} nodes",
            hint=f"--nodes 1 to {n_blocks}",
        )
    borders = [round(n_blocks * i / n_nodes) for i in range(n_nodes + 1)]
    return tuple(Span(*pair) for pair in pairwise(borders))


def replicated_split(n_blocks: int, n_nodes: int, n_replicas: int) -> tuple[Span, ...]:
    """`n_replicas` even splits of all blocks, one after the other: so many hosts for every block.

    Where the nodes cannot be shared out evenly, the splits have different borders, and chains
    enter spans in their middle.

    Raises:
        UsageError: there are fewer nodes than replicas, or more than blocks in a split.
    """
    if not 1 <= n_replicas <= n_nodes:
        raise UsageError(
            f"{n_nodes} nodes cannot serve every block {n_replicas} times",
            hint=f"--nodes {n_replicas} or more",
        )
    if n_nodes > n_blocks * n_replicas:
        raise UsageError(
            f"{n_blocks} blocks, {n_replicas} times, cannot be split over {n_nodes} nodes",
            hint=f"--nodes {n_replicas} to {n_blocks * n_replicas}",
        )
    sizes = [n_nodes // n_replicas + (i < n_nodes % n_replicas) for i in range(n_replicas)]
    return tuple(span for size in sizes for span in even_split(n_blocks, size))


@dataclass(slots=True)
class LocalNode:
    """One `serve` process, and what is needed to start it again as the same peer."""

    index: int
    home: Home
    address: Address
    span: Span
    process: asyncio.subprocess.Process | None = None
    is_ready: bool = False
    ready_s: float = 0.0  # how long it took
    n_starts: int = 0
    is_starved: bool = False  # it started gently, and others left it no processor time to do so
    page: str = ""  # the URL of its own page

    @property
    def log_path(self) -> Path:
        return self.home.root / "serve.log"

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def is_up(self) -> bool:
        """Whether it serves, as far as its process tells."""
        return self.is_ready and self.is_alive

    def signal(self, signum: int) -> None:
        if self.process is not None and self.is_alive:
            with suppress(ProcessLookupError):
                self.process.send_signal(signum)

    def kill(self) -> None:
        """No good-bye: SIGKILL, or what a system has instead."""
        if self.process is not None and self.is_alive:
            with suppress(ProcessLookupError):
                self.process.kill()

    async def ended(self) -> int:
        """Wait for the process to end; its exit status."""
        assert self.process is not None
        status = await self.process.wait()
        self.is_ready = False
        return status


class LocalSwarm:
    """See the module. Use `running`."""

    program: tuple[str, ...] = ("-m", "manyhands")  # what Python runs

    def __init__(
        self,
        model: str,
        spans: Sequence[Span],
        directory: Path,
        *,
        price_per_mtl: int = 0,
        threads: int | None = None,
        pages: bool = False,
    ) -> None:
        """pages: whether each node has a page of its own."""
        self.directory = directory
        cores = os.cpu_count() or 1
        self._options = [
            *("--kv-cache", KV_CACHE),
            *("--threads", str(threads or max(1, cores // len(spans)))),
            *("--price-per-mtl", str(price_per_mtl)),
            *("--drain", "5"),
            *("--page", "auto" if pages else "off"),
            "--accept-licence",  # whoever starts a swarm has asked already
            *("--parent", str(os.getpid())),
        ]
        self._model = model
        self.nodes = [
            _prepare(directory / f"node-{index + 1}", index, span, port)
            for index, (span, port) in enumerate(zip(spans, free_ports(len(spans)), strict=True))
        ]

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(node.address for node in self.nodes)

    @property
    def is_whole(self) -> bool:
        return all(node.is_up for node in self.nodes)

    def by_peer(self, peer_id: str) -> LocalNode | None:
        return next((node for node in self.nodes if node.address.peer_id == peer_id), None)

    @asynccontextmanager
    async def running(
        self, on_ready: Callable[[LocalNode], None] = lambda node: None
    ) -> AsyncIterator["LocalSwarm"]:
        """All processes, ready; none is left on the way out.

        Raises:
            ManyhandsError: one ended before it was ready; the message is its own.
        """
        try:
            starting = [asyncio.create_task(self.start(node, on_ready)) for node in self.nodes]
            try:
                await asyncio.gather(*starting)
            finally:
                for task in starting:
                    task.cancel()
                await asyncio.gather(*starting, return_exceptions=True)
            yield self
        finally:
            await self.stop()

    async def start(
        self, node: LocalNode, on_ready: Callable[[LocalNode], None] = lambda node: None
    ) -> None:
        """Start one process, and wait until it is ready.

        The first time all start at once; later ones start gently, beside nodes that answer, unless
        that was tried and others never left it the time.

        Raises:
            ManyhandsError: it ended instead, or fell silent and was ended.
        """
        began_s = time.monotonic()
        gently = ["--gently"] if node.n_starts and not node.is_starved else []
        node.n_starts += 1
        with node.log_path.open("ab") as log:
            node.process = await asyncio.create_subprocess_exec(
                *(sys.executable, *self.program, "serve", self._model),
                *("--home", str(node.home.root), "--span", str(node.span)),
                *self._where(node),
                *(f"--join={address}" for address in self.addresses if address != node.address),
                *(*self._options, *gently),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=_environment(),
            )
        assert node.process.stdout is not None
        try:
            line = await first_line(node.process.stdout, node.log_path)
        except TimeoutError as error:
            self.kill(node)
            node.is_starved = bool(gently)
            raise ConfigError(
                f"node {node.index + 1} is not ready, and has said nothing for {QUIET_S:g} s",
                hint=f"look into {node.log_path}",
            ) from error
        if not line:
            raise _why_it_ended(node, await node.ended())
        ready = json.loads(line)
        assert ready["event"] == "ready"
        node.page = ready["page"] or ""
        node.is_starved = False
        node.is_ready, node.ready_s = True, time.monotonic() - began_s
        on_ready(node)

    def _where(self, node: LocalNode) -> tuple[str, ...]:
        """The flags that say where it listens."""
        return ("--listen", f"{HOST}:{node.address.port}")

    def kill(self, node: LocalNode) -> None:
        """SIGKILL: no good-bye, no drain."""
        node.kill()
        node.is_ready = False

    async def stop(self) -> None:
        """End all: politely first, then for certain."""
        alive = [node for node in self.nodes if node.is_alive]
        for node in alive:
            node.signal(signal.SIGTERM)
        waiting = [asyncio.create_task(node.ended()) for node in alive]
        if waiting:
            await asyncio.wait(waiting, timeout=STOP_S)
        for node in alive:
            node.kill()
        await asyncio.gather(*waiting)


async def first_line(stdout: asyncio.StreamReader, log_path: Path) -> bytes:
    """What a process says first; nothing: it ended. A busy machine may take long to load a model,
    as long as its log goes on.

    Raises:
        TimeoutError: nothing came, and its log has stood still.
    """
    clock = asyncio.get_running_loop().time
    size, since_s = -1, clock()
    while True:
        try:
            async with asyncio.timeout(LOOK_S):
                return await stdout.readline()
        except TimeoutError:
            now_s, told = clock(), _size_of(log_path)
            if told != size:
                size, since_s = told, now_s
            elif now_s - since_s >= QUIET_S:
                raise


def _size_of(path: Path) -> int:
    return path.stat().st_size


def _prepare(directory: Path, index: int, span: Span, port: int) -> LocalNode:
    home = Home.at(directory)
    identity = open_identity(home.node)  # its key is known before it runs, so all can start at once
    return LocalNode(index, home, Address(HOST, port, identity.peer_id), span)


def free_ports(count: int) -> list[int]:
    """Ports that are free now, and likely to be when a node has loaded its model.

    Below those that systems give to whoever asks for any (RFC 6335 section 6; Linux begins
    at 32768), and drawn, so that two swarms that start at once seldom choose alike.
    """
    ports: list[int] = []
    for port in random.SystemRandom().sample(NOBODYS_PORTS, len(NOBODYS_PORTS)):
        if len(ports) == count:
            break
        with suppress(OSError), socket.create_server((HOST, port)):
            ports.append(port)
    return ports


def _environment() -> dict[str, str]:
    """Ours, so that the child finds this very package, wherever it was imported from."""
    here = str(Path(manyhands.__file__).parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    without = {"OMP_NUM_THREADS", "MANYHANDS_HOME", "MANYHANDS_SWARM"}
    ours = {name: value for name, value in os.environ.items() if name not in without}
    return ours | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


def _why_it_ended(node: LocalNode, status: int) -> ManyhandsError:
    """The child's own error, as ours."""
    lines = node.log_path.read_text(errors="replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    fixes = [line.removeprefix("fix: ") for line in lines if line.startswith("fix: ")]
    kind = BY_EXIT_CODE.get(status, ManyhandsError)
    what = said[-1] if said else f"it ended with status {status}"
    hint = fixes[-1] if said and fixes else f"look into {node.log_path}"
    return kind(f"node {node.index + 1} did not start: {what}", hint=hint)

"""Petals servers on this machine, one for each span of blocks, and clients of theirs.

In: the environment's interpreter, a checkpoint, spans, where each listens and what it announces.
Out: addresses that clients can be given. Petals' own defaults, but for what a private swarm of one
machine needs: no test of how fast it is or of who can reach it, no relays.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.petals.asked import PROGRAMS, START_S, Failed, Program, running
from protocol.messages import Span

PREFIX = "random-llama-hf"  # a model without an owner gets none by itself, and the server fails
CACHE_TOKENS = 8192  # for keys and values of all sessions
LOOK_S = 0.2
STARTED = re.compile(r"Started\s*$", re.MULTILINE)
OPTIONS = (
    *("--dht_prefix", PREFIX, "--throughput", "1", "--torch_dtype", "float32", "--device", "cpu"),
    *("--skip_reachability_check", "--no_auto_relay", "--update_period", "15"),
    *("--attn_cache_tokens", str(CACHE_TOKENS)),
)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a server listens, and what it tells others: a proxy's port, or the same."""

    hidden: int
    public: int


@dataclass(slots=True)
class PetalsSwarm:
    """Running servers. `servers[i]` serves the i-th span."""

    python: Path
    model: Path
    logs: Path
    servers: list[Program] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[Program]:
        """A client in a process of its own, ready."""
        command = [str(self.python), "-W", "ignore", str(PROGRAMS / "petals_client.py")]
        command += [str(self.model), PREFIX, *self.addresses]
        async with running(self.logs / f"petals-{name}.log", *command) as program:
            await program.line(START_S)
            yield program


@asynccontextmanager
async def petals_swarm(
    python: Path,
    model: Path,
    spans: Sequence[Span],
    ports: Sequence[Ports],
    logs: Path,
    on_start: Callable[[int, int], Awaitable[object]],
) -> AsyncIterator[PetalsSwarm]:
    """All servers, ready; none is left on the way out.

    on_start: called with a server's place and process group before it says anything to anybody.

    Raises:
        Failed: one did not start.
    """
    swarm = PetalsSwarm(python, model, logs)
    async with AsyncExitStack() as closing:

        async def start(index: int) -> str:
            command = [str(python), "-W", "ignore", str(PROGRAMS / "petals_server.py"), str(model)]
            command += [*OPTIONS, "--block_indices", f"{spans[index].start}:{spans[index].stop}"]
            command += ["--host_maddrs", _maddr(ports[index].hidden)]
            command += ["--announce_maddrs", _maddr(ports[index].public)]
            command += ["--initial_peers", *swarm.addresses] if index else ["--new_swarm"]
            log = logs / f"petals-server-{index}.log"
            server = await closing.enter_async_context(running(log, *command))
            swarm.servers.append(server)
            await on_start(index, server.process.pid)
            return await _address(server, ports[index].public)

        # One after the other: the second is told of the first, and a start keeps a core busy.
        for index in range(len(spans)):
            swarm.addresses.append(await start(index))
        yield swarm


async def _address(server: Program, port: int) -> str:
    """Of a server, once it serves: where others reach it, and its name there.

    Raises:
        Failed: it ended, or took too long.
    """
    clock = asyncio.get_running_loop().time
    until_s = clock() + START_S
    own = re.compile(_maddr(port) + r"/p2p/\w+")  # others' are told too
    while clock() < until_s and server.process.returncode is None:
        told = server.log.read_text(errors="replace")
        if STARTED.search(told) and (found := own.search(told)):
            return found[0]
        await asyncio.sleep(LOOK_S)
    raise Failed(f"a Petals server did not start; look into {server.log}")


def _maddr(port: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}"

"""Keeping a local swarm whole: who ends is started again; and whether it can answer, now.

In: a `LocalSwarm` that runs, a client of it, a model. Out: `why_not_ready`, for a health page. The
swarm is ready while every block has a host that answers, and a token was drawn since the hosts
changed last: one of two hosts of a block may be away.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from manyhands.asking import Ask
from manyhands.coverage import hosts_per_block, runs_where, spell
from manyhands.generate import stream
from manyhands.local import LocalNode, LocalSwarm
from manyhands.models import Model
from manyhands.progress import PLAIN_EVERY_S, say
from protocol.errors import ManyhandsError

if TYPE_CHECKING:
    from protocol.transport import Connection
    from scheduler.client import Client

LOOK_S = 0.5
PING_S, SILENT_S = 1.0, 3.0  # how often nodes are asked; who takes longer does not count as up
TRY_S = 10.0
BACKOFF_S = (0.5, 15.0)  # between starts of a node that keeps ending
TAIL_BYTES = 4096  # of a log, in which its last line is looked for
STEADY_S = 30.0  # who served for so long begins with the short one again


class Keeper:
    """Of one swarm; `run` it until cancelled."""

    def __init__(self, swarm: LocalSwarm, client: "Client", model: Model) -> None:
        self.why_not_ready = "starting"
        self._swarm, self._client, self._model = swarm, client, model
        self._silent: set[int] = set()
        self._tried_with: frozenset[int] = frozenset()  # the hosts when a token was drawn last

    async def run(self, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called once, when the swarm first can answer."""
        announced = False
        async with asyncio.TaskGroup() as tasks:
            for node in self._swarm.nodes:
                tasks.create_task(self._keep_alive(node))
                tasks.create_task(self._listen_to(node))
            while True:
                self.why_not_ready = await self._why_not()
                if not self.why_not_ready and not announced:
                    announced = True
                    on_ready()
                await asyncio.sleep(LOOK_S)

    async def _why_not(self) -> str:
        nodes = self._swarm.nodes
        up = frozenset(n.index for n in nodes if n.is_up and n.index not in self._silent)
        if missing := why_incomplete(nodes, up, self._model.manifest.n_blocks):
            self._tried_with = frozenset()
            return missing
        if up == self._tried_with:
            return ""
        ask = Ask(max_tokens=1, temperature=0.0, seed=0, timeout_s=TRY_S)
        try:
            request = ask.request(self._model, [0], None)
            await stream(self._client, request, lambda event: None)
        except ManyhandsError as error:
            return str(error)
        self._tried_with = up
        return ""

    def _until_then(self) -> str:
        nodes = self._swarm.nodes
        up = {node.index for node in nodes if node.is_up}
        missing = why_incomplete(nodes, up, self._model.manifest.n_blocks)
        return f"; until then {missing}" if missing else ""

    async def _keep_alive(self, node: LocalNode) -> None:
        loop, wait_s = asyncio.get_running_loop(), BACKOFF_S[0]
        began_s = loop.time()
        while True:
            status = await node.ended()
            if loop.time() - began_s >= STEADY_S:
                wait_s = BACKOFF_S[0]
            ended = f"node {node.index + 1} {how_it_ended(status)}"
            say(f"{ended}; starting it again{self._until_then()}")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, BACKOFF_S[1])
            try:
                await self._swarm.start(node, say_ready)
                began_s = loop.time()
            except ManyhandsError as error:
                say(f"warning: {error}")

    async def _listen_to(self, node: LocalNode) -> None:
        """A process that is stopped, or stuck, is alive and answers nobody."""
        connection: Connection | None = None
        try:
            while True:
                await asyncio.sleep(PING_S)
                if not node.is_up:
                    continue
                try:
                    async with asyncio.timeout(SILENT_S):
                        if connection is None:
                            connection = await self._client.transport.dial(node.address)
                        await connection.call("ping", b"", timeout_s=SILENT_S)
                    self._silent.discard(node.index)
                except (ManyhandsError, TimeoutError):
                    self._silent.add(node.index)
                    if connection is not None:
                        await connection.aclose()
                    connection = None
        finally:
            if connection is not None:
                with suppress(ManyhandsError):
                    await connection.aclose()


def why_incomplete(nodes: Sequence[LocalNode], up: Collection[int], n_blocks: int) -> str:
    """The blocks that none of the nodes `up` serves, and the nodes that would; "" for none."""
    counts = hosts_per_block((node.span for node in nodes if node.index in up), n_blocks)
    missing = runs_where(lambda n_hosts: n_hosts == 0, counts)
    if not missing:
        return ""
    away = ", ".join(str(node.index + 1) for node in nodes if node.index not in up)
    return f"nobody serves blocks {spell(missing)}: node {away} of {len(nodes)} is not up"


def how_it_ended(status: int) -> str:
    """Of a process, as asyncio tells it: below 0 it is the signal's number."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # one of the real-time signals, which have no names
        return f"was ended by signal {-status}"


def say_ready(node: LocalNode) -> None:
    say(
        f"node {node.index + 1} serves blocks {node.span} as {node.address.peer_id}, "
        f"ready in {node.ready_s:.1f} s"
    )


@asynccontextmanager
async def waiting_told(
    nodes: Sequence[LocalNode], every_s: float = PLAIN_EVERY_S
) -> AsyncIterator[None]:
    """Meanwhile, a line now and then for people until all nodes were ready once."""
    telling = asyncio.create_task(_tell_waiting(nodes, every_s))
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell_waiting(nodes: Sequence[LocalNode], every_s: float) -> None:
    waiting, before = list(nodes), {node.index: _log_bytes(node) for node in nodes}
    while True:
        await asyncio.sleep(every_s)
        waiting = [node for node in waiting if not node.is_ready]
        if not waiting:
            return
        lines = _last_lines(waiting[0], before[waiting[0].index])
        say(
            f"still waiting for node {', '.join(str(node.index + 1) for node in waiting)}; "
            f"node {waiting[0].index + 1} said last: {lines[-1] if lines else 'nothing yet'}"
        )


def _log_bytes(node: LocalNode) -> int:
    """Of this run and those before; nobody shortens a log, and it may be as large as a disk."""
    try:
        return node.log_path.stat().st_size
    except OSError:
        return 0


def _last_lines(node: LocalNode, after: int) -> list[str]:
    """What stands in its log behind so many bytes, of its end only."""
    try:
        with node.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(end - TAIL_BYTES, min(after, end)))
            return log.read(TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []

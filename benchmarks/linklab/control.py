"""How the process that makes links is told what they are: lines of JSON, and a line back for each.

In: orders. Out: what was carried by then. The same for proxies and for the emulator behind tunnels,
so that a scenario need not know which it runs on.
"""

import asyncio
import json
import os
import select
import selectors
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.linklab.ways import Ground, Sums, Way

OUTSIDE = -1  # the place of whoever is no node: clients
HERE = str(Path(__file__).resolve().parents[2])

Carried = dict[tuple[int, int], Sums]
"""From place to place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """ways: from now on; None: as before. uplinks: of places, bytes/s, with `ways`.

    pids: of new processes, their places. stand_before: place, public port, hidden port.
    """

    ways: dict[tuple[int, int], Way] | None = None
    uplinks: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    pids: dict[int, int] = field(default_factory=dict)
    stand_before: tuple[tuple[int, int, int], ...] = ()

    def to_line(self) -> bytes:
        ways = None
        if self.ways is not None:
            ways = [[a, b, asdict(way)] for (a, b), way in self.ways.items()]
        told = {
            "ways": ways,
            "uplinks": list(self.uplinks.items()),
            "seed": self.seed,
            "pids": list(self.pids.items()),
            "stand_before": self.stand_before,
        }
        return json.dumps(told).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Orders":
        told: dict[str, Any] = json.loads(line)
        ways = told["ways"]
        return cls(
            ways=None if ways is None else {(a, b): Way(**way) for a, b, way in ways},
            uplinks=dict(told["uplinks"]),
            seed=told["seed"],
            pids=dict(told["pids"]),
            stand_before=tuple(map(tuple, told["stand_before"])),
        )


async def obey(follow: Callable[[Orders], Awaitable[None]], ground: Ground) -> None:
    """Read orders from standard input until it ends; answer each with what was carried."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await reader.readline():
        orders = Orders.from_line(line)
        if orders.seed is not None:
            ground.rng.seed(orders.seed)
        await follow(orders)
        print(json.dumps(list(ground.carried().items())), flush=True)


class Links:
    """The process that makes them, as seen from here. Use `open`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self._turn = process, asyncio.Lock()

    @classmethod
    async def open(cls, module: str, *arguments: str, fds: tuple[int, ...] = ()) -> "Links":
        """`python -m MODULE`."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": HERE},
            start_new_session=True,  # Ctrl-C reaches us alone; it ends with its standard input
            pass_fds=fds,
            limit=1 << 20,
        )
        return cls(process)

    async def tell(self, orders: Orders) -> Carried:
        """Once it has been followed.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn:
            with suppress(ConnectionError):
                self._process.stdin.write(orders.to_line())
                await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that makes links has ended: its error is above")
        return {(a, b): Sums(*sums) for (a, b), sums in json.loads(line)}

    async def sums(self) -> Carried:
        return await self.tell(Orders())

    async def carried(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(bytes with headers, packets lost) from place to place, ever."""
        return {pair: (each.n_bytes, each.n_lost) for pair, each in (await self.sums()).items()}

    async def aclose(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class _Punctual(selectors.EpollSelector):
    """Waits to the microsecond: epoll by itself counts milliseconds, and rounds up."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def punctual_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(_Punctual())


def less(after: Carried, before: Carried) -> Carried:
    """What was carried in between."""
    return {pair: sums.less(before.get(pair, Sums())) for pair, sums in after.items()}

"""A ring of processes that only pass a frame on, over bare grpc.aio: what a hop costs at the least.

Mutual TLS, options and bytes are those of real nodes; nothing of ours touches a frame, but that it
visits another thread of its process and comes back, as rows visit torch's. `BareRing` starts the
processes, has the frame go round so many times, and says what each round took: the floor of
`hop_overhead.py`.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import grpc

from manyhands.loops import run
from protocol.address import Address
from protocol.identity import Identity
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.tls import tls_name
from protocol.transport import grpc as ours

MAX_LINE_BYTES = 64 * 2**20  # a time for each round
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """What that process has spent so far, in all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class BareRing:
    """`n` processes, of which the first sends a frame of `n_bytes` round."""

    def __init__(self, n: int, n_bytes: int) -> None:
        self._n, self._n_bytes = n, n_bytes
        self._processes: list[asyncio.subprocess.Process] = []
        self._ending = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as ending:
            await self._start(ending)
            self._ending = ending.pop_all()
        return self

    async def _start(self, ending: AsyncExitStack) -> None:
        pipe = asyncio.subprocess.PIPE
        for index in range(self._n):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, str(index), str(self._n_bytes)),
                stdin=pipe,
                stdout=pipe,
                limit=MAX_LINE_BYTES,
            )
            ending.push_async_callback(_end, process)
            self._processes.append(process)
        addresses = [await self._read(index) for index in range(self._n)]
        for index in range(self._n):
            self._write(index, addresses[(index + 1) % self._n])

    async def __aexit__(self, *_: object) -> None:
        await self._ending.aclose()

    async def times(self, rounds: int) -> tuple[list[float], float]:
        """Milliseconds of each round, and of CPU per frame of a process that is not the first."""
        others = [process.pid for process in self._processes[1:]]
        before = sum(map(cpu_s, others))
        self._write(0, str(rounds))
        took = [float(each) for each in (await self._read(0)).split()]
        used_s = sum(map(cpu_s, others)) - before
        return took, 1e3 * used_s / len(others) / rounds

    async def _read(self, index: int) -> str:
        stdout = self._processes[index].stdout
        assert stdout is not None
        return (await stdout.readline()).decode().strip()

    def _write(self, index: int, line: str) -> None:
        stdin = self._processes[index].stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


class Visited:
    """Another thread, which gives back what it is given."""

    def __init__(self, then: Callable[[bytes], None]) -> None:
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._then, self._loop = then, asyncio.get_running_loop()
        Thread(target=self._main, daemon=True).start()

    def __call__(self, frame: bytes) -> None:
        self._queue.put(frame)

    def _main(self) -> None:
        while True:
            self._loop.call_soon_threadsafe(self._then, self._queue.get())


async def serve(is_first: bool, n_bytes: int) -> None:
    transport = ours.GrpcTransport(Identity(SigningKey.generate()), OPEN_SWARM_ID)
    passed: asyncio.Queue[bytes] = asyncio.Queue()
    receive = passed.put_nowait if is_first else Visited(passed.put_nowait)

    async def take(_: object, context: Any) -> None:
        while isinstance(frame := await context.read(), bytes):
            receive(frame)

    server = grpc.aio.server(options=ours._LISTENER_OPTIONS)
    handler = grpc.stream_stream_rpc_method_handler(take)
    handlers = grpc.method_handlers_generic_handler("bare", {"Pass": handler})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_secure_port("127.0.0.1:0", transport._server_credentials(lambda: None))
    await server.start()
    print(Address("127.0.0.1", port, transport.peer_id), flush=True)
    following = Address.parse(await _line())
    name = ("grpc.ssl_target_name_override", tls_name(following.peer_id))
    options = (*ours._CONNECTION_OPTIONS, name)
    credentials = transport._channel_credentials(following.peer_id)
    channel = grpc.aio.secure_channel(following.target, credentials, options=options)
    call = channel.stream_stream("/bare/Pass")()
    if not is_first:
        await _pass_on(call, passed)
        return
    frame = os.urandom(n_bytes)
    while line := await _line():
        at = [time.perf_counter()]
        for _ in range(int(line)):
            await call.write(frame)
            await passed.get()
            at.append(time.perf_counter())
        print(*(f"{1e3 * (later - earlier):.4f}" for earlier, later in pairwise(at)), flush=True)


async def _pass_on(call: Any, passed: "asyncio.Queue[bytes]") -> None:
    """Until nobody holds our stdin any more, however whoever did ended."""

    async def passing() -> None:
        while True:
            await call.write(await passed.get())

    running = asyncio.create_task(passing())
    while await _line():
        pass
    running.cancel()


async def _line() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    run(serve(sys.argv[1] == "0", int(sys.argv[2])))

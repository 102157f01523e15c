"""Round trips of small frames over one stream, two processes, gRPC with mutual TLS.

`python -m benchmarks.transport [--frames N] [--bytes B] [--loop uvloop|asyncio]` prints a table:
p50 and p99 of a round trip, half of it (one hop), and the CPU time both processes spent on one
message, beside a plain TCP echo between the same two processes as the floor.
"""

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from protocol.address import Address
from protocol.identity import Identity
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport import Service, Stream
from protocol.transport.grpc import GrpcTransport

WARM_UP = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--bytes", type=int, default=3072)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        run(given.loop, serve())
        return
    print(f"{given.frames} frames of {given.bytes} bytes, {given.loop}, {os.cpu_count()} cores")
    print("| carrier | round trip p50 ms | p99 ms | one hop p50 ms | CPU ms per message |")
    print("|---|---|---|---|---|")
    command = [sys.executable, "-m", "benchmarks.transport", "--serve", "--loop", given.loop]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        tcp_port, address = server.stdout.readline().decode().split()
        try:
            run(given.loop, measure(given, server.pid, int(tcp_port), Address.parse(address)))
        finally:
            server.terminate()


def run(loop: str, work: Awaitable[None]) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)  # type: ignore[arg-type]


def new_transport() -> GrpcTransport:
    return GrpcTransport(Identity(SigningKey.generate()), OPEN_SWARM_ID)


async def serve() -> None:
    async def echo(stream: Stream) -> None:
        while True:
            stream.send(await stream.receive())

    async def echo_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**20):
            writer.write(data)

    listener = await new_transport().listen("127.0.0.1", 0, Service(streams={"Echo": echo}))
    plain = await asyncio.start_server(echo_tcp, "127.0.0.1", 0)
    print(plain.sockets[0].getsockname()[1], listener.addresses[0], flush=True)
    await asyncio.Event().wait()


async def measure(
    given: argparse.Namespace, server_pid: int, tcp_port: int, address: Address
) -> None:
    frame = os.urandom(given.bytes)
    reader, writer = await asyncio.open_connection("127.0.0.1", tcp_port)

    async def over_tcp() -> None:
        writer.write(frame)
        await reader.readexactly(len(frame))

    await report("plain TCP", over_tcp, given.frames, server_pid)
    writer.close()

    connection = await new_transport().dial(address)
    stream = await connection.open("Echo")

    async def over_stream() -> None:
        stream.send(frame)
        await stream.receive()

    await report("gRPC stream, mTLS", over_stream, given.frames, server_pid)
    await connection.aclose()


async def report(
    name: str, round_trip: Callable[[], Awaitable[None]], n_frames: int, server_pid: int
) -> None:
    for _ in range(WARM_UP):
        await round_trip()
    took_s = []
    cpu_s = cpu_seconds(server_pid)
    for _ in range(n_frames):
        began = time.perf_counter()
        await round_trip()
        took_s.append(time.perf_counter() - began)
    cpu_s = cpu_seconds(server_pid) - cpu_s
    took_s.sort()
    p50_ms, p99_ms = took_s[n_frames // 2] * 1e3, took_s[n_frames * 99 // 100] * 1e3
    cpu_ms = cpu_s * 1e3 / (2 * n_frames)
    print(f"| {name} | {p50_ms:.3f} | {p99_ms:.3f} | {p50_ms / 2:.3f} | {cpu_ms:.3f} |", flush=True)


def cpu_seconds(other_pid: int) -> float:
    """CPU time of this process and of `other_pid` so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    fields = Path(f"/proc/{other_pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    return own.ru_utime + own.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()

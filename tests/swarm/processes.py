"""Real `serve` processes on loopback, for tests: started in any order, killed one by one."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from manyhands.home import Home, open_identity
from manyhands.local import free_ports
from protocol.address import Address
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from tests.cli.command import environment

READY_S = 120


class Node:
    """One process, and the home it keeps."""

    def __init__(self, directory: Path, span: str, port: int, *more: object) -> None:
        """`more` are options of `serve`."""
        self.home, self.span, self.more = Home.at(directory), span, more
        peer_id = open_identity(self.home.node).peer_id
        self.address = Address("127.0.0.1", port, peer_id)
        self.process: subprocess.Popen[str] | None = None

    @property
    def peer(self) -> str:
        return self.address.peer_id

    def start(self, model: str, join: Sequence[Address]) -> None:
        self.process = start(
            *("serve", model, "--home", self.home.root, "--span", self.span),
            *("--listen", f"127.0.0.1:{self.address.port}", "--kv-cache", "64MiB"),
            *("--threads", 1, "--parent", os.getpid(), "--drain", 20),
            *("--price-per-mtl", 10**11, "--dtype", "float32"),
            *(f"--join={address}" for address in join if address != self.address),
            *self.more,
        )

    def until_ready(self) -> dict[str, object]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.span} ended: {self.process.stderr and self.process.stderr.read()}"
        return dict(json.loads(line))

    def end(self, signum: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(timeout=60)


@contextmanager
def swarm(directory: Path, model: str, spans: Sequence[str], *more: object) -> Iterator[list[Node]]:
    """A node per span, each told of all others; the last starts first, to show that order is
    nothing."""
    ports = free_ports(len(spans))
    nodes = [
        Node(directory / f"node-{i}", *pair, *more)
        for i, pair in enumerate(zip(spans, ports, strict=True))
    ]
    try:
        for node in reversed(nodes):
            node.start(model, [other.address for other in nodes])
            time.sleep(0.2)
        for node in nodes:
            node.until_ready()
        yield nodes
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.kill()
                node.process.wait()


def counters(nodes: Sequence[Node], home: Path) -> dict[str, dict[str, Any]]:
    """What each node says of itself, by peer: the call `status`."""

    async def ask() -> dict[str, dict[str, Any]]:
        transport = GrpcTransport(open_identity(Home.at(home).client), OPEN_SWARM_ID)
        told = {}
        for node in nodes:
            connection = await transport.dial(node.address)
            told[node.peer] = json.loads(await connection.call("status", b"", timeout_s=5))
            await connection.aclose()
        return told

    return asyncio.run(ask())


def start(*arguments: object, environ: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """A `manyhands` process whose output is read as it comes."""
    return subprocess.Popen(
        [sys.executable, "-m", "manyhands", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(OMP_WAIT_POLICY="passive", **(environ or {})),
    )


def events(process: "subprocess.Popen[str]") -> Iterator[dict[str, object]]:
    """The lines of `generate --jsonl`."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)

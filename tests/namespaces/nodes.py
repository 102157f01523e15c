"""Real nodes and clients of Manyhands on hosts of a lab: processes of the command line.

    node = Served(relay_host, "0:4", "--libp2p", "0.0.0.0:31401")
    node.start(); ready = node.until_ready()
    done = generate(client_host, "--join", node.address)                 # to its end: JSON
    for event in answering(client_host, "--join", node.address): ...     # as it comes

They run the built-in model on one thread, politely. Their homes lie in the lab's directory and go
with it. `Served.address` is where the internet reaches a node, if it can: behind a full cone it is
what the node announces; behind any other router it is for neighbours at home alone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from manyhands.home import Home, open_identity
from protocol.address import Address
from tests.namespaces.lab import Host, Nat
from tests.swarm.processes import events

PORT = 31400
MANYHANDS = (sys.executable, "-m", "manyhands")
PROMPT = "Once upon a time there was a boy named Tom."


class Served:
    """One node: `start`, `until_ready`, and `end` or `host.kill()`."""

    def __init__(self, host: Host, span: str, *more: object, port: int = PORT) -> None:
        """`more` are options of `serve`. A host may run several, on ports of their own."""
        self.host, self.span, self.more, self.port = host, span, more, port
        self.home = Home.at(host.lab.directory / f"{host.name}-{port}")
        self.peer = open_identity(self.home.node).peer_id
        forwarded = host.router is not None and host.router.kind is Nat.FULL_CONE
        address = host.seen_as if forwarded else host.address
        self.address = Address(address, port, self.peer)
        self._announced = ("--announce", f"{address}:{port}") if forwarded else ()
        self.process: subprocess.Popen[str] | None = None

    def start(self, *join: Address) -> None:
        self.process = self.host.start(
            *(*MANYHANDS, "serve", "tiny", "--home", self.home.root, "--span", self.span),
            *("--listen", f"0.0.0.0:{self.port}", *self._announced, "--kv-cache", "64MiB"),
            *("--threads", 1, "--parent", os.getpid(), "--drain", 5, "--dtype", "float32"),
            *(f"--join={address}" for address in join if address != self.address),
            *self.more,
        )

    def until_ready(self) -> dict[str, Any]:
        """The ready line: `addresses`, `libp2p`, …"""
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.host.name} ended: {self.host.errors()}"
        return dict(json.loads(line))

    def status(self) -> dict[str, Any]:
        """What the node says of itself, asked on its own host: the call `status`."""
        code = (
            "import asyncio, sys; from tests.namespaces.nodes import print_status\n"
            "asyncio.run(print_status(*sys.argv[1:]))"
        )
        here = Address("127.0.0.1", self.port, self.peer)
        done = self.host.run(sys.executable, "-c", code, here, self.home.root)
        assert done.code == 0, done.err
        return dict(json.loads(done.out))

    def end(self, signum: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(timeout=60)


def start_all(nodes: Iterable[Served], *join: Address) -> None:
    """Start nodes beside each other, and wait for all."""
    nodes = list(nodes)
    for node in nodes:
        node.start(*join)
    for node in nodes:
        node.until_ready()


def generate(host: Host, *options: object, timeout_s: float = 120) -> dict[str, Any]:
    """An answer of 16 greedy tokens unless options say otherwise, as `generate --json` tells it."""
    done = host.run(*_generate(host, *options), "--json", timeout_s=timeout_s)
    assert done.code == 0, f"{done.err}\n{host.lab.errors()}"
    return dict(json.loads(done.out))


@contextlib.contextmanager
def answering(host: Host, *options: object) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of `generate --jsonl` as they come; the process ends with the block."""
    process = host.start(*_generate(host, *options), "--jsonl")
    try:
        yield events(process)
    finally:
        process.kill()
        process.wait()


def _generate(host: Host, *options: object) -> tuple[object, ...]:
    usual = ("--prompt", PROMPT, "--max-tokens", 16, "--temperature", 0, "--ignore-eos")
    home = ("--home", host.lab.directory / f"{host.name}-client")
    return (*MANYHANDS, "generate", "tiny", *usual, *home, *options)


async def print_status(address: str, home: str) -> None:
    """Runs on a node's own host."""
    from protocol.signing import OPEN_SWARM_ID
    from protocol.transport.grpc import GrpcTransport

    transport = GrpcTransport(open_identity(Home.at(Path(f"{home}-status")).client), OPEN_SWARM_ID)
    connection = await transport.dial(Address.parse(address))
    print((await connection.call("status", b"", timeout_s=5)).decode())
    await connection.aclose()

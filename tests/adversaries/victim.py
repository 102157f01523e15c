"""A listener in a process of its own, and what it takes of the machine: see `test_connections.py`.

Run as a module it listens, answers the calls `Test` and `Large`, and prints its address.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol.address import Address
from protocol.guard import Guard
from protocol.identity import PeerId
from protocol.transport import Service
from tests.protocol.transport.peers import echo, new_transport, who_am_i

LARGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that listens."""

    address: Address
    pid: int

    @property
    def mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def n_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    async def serves(self) -> bool:
        """Whether a newcomer that is honest is answered now, within five seconds."""
        connection = await new_transport().dial(self.address, timeout_s=5)
        try:
            return bool(await connection.call("Test", b"", timeout_s=5))
        finally:
            await connection.aclose()


@asynccontextmanager
async def victim() -> AsyncIterator[Victim]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.adversaries.victim", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), timeout=30)
        yield Victim(Address.parse(line.decode().strip()), process.pid)
        assert process.returncode is None, "it died"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _large(caller: PeerId, request: bytes) -> bytes:
    return bytes(LARGE_BYTES)


async def main() -> None:
    calls = {"Test": who_am_i, "Large": _large}
    service = Service(calls=calls, streams={"Echo": echo}, guard=Guard())
    listener = await new_transport().listen("127.0.0.1", 0, service)
    print(listener.addresses[0], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

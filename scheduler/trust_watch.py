"""How a client that runs for long goes on knowing who is at fault.

In: findings of its home, which an audit beside it or this home's node may add to, and nodes, which
tell what they heard. Out: the trust by which routes are chosen, new within seconds. All reading and
judging is done on threads. What cannot be read or asked leaves things as they are.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import uniform
from typing import TYPE_CHECKING

from ledger.findings import FILE_NAME, KeptOpen
from protocol.errors import ManyhandsError
from scheduler.trust import Trust, read_trust

if TYPE_CHECKING:
    from scheduler.client import Client

log = logging.getLogger(__name__)

LOOK_S = 1.0  # four files are asked for their size
HEAR_S = 5.0  # a few nodes are asked, in one message each
ANEW_S = 3600.0  # evidence ages

Mark = tuple[tuple[int, int], ...]


class TrustWatch:
    """Of one client. directories: whose findings count; what nodes tell goes into the first."""

    def __init__(
        self,
        client: "Client",
        directories: Sequence[Path],
        trusted: Callable[[], frozenset[bytes]],
        *,
        quarantine: bool = True,
    ) -> None:
        """trusted: auditors whose word is enough, asked on a thread. quarantine: use none of whom
        is at fault."""
        self._client, self._directories = client, tuple(directories)
        self._findings = KeptOpen(self._directories[0], client.swarm_id)
        self._trusted, self._quarantine = trusted, quarantine
        self._known: tuple[Mark, frozenset[bytes]] | None = None
        self._read_at_s = 0.0
        self._complaint = ""

    async def begin(self) -> None:
        """Read what is found before anything is asked.

        Raises:
            ConfigError, IntegrityError: it cannot be used.
        """
        trust = await asyncio.to_thread(self._read)
        assert trust is not None, "nothing was read before"
        self._client.records.trust = trust

    async def look(self) -> None:
        """Read what is found, if it is more than was read last."""
        try:
            trust = await asyncio.to_thread(self._read)
        except ManyhandsError as error:
            if self._complaint != str(error):  # once: it is asked every second
                log.warning("findings cannot be read", extra={"error": str(error)})
            self._complaint = str(error)
            return
        if trust is not None:
            self._client.records.trust, self._complaint = trust, ""

    def _read(self) -> Trust | None:
        known = self._mark(), self._trusted()  # before reading: what comes meanwhile is read again
        now_s = time.monotonic()
        if known == self._known and now_s - self._read_at_s < ANEW_S:
            return None
        trust = read_trust(
            self._directories, self._client.swarm_id, known[1], quarantine=self._quarantine
        )
        self._known, self._read_at_s = known, now_s
        return trust

    def _mark(self) -> Mark:
        """Of the files: every write changes the database's, or its log's, size or time."""
        names = FILE_NAME, f"{FILE_NAME}-wal"
        return tuple(_state(place / name) for place in self._directories for name in names)

    async def hear(self) -> None:
        """Ask a few nodes for faults that are not known here."""
        try:
            findings = await asyncio.to_thread(self._findings.get)
            heard = await self._client.exchange_faults(findings)
        except ManyhandsError as error:
            log.info("no news of faults", extra={"why": str(error)})
            return
        if heard:
            log.info("heard of faults", extra={"count": heard})

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:  # apart: a slow node delays no look
            tasks.create_task(_again(self.look, LOOK_S))
            tasks.create_task(_again(self.hear, HEAR_S))


@asynccontextmanager
async def watching(watch: TrustWatch) -> AsyncIterator[None]:
    """It runs as long as the block does."""
    running = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _again(do: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s * uniform(0.8, 1.2))
        await do()


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, -1
    return found.st_mtime_ns, found.st_size

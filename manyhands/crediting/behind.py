"""Settling behind a client's back: what is over is settled with those who come by, by using them.

In: a home's receipts, an open client. Out: visits to nodes that it paid in epochs that are over, a
few, between answers and when the client closes; no answer waits for them. How it went is kept in
the home, so that one of its clients looks, and not each. Off with MANYHANDS_SETTLE=off.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from manyhands.crediting.settle import due_of, visit_all
from manyhands.home import Home
from manyhands.party import Party
from manyhands.private_files import write_whole
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, UsageError

log = logging.getLogger(__name__)

VARIABLE = "MANYHANDS_SETTLE"
FILE_NAME = "settle-next"  # when to look again, in ms
EVERY_S, LAST_S = 30.0, 5.0  # while the client is open; in all, when it closes
MOST = 64  # visits in one go
AGAIN_MS, TRIES = 60_000, 24  # what failed is tried again so often in an epoch, if that is seldom


@asynccontextmanager
async def settling_behind(home: Home, party: Party, join: Sequence[Address]) -> AsyncIterator[None]:
    """Settle what is due while the body runs, and a last time, bounded, when it has ended.

    Raises:
        UsageError: the setting is neither on nor off.
    """
    if not is_on():
        yield
        return
    running = asyncio.create_task(_keep_on(home, party, join), name="settling behind")
    try:
        yield
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                await settle_once(home, party, join)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def is_on() -> bool:
    """
    Raises:
        UsageError: the setting is neither on nor off.
    """
    said = os.environ.get(VARIABLE, "on")
    if said not in ("on", "off"):
        raise UsageError(f"{VARIABLE}={said[:40]} says nothing", hint=f"{VARIABLE}=on, or off")
    return said == "on"


async def settle_once(home: Home, party: Party, join: Sequence[Address]) -> None:
    """What is due, unless it is not time to look; what fails is left for the next time."""
    path = home.client / FILE_NAME
    if await asyncio.to_thread(_next_ms, path) > wall_ms():
        return
    epoch_ms = party.policy.epoch_s * 1000
    again_ms = wall_ms() + max(AGAIN_MS, epoch_ms // TRIES)
    try:
        # Before the visits: whoever else opens a client meanwhile leaves them to us.
        await asyncio.to_thread(write_whole, path, str(again_ms).encode())
        due = await asyncio.to_thread(due_of, home, party, None)
        found = await visit_all(home, party, join, due[:MOST]) if due else []
        for each in found:
            told = {"peer": each.due.peer, "epoch": each.due.epoch, "reason": str(each.error or "")}
            log.info("not settled" if each.error else "settled", extra=told)
        if len(due) <= MOST and not any(each.error for each in found):
            over_ms = (party.policy.epoch_of(wall_ms()) + 1) * epoch_ms
            await asyncio.to_thread(write_whole, path, str(over_ms).encode())
    except ManyhandsError as error:
        log.info("nothing could be settled", extra={"reason": str(error)})


async def _keep_on(home: Home, party: Party, join: Sequence[Address]) -> None:
    while True:
        await asyncio.sleep(EVERY_S)
        await settle_once(home, party, join)


def _next_ms(path: Path) -> int:
    """0, where nobody has looked; a file that is none says nothing."""
    try:
        return int(path.read_bytes()[:20])
    except (OSError, ValueError):
        return 0

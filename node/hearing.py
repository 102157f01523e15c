"""Hearing of spend logs from one peer: what changed there, fetched from where ours end.

In: a connection, and the place up to which this peer was heard before. Out: books that know what
the peer's know, as far as it holds, and the new place. Logs are fetched as C2SP tiles: entries from
our size on, all of them where that does not lead to the root. Used by nodes and by clients alike.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from ledger.spend_learning import Learned, Learner
from ledger.spend_log import SpendLog
from ledger.spend_shelf import CHECKPOINT
from ledger.spend_words import (
    FAULT_PATH,
    LOG,
    NEWS,
    PUBLISH,
    Known,
    News,
    Published,
    Since,
    Wanted,
    read_fault,
)
from ledger.tiles import WIDTH, tiles_of, unbundle
from protocol.errors import IntegrityError, PeerMisbehaved, PeerRefused
from protocol.transport import Connection

D = TypeVar("D")
T = TypeVar("T")
CALL_S = 10.0
MAX_PAGES = 16  # heard in one go; the rest the next time
MAX_GROWTH, MAX_GROWTH_BYTES = 1 << 17, 1 << 26  # of one log, fetched in one go


async def hear(connection: Connection, learner: Learner, since: Since) -> Since:
    """Take in what changed at a peer. Returns the place up to which it was heard.

    Raises:
        PeerMisbehaved: it told what does not hold.
        ManyhandsError: it cannot be reached, or refuses us.
    """
    for _ in range(MAX_PAGES):
        told = await connection.call(NEWS, since.encode(), timeout_s=CALL_S)
        news = _holding(connection, News.decode, told)
        for account in news.forked:  # of whom we have a log: a quorum thought of no other ones
            if not await asyncio.to_thread(learner.is_new, account):
                await _hear_fork(connection, learner, account)
        for head in news.heads:
            if not await asyncio.to_thread(learner.knows, head):
                is_new = await asyncio.to_thread(learner.is_new, head.account)
                with suppress(PeerRefused):  # it forked there meanwhile
                    await fetch_log(connection, learner, head.account)
                if is_new:  # its fork may have been passed over while we had no log
                    await _hear_fork(connection, learner, head.account)
        since = news.since
        if news.is_all:
            break
    return since


async def fetch_log(connection: Connection, learner: Learner, account: bytes) -> Learned:
    """Have all that the peer has of an account's log.

    Raises:
        PeerMisbehaved: what it has does not hold.
        PeerRefused: it has none, or showed two.
        ManyhandsError: it cannot be reached, or refuses us.
    """
    size = await asyncio.to_thread(learner.books.size, account)
    learned = await _fetch(connection, learner, account, size)
    if (
        learned.error is not None and not learned.is_forked
    ):  # a version that parted before ours ends
        learned = await _fetch(connection, learner, account, 0)
    if learned.error is not None and not learned.is_forked:
        raise PeerMisbehaved(connection.peer_id, f"its spend log of somebody: {learned.error}")
    return learned


async def publish(connection: Connection, own: SpendLog) -> Known:
    """Tell a peer of our own log, from where it knows it on.

    Raises:
        PeerRefused: no quorum has cosigned it, or the peer knows another version.
        ManyhandsError: it cannot be reached, or refuses us.
    """
    size = await asyncio.to_thread(len, own)
    start = size  # first without leaves: it may know all
    while True:
        note = await asyncio.to_thread(own.checkpoint) or ""
        leaves = await asyncio.to_thread(own.leaves, start, size)
        told = Published(own.account, note, start, tuple(leaves))
        answered = await connection.call(PUBLISH, told.encode(), timeout_s=CALL_S)
        known = _holding(connection, Known.decode, answered)
        if known.is_forked or known.size >= size or known.size >= start:
            return known
        start = known.size


async def _hear_fork(connection: Connection, learner: Learner, account: bytes) -> None:
    if await asyncio.to_thread(learner.books.is_forked, account):
        return
    proof = await connection.call(LOG, Wanted(account, FAULT_PATH).encode(), timeout_s=CALL_S)
    if not proof:
        return  # none is known there
    fault = _holding(connection, read_fault, proof)
    try:
        await asyncio.to_thread(learner.believe, fault)
    except IntegrityError as error:
        raise PeerMisbehaved(connection.peer_id, f"a fork that is none: {error}") from error


async def _fetch(connection: Connection, learner: Learner, account: bytes, start: int) -> Learned:
    note = (await _read(connection, account, CHECKPOINT)).decode(errors="replace")
    try:  # before a leaf is asked for: who invents a size makes us fetch nothing
        size = await asyncio.to_thread(learner.size_of, account, note)
    except IntegrityError as error:
        raise PeerMisbehaved(connection.peer_id, f"a checkpoint of a spend log: {error}") from error
    start = min(start, size)
    if size - start > MAX_GROWTH:
        raise PeerRefused(connection.peer_id, f"a spend log that grew by {size - start} entries")
    leaves: list[bytes] = []
    n_bytes = 0
    for tile in tiles_of(size, None, start) if start < size else ():
        bundle = await _read(connection, account, tile.path())
        n_bytes += len(bundle)
        if n_bytes > MAX_GROWTH_BYTES:
            raise PeerRefused(connection.peer_id, "a spend log that grew by too much at once")
        entries = _holding(connection, unbundle, bundle)
        leaves += entries[max(0, start - tile.index * WIDTH) :]
    return await asyncio.to_thread(learner.take, Published(account, note, start, tuple(leaves)))


async def _read(connection: Connection, account: bytes, path: str) -> bytes:
    return await connection.call(LOG, Wanted(account, path).encode(), timeout_s=CALL_S)


def _holding(connection: Connection, read: Callable[[D], T], told: D) -> T:
    try:
        return read(told)
    except IntegrityError as error:
        raise PeerMisbehaved(connection.peer_id, str(error)) from error

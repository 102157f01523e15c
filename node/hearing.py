"""Hearing of spend logs from one peer: what changed there, fetched from where ours end.

In: a connection, and the place up to which this peer was heard before. Out: books that know what
the peer's know, as far as it holds, and the new place. Logs are read as C2SP tiles, long ones over
several visits. Used by nodes and by clients alike.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ledger.errors import DamagedLedger
from ledger.parting import size_of
from ledger.spend_learning import Learner
from ledger.spend_log import SpendLog
from ledger.spend_reading import PIECE, PIECE_BYTES, read_log, read_parting
from ledger.spend_shelf import Forked, Head
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
from ledger.tiles import Fetch
from protocol.errors import IntegrityError, PeerMisbehaved, PeerRefused, PeerUnreachable
from protocol.transport import Connection

D = TypeVar("D")
T = TypeVar("T")
CALL_S = 10.0
MAX_PAGES = 16  # heard in one go; the rest the next time
# Threads of their own: who answers slowly keeps none of those that sessions wait for.
_READERS = ThreadPoolExecutor(4, thread_name_prefix="spend-logs")


async def hear(connection: Connection, learner: Learner, since: Since) -> Since:
    """Take in what changed at a peer. Returns the place up to which it was heard.

    Raises:
        PeerMisbehaved: it told what does not hold.
        ManyhandsError: it cannot be reached, or refuses us.
    """
    heard = since
    for _ in range(MAX_PAGES):
        told = await connection.call(NEWS, since.encode(), timeout_s=CALL_S)
        news = _holding(connection, News.decode, told)
        is_all = True
        for fork in news.forked:
            is_all &= await _hear_fork(connection, learner, fork)
        for head in news.heads:
            is_all &= await _hear_head(connection, learner, head)
        if is_all and heard == since:  # else what was left out is told again
            heard = news.since
        since = news.since
        if news.is_all:
            break
    return heard


async def publish(connection: Connection, own: SpendLog) -> Known:
    """Tell a peer of our own log, from where it knows it on, a piece at a time.

    Raises:
        PeerRefused: no quorum has cosigned it, or the peer knows another version.
        ManyhandsError: it cannot be reached, or refuses us.
    """
    note = await asyncio.to_thread(own.checkpoint) or ""
    size = start = size_of(note)  # first without leaves: it may know all
    while True:
        told = await asyncio.to_thread(_piece, own, note, start, size)
        answered = await connection.call(PUBLISH, told.encode(), timeout_s=CALL_S)
        known = _holding(connection, Known.decode, answered)
        end = start + len(told.leaves)
        if known.is_forked or known.size >= size or (start < size and known.size < end):
            return known
        start = known.size


def _piece(own: SpendLog, note: str, start: int, size: int) -> Published:
    leaves = own.leaves(start, min(size, start + PIECE))
    n_bytes, n = 0, 0
    while n < len(leaves) and (n == 0 or n_bytes + len(leaves[n]) <= PIECE_BYTES):
        n_bytes, n = n_bytes + len(leaves[n]), n + 1
    end = start + n
    path = None if end == size else tuple(own.path_to(end - 1, size))
    return Published(own.account, note, start, tuple(leaves[:n]), path)


async def _hear_head(connection: Connection, learner: Learner, head: Head) -> bool:
    """Whether all of the log is known now, or no more of it is to be had here."""
    if await asyncio.to_thread(learner.knows, head):
        return True
    is_new = await asyncio.to_thread(learner.is_new, head.account)
    is_all = await _reading(connection, learner, head.account, read_log)
    if is_new:  # its fork may have been passed over while we had no log
        await _hear_fork(connection, learner, Forked(head.account))
    return is_all


async def _hear_fork(connection: Connection, learner: Learner, fork: Forked) -> bool:
    """Of whom we have a log, or where a quorum signed two: of others nobody thought."""
    account = fork.account
    if await asyncio.to_thread(learner.knows_fork, fork):
        return True
    if fork.cut is not None:
        return await _reading(connection, learner, account, read_parting)
    if await asyncio.to_thread(learner.is_new, account):
        return True
    proof = await _read(connection, account, FAULT_PATH)
    if not proof:
        return True  # none is known there
    fault = _holding(connection, read_fault, proof)
    try:
        await asyncio.to_thread(learner.believe, fault)
    except IntegrityError as error:
        raise PeerMisbehaved(connection.peer_id, f"a fork that is none: {error}") from error
    return True


async def _reading(
    connection: Connection,
    learner: Learner,
    account: bytes,
    read: Callable[[Learner, bytes, Fetch], bool],
) -> bool:
    """On a thread, which asks this loop for what it fetches; True: there is no more to be had."""
    loop, is_over = asyncio.get_running_loop(), False

    def fetch(path: str) -> bytes:
        if is_over:
            raise PeerUnreachable(connection.peer_id, "nobody waits for its spend log any more")
        asked = asyncio.run_coroutine_threadsafe(_read(connection, account, path), loop)
        return asked.result()

    try:
        return await loop.run_in_executor(_READERS, read, learner, account, fetch)
    except PeerRefused:
        return True  # it forked there meanwhile, which is told anew
    except DamagedLedger:
        raise  # our own disk
    except IntegrityError as error:
        raise PeerMisbehaved(connection.peer_id, f"a spend log of somebody: {error}") from error
    finally:
        is_over = True


async def _read(connection: Connection, account: bytes, path: str) -> bytes:
    return await connection.call(LOG, Wanted(account, path).encode(), timeout_s=CALL_S)


def _holding(connection: Connection, read: Callable[[D], T], told: D) -> T:
    try:
        return read(told)
    except IntegrityError as error:
        raise PeerMisbehaved(connection.peer_id, str(error)) from error

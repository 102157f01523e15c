"""The rows that a hop sent on, fetched from it when a session is over.

In: what a hop is held to, how large its rows are, and how many there can be. Out: the bytes it
shows, from position 0 on. What they prove is left to whoever compares them with what it and its
successor signed.
"""

import asyncio

from protocol.errors import PeerMisbehaved, PeerUnreachable
from protocol.sent_rows import MAX_BYTES, METHOD, SentPart, request_bytes
from protocol.transport import Connection
from scheduler.commitments import Commitment

PART_S, ALL_S = 20.0, 60.0


async def fetch_sent_rows(
    connection: Connection, held: Commitment, row_bytes: int, most_rows: int
) -> bytes:
    """Rows from position 0 on, `most_rows` of them or all that it has.

    most_rows: by what the asker knows of the session: hops say and sign what they like. Never more
    than nodes keep.

    Raises:
        PeerMisbehaved: these are no such rows.
        PeerRefused: it has them no longer.
        PeerUnreachable: there was no answer, or not all of it within a minute.
    """
    most_rows = min(most_rows, MAX_BYTES // row_bytes)
    try:
        async with asyncio.timeout(ALL_S):
            return await _fetched(connection, held, row_bytes, most_rows)
    except TimeoutError as error:
        late = f"it showed not all rows within {ALL_S:g} s"
        raise PeerUnreachable(held.peer, late) from error


async def _fetched(
    connection: Connection, held: Commitment, row_bytes: int, most_rows: int
) -> bytes:
    rows = bytearray()
    while True:
        start = len(rows) // row_bytes
        request = request_bytes(held.terms_oid, start)
        part = SentPart.decode(await connection.call(METHOD, request, timeout_s=PART_S))
        if (part.row_bytes, part.start) != (row_bytes, start):
            raise PeerMisbehaved(held.peer, "it shows other rows than it was asked for")
        rows += part.rows
        stop = min(part.length, most_rows)
        if len(rows) >= stop * row_bytes:
            return bytes(memoryview(rows)[: stop * row_bytes])

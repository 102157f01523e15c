"""A client's visit to a node that it paid: the epoch is settled, and both have it signed.

In: a connection, what to settle. Out: settlements that both sides signed. The rules are
`ledger.settle_visit`'s; this carries questions and answers.
"""

import asyncio

from ledger.settle_visit import Steps, Visit
from ledger.settle_words import METHOD
from ledger.spending import Settlement
from protocol.transport import Connection

ANSWER_S = 20.0  # the node reads all that it has of us


async def settle(connection: Connection, visit: Visit) -> list[Settlement]:
    """
    Raises:
        NotAgreed: the two logs differ, and how.
        IntegrityError: the node proposes what our log does not give, or something malformed.
        PeerBusy: the epoch is not over, or it has too much to do.
        PeerUnreachable: it does not answer; what was signed so far stays, the next visit goes on.
    """
    steps = visit.steps()
    told: bytes | None = None
    step: asyncio.Future[bytes | list[Settlement]] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(_next, steps, told))
            asked = await asyncio.shield(step)
            if isinstance(asked, list):
                return asked
            told = await connection.call(METHOD, asked, timeout_s=ANSWER_S)
    finally:
        if step is not None and not step.done():  # cancelled: its thread still runs the generator
            await asyncio.wait([step])
        await asyncio.to_thread(steps.close)


def _next(steps: Steps, told: bytes | None) -> bytes | list[Settlement]:
    """A generator's end does not travel through a thread: its value does."""
    try:
        return next(steps) if told is None else steps.send(told)
    except StopIteration as done:
        settled: list[Settlement] = done.value
        return settled

"""What a node keeps of debts and of credit, whatever span it serves: owing, spend logs, settling.

In: the funding of its swarm, as `node.Standing` has it. Out: calls that others make, and one task
that does what is due: between strangers who owes whom (`owing.py`), where issuers grant credit
everybody's spend logs (`spreading.py`) and what allotments have paid (`settling.py`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ledger.witness import WitnessBook
from node.serving import Standing
from node.settling import Settling
from node.spreading import Spreading
from protocol.address import Address
from protocol.announcements import Announcement
from protocol.guard import Guard
from protocol.owing import METHOD as OWING_METHOD
from protocol.transport import CallHandler


class _Part(Protocol):
    async def run(self) -> None: ...


class Accounts:
    """`begin` before the node listens, `run` for as long as it is up."""

    def __init__(
        self,
        standing: Standing,
        others: Callable[[], Sequence[Announcement]],
        join: Sequence[Address],
        guard: Guard,
        *,
        witness: WitnessBook | None,
        settling: Settling | None,
    ) -> None:
        """others: who serves now, but this node."""
        self._books, self._escrow = standing.books, standing.escrow
        self._owing = standing.owing
        self.settling = settling
        self.spreading: Spreading | None = None  # of spend logs, where these are paid from
        if self._escrow is not None:
            logs, transport = self._escrow.purse.books, standing.transport
            self.spreading = Spreading(logs, transport, others, join, witness=witness, guard=guard)

    @property
    def calls(self) -> Mapping[str, CallHandler]:
        return {
            **({OWING_METHOD: self._owing.handle} if self._owing else {}),
            **(self.spreading.calls if self.spreading else {}),
            **(self.settling.calls if self.settling else {}),
        }

    async def begin(self) -> None:
        """Claim what our receipts say that tabs came to, also of sessions that a crash ended."""
        if self._escrow is not None:
            await asyncio.wrap_future(self._books.ask(self._escrow.recover))

    async def run(self) -> None:
        parts: tuple[_Part | None, ...] = (self._owing, self.spreading, self.settling)
        async with asyncio.TaskGroup() as tasks:
            for part in filter(None, parts):
                tasks.create_task(part.run(), name=type(part).__name__.lower())

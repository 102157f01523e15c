"""The end of a session's books: its receipt goes into the node's log, and the client hears where.

In: the session's tab, if anything was ever agreed. Out: a word to the client, and `done`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from ledger.receipts import Receipt
from ledger.spending import Fault
from node.metering import SessionMeter
from protocol.errors import IntegrityError, ManyhandsError
from protocol.messages import Closed, Failure, ToClient
from protocol.transport.error_codec import encode_error

log = logging.getLogger(__name__)

File = Callable[[Receipt, Sequence[Fault]], Awaitable[tuple[bytes, int]]]
"""A receipt, and what the client signed that nobody honest signs; the receipt's id and place."""


class Filing:
    """Of one session. `done`: there is nothing to file, or it was."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(
        self,
        meter: SessionMeter,
        file: File,
        tell: Callable[[ToClient], None],
        epoch: int,
    ) -> None:
        """File it behind the caller's back."""
        receipt = meter.receipt()
        if receipt is None:
            meter.drop()
            self.done.set()
        else:
            self._task = asyncio.create_task(self._file(meter, receipt, file, tell, epoch))

    async def _file(
        self,
        meter: SessionMeter,
        receipt: Receipt,
        file: File,
        tell: Callable[[ToClient], None],
        epoch: int,
    ) -> None:
        try:
            if meter.hold is not None:
                await self._claim(meter)
            receipt_id, index = await file(receipt, meter.faults())
            tell(Closed(receipt=receipt_id, index=index))
        except IntegrityError as error:
            log.error("a receipt could not be filed", extra={"error": str(error)})
            tell(Failure(epoch=epoch, error=encode_error(error)))
        finally:
            self.done.set()

    @staticmethod
    async def _claim(meter: SessionMeter) -> None:
        """Of the allotment that pays. It comes first: what is claimed twice counts once, and where
        it fails, the receipt says it at the next start (`Escrow.recover`)."""
        try:
            await asyncio.to_thread(meter.close)
        except ManyhandsError as error:
            log.error("what a tab came to is not in the books yet", extra={"error": str(error)})

    async def ended(self) -> None:
        """Until the receipt is in the log."""
        if self._task is not None:
            await self._task

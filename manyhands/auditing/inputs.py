"""What a hop worked on, proven by its own signature.

In: a session's hops, and what each shows of the rows it sent. Out: the rows that the hop behind it
has signed for taking in, byte for byte, or why nobody can tell. Who shows them need not be
believed: rows that a hop has not signed for prove nothing about it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from manyhands.auditing.coverage import has_proven_input, has_signed
from manyhands.auditing.telling import Session
from protocol.errors import ManyhandsError
from protocol.identity import PeerId
from protocol.wire import Rows, WireFormat, decode
from scheduler.commitments import Commitment


@dataclass(frozen=True, slots=True)
class RowsSent:
    """How to ask a hop for what it sent. fetch: (hop, bytes of a row, most rows) to rows."""

    fetch: Callable[[Commitment, int, int], Awaitable[bytes]]
    wire: WireFormat
    hidden_size: int


@dataclass(frozen=True, slots=True)
class Input:
    """Of one hop, from position 0 on. rows: None: what the ids give, which its caller sent it.

    sender: who sent the rows. is_signed: and signed for it.
    """

    rows: Rows | None = None
    sender: Commitment | None = None
    is_signed: bool = False


class Inputs:
    """Of one session's hops. why_not: of those that are not proven, in words. senders: who stands
    before a hop of which nothing is proven: one of the two lies, or the rows are gone."""

    def __init__(self, session: Session, n_blocks: int, sent: RowsSent) -> None:
        self._session, self._n_blocks, self._sent = session, n_blocks, sent
        self._known: dict[str, Input | None] = {}
        self.why_not: dict[str, str] = {}
        self.senders: dict[str, PeerId] = {}

    async def of(self, hop: Commitment, until: int) -> Input | None:
        """None: nobody can tell what it was given for the positions below `until`."""
        if not hop.terms.layer_lo:
            is_proven = has_proven_input(self._session, hop, until, self._n_blocks)
            return Input() if is_proven else self._not(hop, "nobody knows what ids it was sent")
        if hop.peer not in self._known:
            self._known[hop.peer] = await self._shown(hop)
        known = self._known[hop.peer]
        if known is None or known.rows is None or len(known.rows) < until:
            return None
        return known

    async def _shown(self, hop: Commitment) -> Input | None:
        before = [each for each in self._session.hops if each.terms.layer_hi == hop.terms.layer_lo]
        if len(before) != 1:
            return self._not(hop, "nobody knows what rows it was sent")
        (sender,), sent, session = before, self._sent, self._session
        if session.was_mended:  # roots began anew when it was mended
            return self._not(hop, "its roots are of the last part of the answer only")
        self.senders[hop.peer] = sender.peer
        taken, most = hop.statement.last_step, session.capacity
        if taken > most:  # its own word, by which nobody else fills our memory
            return self._not(hop, f"it signed for {taken} rows, and there was room for {most}")
        most = min(most, max(taken, sender.statement.last_step))
        try:
            width = sent.wire.row_bytes(sent.hidden_size)
            shown = await sent.fetch(sender, width, most)
        except ManyhandsError as error:
            return self._not(hop, f"{sender.peer} does not show what it sent it: {error}")
        return await asyncio.to_thread(self._proven, hop, sender, shown, width)

    def _proven(
        self, hop: Commitment, sender: Commitment, shown: bytes, width: int
    ) -> Input | None:
        """On a thread: of a long answer it takes a second to hash them."""
        session, sent = self._session, self._sent
        is_signed = has_signed(sender, "out", shown, width)
        if not has_signed(hop, "in", shown, width):
            both = f"{sender.peer} and it signed for different rows between them"
            return self._not(
                hop, both if is_signed else f"{sender.peer} shows rows that nobody signed for"
            )
        del self.senders[hop.peer]
        n_rows = min(session.n_rows, hop.statement.last_step)
        rows = decode(sent.wire, shown[: n_rows * width], sent.hidden_size)
        return Input(rows, sender, is_signed)

    def _not(self, hop: Commitment, why: str) -> Input | None:
        self.why_not[hop.peer] = why
        return None

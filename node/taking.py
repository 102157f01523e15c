"""A hop takes the place of one that leaves, and with it what that one has run (DESIGN 5a.19).

In: a reserve that names the leaver and carries the client's note. Out: an empty lease and journal
filled from the leaver, part by part, each checked before it is taken in. What cannot be had is run
again, so every failure here costs time and nothing else.
"""

import logging
import time
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

from node.batching import Batcher
from node.engine import Lease
from protocol.address import Address
from protocol.errors import BadRows, ManyhandsError, PeerMisbehaved, PeerUnreachable
from protocol.handover import METHOD, Note, Part, blocks_in, request_bytes
from protocol.identity import public_key_from_peer_id
from protocol.journal import Journal
from protocol.messages import Reserve, require
from protocol.patience import HANDOVER_S
from protocol.transport import Connection, Transport

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

CALL_S = 10.0
TAKING_S = HANDOVER_S / 2  # in all; what is there by then is what the hop begins with


class Taking:
    """Of one session."""

    def __init__(
        self,
        transport: Transport,
        reserve: Reserve,
        client: str,
        swarm_id: bytes,
        *,
        profile: str,
        row_bytes: int,
        dtype: "torch.dtype",
    ) -> None:
        """Raises PeerMisbehaved, IntegrityError: the client has not signed that we take it."""
        self._transport, self._reserve = transport, reserve
        self._profile, self._row_bytes, self._dtype = profile, row_bytes, dtype
        note = Note.open(reserve.handover.note, swarm_id, public_key_from_peer_id(client))
        agreed = Note(
            session=reserve.session,
            epoch=reserve.epoch,
            giver=public_key_from_peer_id(reserve.handover.peer),
            taker=public_key_from_peer_id(transport.peer_id),
            span=reserve.span,
        )
        require(note == agreed, "the note is about another handover")

    async def copied_to(self, lease: Lease, journal: Journal, batcher: Batcher) -> int:
        """Begin an empty lease and journal with the leaver's rows; how many they are now."""
        began_s = time.monotonic()
        try:
            length = await self._take(lease, journal, batcher, until_s=began_s + TAKING_S)
        except (ManyhandsError, ValueError, RuntimeError) as error:  # torch's own, the last one
            log.warning("a handover ended early", extra={"error": str(error)})
            length = lease.length if isinstance(error, PeerUnreachable) else 0
        if not max(lease.floor, journal.length, 1) <= length <= lease.length:
            length = 0
            lease.cut(0)
            journal.cut(0)
        spent_s = round(time.monotonic() - began_s, 3)
        log.info("took over rows", extra={"rows": length, "seconds": spent_s})
        return length

    async def _take(
        self, lease: Lease, journal: Journal, batcher: Batcher, *, until_s: float
    ) -> int:
        """Until the leaver has no more, or it takes too long."""
        connection = await self._dial()
        try:
            while True:
                request = request_bytes(self._reserve.handover.note, lease.length)
                data = await connection.call(METHOD, request, timeout_s=CALL_S)
                part = Part.decode(data)
                self._check(part, lease.length)
                await batcher.between_steps(partial(_load, part, lease, self._dtype))
                self._keep(part, journal)
                if part.stop >= part.length or time.monotonic() >= until_s:
                    return lease.length
        finally:
            await connection.aclose()

    async def _dial(self) -> Connection:
        leaver = self._reserve.handover
        error: ManyhandsError = PeerUnreachable(leaver.peer, "no address is known")
        for text in leaver.addresses:
            try:
                address = Address.parse(text)
                if address.peer_id != leaver.peer:
                    raise PeerMisbehaved(leaver.peer, f"{text} names another peer")
                return await self._transport.dial(address, timeout_s=3.0)
            except ManyhandsError as failure:
                error = failure
        raise error

    def _check(self, part: Part, length: int) -> None:
        reserve, giver = self._reserve, self._reserve.handover.peer
        has_journal = part.journal_row_bytes > 0
        sound = (
            part.profile == self._profile
            and part.start == length
            and (part.stop > length or part.stop == part.length)
            and part.stop <= reserve.capacity
            and part.item_bytes == self._dtype.itemsize
            and len(part.blocks) == len(reserve.span)
            and part.journal_row_bytes in (0, self._row_bytes)
            and not (has_journal and reserve.is_last)
        )
        if not sound:
            raise PeerMisbehaved(giver, "it handed over something else than was asked for")

    def _keep(self, part: Part, journal: Journal) -> None:
        """The part's outputs; a journal has no holes."""
        if not part.journal_row_bytes:
            return
        if journal.is_empty:
            journal.begin(part.journal_from)
        if journal.length != part.journal_from:
            raise ValueError("the journal does not go on")
        journal.append(part.journal)


def _load(part: Part, lease: Lease, dtype: "torch.dtype") -> None:
    """On the worker thread.

    Raises:
        BadRows: keys or values are not finite.
        ValueError: they are of another kind or shape.
    """
    from node.engine.lease import BlockRows

    rows = []
    for view, shape in zip(blocks_in(memoryview(part.body), part), part.blocks, strict=True):
        n_rows = part.stop - shape.first
        flat = _values(view, dtype)
        n_keys = shape.key_heads * n_rows * shape.key_dim
        keys = flat[:n_keys].view(shape.key_heads, n_rows, shape.key_dim)
        values = flat[n_keys:].view(shape.value_heads, n_rows, shape.value_dim)
        rows.append(BlockRows(shape.first, keys, values))
    lease.load_block_rows(rows, part.stop)


def _values(data: memoryview, dtype: "torch.dtype") -> "Tensor":
    import torch

    if not data:
        return torch.empty(0, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=dtype)  # a copy: aligned, and nobody else's
    low, high = flat.aminmax()
    if not (isfinite(low) and isfinite(high)):
        raise BadRows("keys or values hold NaN or infinite numbers")
    return flat

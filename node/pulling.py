"""Rows of a session fetched from the peer that ran them, part by part (DESIGN 5a.19, 5a.20).

In: a reserve that names the peer and carries the client's note. Out: a lease and a journal that go
on with the peer's rows, each part checked before it is taken in. What to make of a failure is left
to whoever pulls: `taking.py`, `sparing.py`.
"""

import time
from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

from node.batching import Batcher
from node.engine import Lease
from protocol.errors import BadRows, PeerMisbehaved
from protocol.handover import METHOD, Part, blocks_in, request_bytes
from protocol.identity import PeerId
from protocol.journal import Journal
from protocol.messages import Reserve
from protocol.transport import Connection, Transport
from protocol.transport.paths import paths_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CALL_S = 10.0


class Pull:
    """Of one session's rows, for the blocks that `reserve` names."""

    def __init__(
        self,
        transport: Transport,
        reserve: Reserve,
        *,
        limit: int,
        profile: str,
        row_bytes: int,
        dtype: "torch.dtype",
    ) -> None:
        """limit: no row from there on is taken."""
        self._transport, self._reserve, self._limit = transport, reserve, limit
        self._profile, self._row_bytes, self._dtype = profile, row_bytes, dtype

    async def into(
        self,
        lease: Lease,
        journal: Journal,
        batcher: Batcher,
        *,
        until_s: float,
        close_rows: int = 0,
        took: Callable[[Part], None] = lambda part: None,
    ) -> None:
        """Until the peer has no more, or it takes too long. `took` is told of each part.

        close_rows: so few rows are not run after: a part that brought no more than these, and is
        behind by no more, is the last. Whoever is busy has run another row by the time one is here.

        Raises:
            PeerUnreachable: it is gone; what was taken in before is as good as it was.
            ManyhandsError, ValueError, RuntimeError: something is wrong with these rows.
        """
        connection = await self._dial()
        try:
            while True:
                request = request_bytes(self._reserve.handover.note, lease.length)
                data = await connection.call(METHOD, request, timeout_s=CALL_S)
                part = Part.decode(data)
                self._check(part, lease.length)
                await batcher.between_steps(partial(_load, part, lease, self._dtype))
                self._keep(part, journal)
                took(part)
                is_close = max(part.stop - part.start, part.length - part.stop) <= close_rows
                if part.stop >= part.length or is_close or time.monotonic() >= until_s:
                    return
        finally:
            await connection.aclose()

    async def _dial(self) -> Connection:
        giver = self._reserve.handover
        paths = paths_of(self._transport)
        return await paths.dial(PeerId(giver.peer), giver.addresses, timeout_s=3.0)

    def _check(self, part: Part, length: int) -> None:
        reserve, giver = self._reserve, self._reserve.handover.peer
        has_journal = part.journal_row_bytes > 0
        sound = (
            part.profile == self._profile
            and part.start == length
            and (part.stop > length or part.stop == part.length)
            and part.stop <= self._limit
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

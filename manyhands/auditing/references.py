"""Who runs again what a hop has run: other peers, or this machine.

In: the token ids of a session, and a border between blocks; or the rows that entered a span. Out:
the rows that leave, as honest software in the same execution profile makes them. One prefill gives
all positions at once, whatever they were decoded in.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from manyhands.auditing.ends import Ends
from manyhands.auditing.own_engine import OwnEngine, Waiting
from manyhands.models import Model
from protocol.errors import PeerUnreachable, SwarmIncomplete
from protocol.identity import PeerId
from protocol.messages import Span
from protocol.profile import Profile
from protocol.wire import Rows, decode, encode, wire_format
from scheduler.client import Client
from scheduler.hidden_session import HiddenRequest
from scheduler.wanted import ANY_PEER, Limits

WAIT_S = 0.5  # for other peers: they are there, or somebody else is asked
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Rerun:
    """Rows of one border, and who made them: peer ids, or nobody but ourselves."""

    rows: Rows
    by: tuple[str, ...] = ()


class Reference(Protocol):
    """Somebody who runs things again."""

    name: str

    async def rerun(self, ids: Sequence[int], border: int, but: Collection[str]) -> Rerun | None:
        """Rows at block `border`, made by none of the peers in `but`; None: nobody can."""

    async def rerun_rows(self, rows: Rows, span: Span, but: Collection[str]) -> Rerun | None:
        """What these rows become in the blocks of `span`."""


@dataclass(slots=True)
class ThisMachine:
    """Where it has all the weights. waiting: entered while other audits have its thread."""

    engine: OwnEngine
    waiting: Waiting = nullcontext
    name: str = "this machine"

    async def rerun(self, ids: Sequence[int], border: int, but: Collection[str]) -> Rerun | None:
        return Rerun(await self.engine.rerun(ids, border, self.waiting))

    async def rerun_rows(self, rows: Rows, span: Span, but: Collection[str]) -> Rerun | None:
        return Rerun(await self.engine.rerun_rows(rows, span, self.waiting))


@dataclass(slots=True)
class OtherPeers:
    """Other peers of the same execution profile, who get hidden rows and give hidden rows."""

    client: Client
    model: Model
    ends: Ends
    profile: Profile
    limits: Limits = ANY_PEER
    name: str = "other peers"

    async def rerun(self, ids: Sequence[int], border: int, but: Collection[str]) -> Rerun | None:
        rows = await asyncio.to_thread(self.ends.rows, ids)
        return await self._through(rows, Span(0, border), but)

    async def rerun_rows(self, rows: Rows, span: Span, but: Collection[str]) -> Rerun | None:
        return await self._through(rows, span, but)

    async def _through(self, rows: Rows, span: Span, but: Collection[str]) -> Rerun | None:
        wire = wire_format(self.profile.wire)
        avoid = tuple({*self.limits.avoid, *map(PeerId, but)})
        session = self.client.hidden(
            HiddenRequest(
                manifest=self.model.manifest.digest,
                n_blocks=self.model.manifest.n_blocks,
                start=span.start,
                stop=span.stop,
                capacity=len(rows) + 1,
                row_bytes=wire.row_bytes(self.ends.hidden_size),
                profile=str(self.profile),
                timeout_s=TIMEOUT_S,
                wait_s=WAIT_S,
                model=self.model.asked,
                limits=replace(self.limits, avoid=avoid),
            )
        )
        try:
            answer = await session.forward(0, encode(wire, rows))
            by = tuple(hop.peer for hop in session.rules.hops)
        except (SwarmIncomplete, PeerUnreachable):
            return None
        finally:
            await session.aclose()
        if {*by} & {*but}:
            return None
        return Rerun(decode(wire, answer, self.ends.hidden_size), by)

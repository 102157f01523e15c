"""One lane of hidden rows over a chain, for a client that holds the ends.

In: rows from a position on, as bytes of the chain's wire format. Out: the same positions behind
block `stop - 1`. Rolling back is sending from a lower position. The rules are those of
`protocol.ends_session`; streams to hops, signatures and settlement are `scheduler.session`'s.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from protocol.actions import Push, Return
from protocol.chain_actions import ChainAction, Done, Seat, Take
from protocol.ends_session import EndsSession
from protocol.errors import ManyhandsError, SessionTimeout, UsageError
from protocol.frames import Ack, RowGroup
from protocol.identity import Identity
from protocol.messages import MAX_POSITIONS, Reserve, Span
from scheduler.chain import Connections
from scheduler.data_links import DataLinks
from scheduler.finder import RouteFinder
from scheduler.prefixes import SessionPrefixes
from scheduler.request import GenerationRequest
from scheduler.session import Session
from scheduler.settlement import Settled, Settlement
from scheduler.wanted import ANY_PEER, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenRequest:
    """Room for one lane through blocks `[start, stop)`.

    profile: how the chain runs, and so what a row's bytes are; the caller has to know it.
    row_bytes: of one hidden row in that profile's wire format.
    limits: who may serve; every hop is told, and keeps its neighbours to it.
    """

    manifest: bytes
    n_blocks: int
    stop: int
    start: int = 0
    capacity: int
    row_bytes: int
    profile: str
    timeout_s: float = 3600.0
    wait_s: float = 5.0
    model: str = ""
    adapter: str = ""  # a name, or a name@digest
    limits: Limits = ANY_PEER

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= self.n_blocks:
            raise UsageError(
                f"a chain runs some of {self.n_blocks} blocks, not {self.start}:{self.stop}"
            )
        if not 0 < self.capacity < MAX_POSITIONS:
            raise UsageError(f"a session has room for 1 position or more, got {self.capacity}")

    def as_generation(self) -> GenerationRequest:
        """What routes and the shell of a session look at; it has no ids."""
        return GenerationRequest(
            manifest=self.manifest,
            n_blocks=self.n_blocks,
            prompt_ids=(0,),
            max_tokens=max(1, self.capacity - 1),
            timeout_s=self.timeout_s,
            wait_s=self.wait_s,
            profile=self.profile,
            model=self.model,
            adapter=self.adapter,
            limits=self.limits,
            reuse_prefix=False,
            spares=False,  # rows may be taken back
        )


class HiddenSession(Session):
    """Opened by its first `forward`; `aclose` settles it."""

    def __init__(
        self,
        request: HiddenRequest,
        finder: RouteFinder,
        connections: Connections,
        data: DataLinks,
        identity: Identity,
        settlement: Settlement,
        prefixes: SessionPrefixes,
    ) -> None:
        self._ends = EndsSession(
            settlement.session,
            identity.peer_id,
            request.stop,
            row_bytes=request.row_bytes,
            capacity=request.capacity,
            start=request.start,
        )
        super().__init__(
            request.as_generation(),
            finder,
            connections,
            identity,
            settlement,
            prefixes,
            self._ends,
        )
        self.hidden = request
        self.receipts: tuple[str, ...] = ()
        self._data = data
        self._task: asyncio.Task[None] | None = None
        self._answer: _Answer | None = None

    @property
    def length(self) -> int:
        """Positions that were sent."""
        return self._ends.inputs.length

    @property
    def failovers(self) -> int:
        return self.rules.failovers

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(hop.seat.span for hop in self.rules.hops)

    def rows(self, start: int, stop: int) -> bytes:
        """What was sent for positions `[start, stop)`."""
        return self._ends.inputs.rows(start, stop)

    async def forward(self, start: int, rows: bytes | memoryview) -> bytes:
        """Run rows from position `start` on; what was known from there on is forgotten.

        Raises:
            UsageError, ContextExceeded: these rows cannot be run here.
            ManyhandsError: the session is over, for this reason.
        """
        if self._answer is not None:
            raise UsageError("one forward of a session at a time")
        self._check_open()
        actions = self._ends.send(start, rows, time.monotonic())
        self._answer = answer = _Answer(start, self.length, self.hidden.row_bytes)
        try:
            if self._task is None:
                self._data.add(self.id, self)
                self._task = asyncio.create_task(self.run(), name="hidden session")
            else:
                self._do(actions)
            return await answer.whole
        finally:
            self._answer = None

    def _check_open(self) -> None:
        if self.error is not None:
            raise self.error
        if self._ended.is_set():
            raise UsageError("this session is closed", hint="open another one")

    async def aclose(self) -> None:
        """Settle every tab, free every hop."""
        if self._task is None:
            self._ended.set()
            return
        if self._ends.received < self.length:
            self.cancel()  # rows are on their way: they are owed, too
        self._do(self._ends.finish())
        await asyncio.gather(self._task, return_exceptions=True)

    # --- what the rules want ----------------------------------------------------------------------

    def _do(self, actions: Sequence[ChainAction]) -> None:
        super()._do(actions)
        for action in actions:
            match action:
                case Push(peer, group, row_bytes, body):
                    self._data.push(peer, group, row_bytes, body)
                case Return(peer, message):
                    self._data.send(peer, message)
                case Take(start, _, body):
                    if self._answer is not None:
                        self._answer.take(start, body)
                    self._payments.pay_who_waits()
                case Done(_, error):
                    self._data.discard(self.id)
                    if self._answer is not None:
                        self._answer.fail(error or SessionTimeout("the session was closed"))

    def _reservation(self, seat: Seat, epoch: int, leaver: Seat | None) -> Reserve:
        if self.hidden.start == seat.span.start or seat.span.stop == self.hidden.stop:
            self._data.expect(seat.peer, seat.addresses)
        return replace(  # no prefixes: they are named by ids, and hops see none
            super()._reservation(seat, epoch, leaver),
            capacity=self.hidden.capacity,
            max_tokens=1,
            client_ends=True,
        )

    def _finish(self, settled: Settled) -> None:
        self.receipts = settled.receipts

    # --- scheduler.data_links.Ends ----------------------------------------------------------------

    def uses(self, peer: str) -> bool:
        return peer in (self._ends.first, self._ends.last)

    def took(self, peer: str, group: RowGroup, row_bytes: int, body: memoryview) -> None:
        try:
            actions = self._ends.frame(peer, group, row_bytes, body, time.monotonic())
        except ManyhandsError as error:
            actions = self._ends.lost(peer, error, time.monotonic())
        self._do(actions)
        self._payments.pay_who_waits()

    def acked(self, peer: str, ack: Ack) -> None:
        try:
            actions = self._ends.ack(peer, ack)
        except ManyhandsError as error:
            actions = self._ends.lost(peer, error, time.monotonic())
        self._do(actions)

    def link_lost(self, peer: str) -> None:
        self._ends.link_lost(peer)

    def link_back(self, peer: str) -> None:
        self._do(self._ends.link_back(peer))

    def link_failed(self, peer: str, error: ManyhandsError) -> None:
        self._do(self._ends.link_failed(peer, str(error), time.monotonic()))


class _Answer:
    """The rows of one forward, as they come back."""

    def __init__(self, start: int, stop: int, row_bytes: int) -> None:
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._start, self._row_bytes = start, row_bytes
        self._room = bytearray((stop - start) * row_bytes)
        self._filled = 0

    def take(self, start: int, body: bytes | memoryview) -> None:
        """Rows come in order; those below our start were asked for again by somebody's loss."""
        at = (start - self._start) * self._row_bytes
        if at < 0:
            body, at = memoryview(body)[-at:], 0
        if not len(body):
            return
        self._room[at : at + len(body)] = body
        self._filled = at + len(body)
        if self._filled == len(self._room) and not self.whole.done():
            self.whole.set_result(bytes(self._room))

    def fail(self, error: ManyhandsError) -> None:
        if not self.whole.done():
            self.whole.set_exception(error)

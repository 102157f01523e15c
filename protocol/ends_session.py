"""The client's half of DESIGN 5a where the client holds the ends: it embeds and draws itself.

In: hidden rows to run, what hops say, frames that come back, and `now` in seconds. Out: what
`chain_session.py` asks for, and rows: to the first hop, whose predecessor the client is, and from
the last one, whose successor it is. Epochs, routes, losses and tabs are the same rules; **the
history is the rows the client has sent**, kept as their bytes, and progress is the rows that came
back. A replacement for the first hop is filled from there, as any other from a journal.

Rows that start below the history's end roll it back: they are sent on a higher branch (5a.4). Until
a row of that branch is back, hops may still hold rows of the one before, so a re-route in between
cuts everybody to where the branch began.
"""

from collections.abc import Sequence

from protocol.actions import Return
from protocol.chain_actions import ChainAction, Seat, SendCommit, Take
from protocol.chain_hops import Phase
from protocol.chain_session import ChainSession
from protocol.errors import ContextExceeded, PeerMisbehaved, PeerUnreachable, UsageError
from protocol.frames import Ack, Ask, RowGroup
from protocol.journal import Journal
from protocol.links import Arrival, InLink, OutLink
from protocol.messages import SessionId, TokenEvent, require


class EndsSession(ChainSession):
    """One lane of hidden rows through blocks `[start, stop)`; see `ChainSession` for its table.

    Args:
        client: the peer id that hops know as predecessor and successor.
        row_bytes: of one hidden row on the wire.
    """

    def __init__(
        self,
        session: SessionId,
        client: str,
        stop: int,
        *,
        row_bytes: int,
        capacity: int,
        start: int = 0,
    ) -> None:
        super().__init__((), stop)
        self.first_block = start
        self.session, self.client, self.capacity = session, client, capacity
        self.inputs = Journal(row_bytes, capacity)
        self._to, self._from = OutLink(row_bytes), InLink(row_bytes)
        self._branch = 0
        self._top = 0  # rows that a hop or we had when the epoch was committed
        self._forked_at: int | None = None  # where rows of this branch begin, while none is back

    @property
    def received(self) -> int:
        """Rows before this have come back."""
        return self._from.accepted

    @property
    def first(self) -> str:
        """The hop that takes our rows."""
        return self._to.peer

    @property
    def last(self) -> str:
        """The hop that sends them back."""
        return self._from.peer

    # --- rows -------------------------------------------------------------------------------------

    def send(self, start: int, rows: bytes | memoryview, now: float) -> list[ChainAction]:
        """Run these from position `start` on; what was there before is forgotten.

        Raises:
            UsageError: no whole rows, or `start` lies behind the rows sent so far.
            ContextExceeded: there was no room reserved for so many.
        """
        n_rows, more = divmod(len(rows), self.inputs.row_bytes)
        if more or not n_rows:
            raise UsageError(f"{len(rows)} bytes are no rows of {self.inputs.row_bytes} bytes")
        stop = start + n_rows
        if not 0 <= start <= self.inputs.length:
            raise UsageError(f"rows from {start} on do not go on at {self.inputs.length}")
        if stop > self.capacity:
            raise ContextExceeded(
                f"{stop} positions do not fit the {self.capacity} that were reserved",
                hint="open the session with a larger max_length",
            )
        released: list[ChainAction] = []
        if start < self.inputs.length:
            self._cut(start)
            released = self.succession.give_up()  # what they took over may be forgotten now
        self.inputs.append(rows)
        self._moved_at = now
        return released + self._pump()

    def _cut(self, start: int) -> None:
        """Everybody runs on from `start`, on a new branch."""
        reached = self._reached()
        for hop in self.hops:
            if hop.running:
                self._close_stretch(hop, reached)
                hop.running, hop.base = True, min(start, max(hop.base, reached))
        self.inputs.cut(start)
        self._top = min(self._top, start)
        self._branch += 1
        self._to.fork(self._branch, start)
        self._from.cut(start)
        self._from.branch = self._branch  # rows of older ones are dropped from now on
        self._forked_at = start if self._forked_at is None else min(start, self._forked_at)

    def frame(
        self, peer: str, group: RowGroup, row_bytes: int, body: bytes | memoryview, now: float
    ) -> list[ChainAction]:
        """Rows that the last hop sends back.

        Raises:
            PeerMisbehaved: rows nobody asked for, or of another size.
        """
        if self.phase is not Phase.RUNNING or group.epoch != self.epoch:
            return []
        link = self._from
        arrival = link.arrival(peer, group)
        if arrival is Arrival.GAP:
            return [Return(peer, self._ack(rewind=True))] if link.must_ask() else []
        if arrival is not Arrival.NEXT:
            return []
        require(row_bytes == link.row_bytes, f"rows of {row_bytes} bytes, not {link.row_bytes}")
        require(group.branch == self._branch, "rows of a branch that was never begun")
        require(group.start + group.rows <= self.inputs.length, "rows that were never asked for")
        self._hop(peer, now)
        self._moved_at = now
        known = link.take(group)
        if group.rows > known:
            self._forked_at = None
        body = memoryview(body)[known * row_bytes :]
        taken: list[ChainAction] = [Take(group.start + known, group.rows - known, body)]
        return [*taken, Return(peer, self._ack())] if link.owes_credit(self.received) else taken

    def token(self, peer: str, event: TokenEvent, now: float) -> list[ChainAction]:
        return self.lost(peer, PeerMisbehaved(peer, "it draws tokens that we draw"), now)

    def ack(self, peer: str, ack: Ack) -> list[ChainAction]:
        """The first hop has run rows, or wants some again."""
        if self.phase is not Phase.RUNNING or peer != self._to.peer or ack.epoch != self.epoch:
            return []
        self._to.acknowledged(ack, self.inputs.length)
        return self._pump()

    def link_lost(self, peer: str) -> None:
        """The data stream broke; the shell opens another."""
        if peer == self._to.peer:
            self._to.paused = True

    def link_back(self, peer: str) -> list[ChainAction]:
        """It is back: ask the first hop how far it got, tell the last one how far we are."""
        if self.phase is not Phase.RUNNING:
            return []
        told: list[ChainAction] = []
        if peer == self._to.peer and self._to.paused:
            told.append(Return(peer, Ask(self.session, self.epoch)))
        if peer == self._from.peer:
            told.append(Return(peer, self._ack(rewind=True)))
        return told

    def link_failed(self, peer: str, reason: str, now: float) -> list[ChainAction]:
        return self.lost(peer, PeerUnreachable(peer, reason), now)

    def finish(self) -> list[ChainAction]:
        """No more rows will be sent."""
        return self._done("stop") if self.phase is not Phase.DONE else []

    # --- time -------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[ChainAction]:
        if self.received == self.inputs.length:  # nothing is asked of anybody: no stall
            self._moved_at = now
        self._from.asked_at = -1  # a lost answer to a gap is asked for again
        return super().tick(now)

    # --- what the rules we share ask --------------------------------------------------------------

    def heirs(
        self, epoch: int, seats: Sequence[Seat], now: float, *, hand_over: bool
    ) -> list[ChainAction]:
        # Inner ones of several would have no journal, and no row must run twice.
        return super().heirs(epoch, seats, now, hand_over=hand_over and len(seats) == 1)

    def _held(self) -> int:
        return self.inputs.length

    def _known(self) -> int:
        return self._held() if self._forked_at is None else self._forked_at

    def _reached(self) -> int:
        # A row that nobody had at the commit has passed through all hops since.
        return self.received if self.received > self._top else 0

    def _lengths(self, n: int) -> list[int]:
        return [hop.length for hop in self.hops]  # journals are whole, and no row must run twice

    def _commit(self, now: float) -> list[ChainAction]:
        actions = super()._commit(now)
        # So the last hop learns on which stream we take our rows.
        return [*actions, Return(self.last, self._ack(rewind=True)), *self._pump()]

    def _commits(self, n: int, lengths: Sequence[int]) -> list[ChainAction]:
        self.n_prompt = n
        actions: list[ChainAction] = []
        ends = [self.client, *(hop.peer for hop in self.hops)]
        seats = [*(hop.seat for hop in self.hops), Seat(self.client, self.hops[-1].seat.span)]
        for index, hop in enumerate(self.hops):
            commit = SendCommit(
                peer=hop.peer,
                epoch=self.epoch,
                length=lengths[index],
                next_length=[*lengths, self.received][index + 1],
                n=n,
                previous=ends[index],
                next=seats[index + 1],
                is_new=not hop.committed,
            )
            actions.append(commit)
        self._branch, self._forked_at, self._top = 0, None, max(*lengths, self.received)
        self._to.reset(self.hops[0].peer, lengths[0])
        self._from.reset(self.hops[-1].peer, self.received)
        return actions

    def _pump(self) -> list[ChainAction]:
        if self.phase is not Phase.RUNNING:
            return []
        branch, length = self._branch, self.inputs.length
        return [*self._to.pump(self.session, self.epoch, branch, length, self.inputs.rows)]

    def _ack(self, *, rewind: bool = False) -> Ack:
        return Ack(self.session, self.epoch, self.received, rewind, self._branch)

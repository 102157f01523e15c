"""One session at this node: the rules of `protocol.hop_session`, with hands.

In: control messages, frames, engine results. Out: what the rules ask for: work for the batcher,
rows for the successor, words for the client, the receipt for the ledger. Everything here runs on
the event loop, except `draw`, which the batcher calls on its own thread.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from node.data_paths import DataPaths, send_on
from node.draft_model import thoughts_of
from node.drafting import drafter_of
from node.engine import Lease
from node.filing import Filing
from node.hop_trace import HopTrace
from node.metering import SessionMeter
from node.prefixes import Found, Rows
from node.readout import Readout
from node.route_check import check_commit
from node.surroundings import Surroundings
from node.taking import Taking
from node.work import Done, Work
from protocol.actions import Action, Line, Over, Push, Return, Run, Settle, Tell
from protocol.answer import Answer
from protocol.asking import PrefixNames
from protocol.codec import to_client_bytes
from protocol.constraints import NONE, Constraints
from protocol.drawing import Drawing
from protocol.draws import Drawn
from protocol.errors import BadRows, ManyhandsError, PeerMisbehaved
from protocol.frames import RowGroup
from protocol.hop_session import HopSession
from protocol.hop_state import State
from protocol.messages import (
    Account,
    Close,
    Commit,
    Keep,
    Leaving,
    Pay,
    Raise,
    Reserve,
    Reserved,
    Resume,
    ToClient,
    ToHop,
    Unpaid,
    require,
)
from protocol.profile import Profile
from protocol.signing import Envelope
from protocol.transport import Stream
from protocol.wire import WireFormat, wire_format

if TYPE_CHECKING:
    from protocol.sampling import Floats

log = logging.getLogger(__name__)


class Hop:
    """A batcher's lane, and the shell around a `HopSession`."""

    def __init__(
        self,
        around: Surroundings,
        reserve: Reserve,
        client: str,
        stream: Stream,
        lease: Lease,
        meter: SessionMeter,
        row_bytes: int,
        profile: Profile,
        found: Found | Taking | None = None,
        constraints: Constraints = NONE,
        drawing: Drawing | None = None,
        readout: Readout | None = None,
    ) -> None:
        """`found`: where its first rows come from, of another session or of a hop that leaves.
        `drawing`, `readout`: of the last hop."""
        self.client = client
        self.constraints = constraints
        self.lease = lease
        self.wire: WireFormat = wire_format(profile.wire)
        self.generation = 0
        self.since_s = time.monotonic()
        self.meter = meter
        self._around, self._drawing, self.readout = around, drawing, readout
        self._stream: Stream | None = stream
        self._paths = DataPaths(
            around.neighbours, around.inbound, client, is_bare=reserve.client_ends
        )
        self.filing = Filing()
        self._beginning: asyncio.Task[None] | None = None
        self.is_heir, self.is_claim = isinstance(found, Taking), False  # claim: see `keeping`
        self.is_guest = False  # see `credit`
        self._trace = HopTrace.of(around.tracer, reserve, around.peer_id)
        self._leaving: Leaving | None = None
        self._later: list[Action] = []
        self._thoughts = thoughts_of(reserve, around, self._guessed)
        self.session = HopSession(
            reserve,
            row_bytes=row_bytes,
            tab=meter,
            ending=lambda ids, n_prompt: Answer(around.grammars.tokenizer, reserve, ids, n_prompt),
            now=time.monotonic(),
            drafter=drafter_of(reserve, around, self._thoughts),
        )
        if readout is not None:
            readout.session = self.session
        self.end_wire = meter.begin_fingerprints(self.session, profile, around.hidden_size)
        self.rows = Rows(client, reserve, lease, self.session.journal, self.session)
        self.keeps_rows = False  # the client asked for it, for whoever continues this session
        self._profile = profile
        around.prefixes.name(self.rows, reserve.prefixes)
        if found is None and (drawing is None or drawing.grammar is None):
            self._reserved()
        else:
            self._beginning = asyncio.create_task(self._begin(found))

    async def _begin(self, found: Found | Taking | None) -> None:
        """What takes time, before anything is promised."""
        journal, batcher = self.session.journal, self._around.batcher
        try:
            if self._drawing is not None:
                await self._around.grammars.prepare(self._drawing)
        except ManyhandsError as error:
            self.run_failed(error)
            return
        self._reserved(await found.copied_to(self.lease, journal, batcher) if found else 0)

    def _reserved(self, length: int = 0) -> None:
        """Say so, and how many rows are here already."""
        if not self.session.begin_at(length, time.monotonic()):
            return
        message = Reserved(
            epoch=self.session.epoch,
            terms=self.meter.proposed.encode(),
            offer=self.meter.offer.encode(),
            row_bytes=self.session.row_bytes,
            profile=str(self._profile),
            prefix_length=length,
            journal_from=self.session.journal.start,
        )
        self._tell(message)
        self._trace.reserved(length)

    @property
    def successor(self) -> str:
        """The other node that its rows go to; empty: none."""
        return self._paths.successor

    # --- the client -------------------------------------------------------------------------------

    def hear(self, message: ToHop) -> None:
        """One control message of the client's.

        Raises:
            PeerMisbehaved, IntegrityError: the client broke a rule; the stream should end with it.
        """
        now = time.monotonic()
        match message:
            case Commit():
                self._agree(message)
                if message.next not in (self._around.peer_id, self.client):
                    self._paths.lead_to(message.next, message.next_addresses)
                self.do(self.session.commit(message, now))
                self._tell_leave()
                if self.is_bare:
                    self._around.prefixes.cut(self.rows)
            case Raise(epoch=epoch):
                self.generation += 1
                self.do(self.session.raise_(epoch, now))
            case Pay(voucher=voucher):
                self._pay(voucher, now)
            case Keep(prefixes=names):
                self._keep(names)
            case Close(reason=reason):
                self.generation += 1
                self.do(self.session.close(reason, now))
            case Reserve() | Resume():
                raise PeerMisbehaved(self.client, "that opens a stream, it does not continue one")

    def resume(self, stream: Stream, message: Resume) -> None:
        """The client came back on a new control stream."""
        again = self.readout.again(message.have) if self.readout else ()
        self._stream = stream
        for told in again:
            send_on(stream, told)
        self.do(self.session.control_back(message.have, time.monotonic()))
        self._tell_leave()

    def leave(self, leaving: Leaving | None) -> None:
        """This node goes: tell the client now, or as soon as it has committed. None: it stays."""
        self._leaving = leaving
        self._tell_leave()

    def _tell_leave(self) -> None:
        session = self.session
        if self._leaving is not None and session.reserve.hears_leaving and self.is_serving:
            self._tell(replace(self._leaving, epoch=session.epoch))

    def control_lost(self, stream: Stream) -> None:
        if stream is self._stream:
            self._stream = None
            self.do(self.session.control_lost(time.monotonic()))

    def refuse(self, error: ManyhandsError) -> None:
        """A rule was broken by the client: say so and settle."""
        self.generation += 1
        self.keeps_rows = False
        self.do(self.session.failed(error))

    def _agree(self, commit: Commit) -> None:
        """Check what the client signed before anything is run for it."""
        if self.session.state not in (State.RESERVED, State.RAISED):
            return
        n_taken = (self.session.length if self.is_heir else 0) if self.is_claim else None
        known = self._around, self.constraints, n_taken
        check_commit(commit, self.session.reserve, self.client, *known)
        if self.meter.tab is None:
            require(bool(commit.terms), "the first commit carries the terms")
            self.meter.accept(
                Envelope.decode(commit.terms),
                commit.n,
                cached=commit.length,
                is_handed_over=self.is_heir,
            )
            if commit.length and not self.is_heir:
                self._around.prefixes.used(commit.length)
        self.meter.begin_epoch(commit)
        self._trace.agreed()

    def _keep(self, names: PrefixNames) -> None:
        require(names.end <= self.session.reserve.capacity, "a prefix beyond the reserved room")
        if self.is_serving:
            self._around.prefixes.name(self.rows, names)
            self.keeps_rows = True

    def _pay(self, voucher: bytes, now: float) -> None:
        if self.meter.pay(voucher):
            receipt = self.meter.receipt()
            if receipt is not None:
                self._around.keep(receipt)
            self.do(self.session.paid(now))
            self._around.paid(self.client)
        tab = self.meter.tab
        if tab is not None and tab.voucher is not None and tab.voucher.final:
            self.do(self.session.settled())

    # --- neighbours -------------------------------------------------------------------------------

    def heard_on(self, peer: str, stream: Stream) -> None:
        self._paths.heard_on(peer, stream)

    def frame(self, peer: str, group: RowGroup, row_bytes: int, rows: bytes | memoryview) -> None:
        length = self.session.length
        self.do(self.session.frame(peer, group, row_bytes, rows, time.monotonic()))
        if self.is_bare and self.session.length < length:
            self._around.prefixes.cut(self.rows)

    # --- the batcher ------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return self.session.deadline

    @property
    def is_committed(self) -> bool:
        """Whether its client ever agreed to it."""
        return self.session.commitment is not None

    @property
    def is_serving(self) -> bool:
        """Whether it is committed to, and nobody has closed it."""
        return self.session.state in (State.RUNNING, State.RAISED)

    def is_wanted(self, ticket: int) -> bool:
        return self.session.is_current(ticket)

    @property
    def is_own_ring(self) -> bool:
        return self.session.reserve.is_first and self.session.reserve.is_last

    @property
    def is_held_up(self) -> bool:
        return self._drawing is not None and self._drawing.is_held_up

    @property
    def is_bare(self) -> bool:
        return self.session.reserve.client_ends

    def mends(self, position: int) -> bool:
        agreed = self.session.commitment
        return agreed is not None and agreed.n > agreed.n_prompt and position < agreed.n

    def is_answer(self, position: int) -> bool:
        agreed = self.session.commitment
        return agreed is not None and not self.is_bare and position >= agreed.n

    def draw(self, logits: "Floats", position: int, line: Line | None = None) -> tuple[Drawn, ...]:
        agreed, ids = self.session.commitment, self.session.draws.ids
        assert agreed is not None
        assert self._drawing is not None, "only a last hop draws"
        if line is not None:
            return self._drawing.judge(logits, ids, agreed.n_prompt, position, line)
        drawn = self._drawing.draw(logits[-1], ids, agreed.n_prompt, position)
        return (replace(drawn, pooled=self.readout.vector()) if self.readout else drawn,)

    def ran(self, results: Done) -> None:
        """What the next hop waits for is done now, the rest in `afterwards`."""
        if results.read is not None:
            self._later.append(Tell(results.read))
        self._trace.ran(results, self.session)
        for action in self.session.ran(
            results.ticket, results.rows, results.output, results.drawn, results.run_us
        ):
            if isinstance(action, Push | Run):
                self._act(action)
            else:
                self._later.append(action)

    def afterwards(self) -> None:
        self._trace.sent()
        later, self._later = self._later, []
        self.do(later)
        meter, is_running = self.meter, self.session.state is State.RUNNING
        if meter.may_owe_word and is_running and meter.statement_due():
            self._tell(Account(statement=self.meter.statement()))
        self.meter.use_rest()

    def run_failed(self, error: ManyhandsError) -> None:
        if isinstance(error, BadRows):
            error = self._blamed(error)
        log.warning("a session failed here", extra={"client": self.client, "error": str(error)})
        self.refuse(error)

    def _blamed(self, error: BadRows) -> ManyhandsError:
        """Rows come from the predecessor; the client's own stay the caller's fault."""
        commitment = self.session.commitment
        if commitment is None or commitment.previous == self.client:
            return error
        return PeerMisbehaved(commitment.previous, f"it sent rows that cannot be run: {error}")

    # --- the rules' wishes ------------------------------------------------------------------------

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            self._act(action)
        self.meter.see_out()

    def _act(self, action: Action) -> None:
        match action:
            case Run():
                self._around.batcher.submit(Work(self, action, self.generation))
                self.meter.will_see_in(action.start, action.payload)
            case Push(peer, group, row_bytes, rows):
                self.meter.will_see_out(group.start, rows)
                self._push(peer, group, row_bytes, rows)
            case Return(peer, message):
                if peer != self._around.peer_id:
                    self._paths.answer(peer, message)
            case Tell(message):
                if isinstance(message, Unpaid) and self.meter.has_unstated():
                    self._tell(Account(statement=self.meter.statement()))
                self._tell(message)
            case Settle():
                self._settle()
            case Over(reason):
                self._over(reason)

    def _push(self, peer: str, group: RowGroup, row_bytes: int, rows: bytes) -> None:
        if peer == self._around.peer_id:  # a chain of one hop: the ring ends where it begins
            self.frame(peer, group, row_bytes, rows)
        else:
            self._paths.push(peer, group, row_bytes, rows)

    def _tell(self, message: ToClient) -> None:
        if self._stream is not None:
            send_on(self._stream, to_client_bytes(message))

    def _settle(self) -> None:
        self.generation += 1  # whatever is queued: it ends here
        if self.meter.tab is None:
            self.do(self.session.settled())
            return
        self._tell(Account(statement=self.meter.statement(), final=True))

    def _over(self, reason: str) -> None:
        """Free the room at once; the receipt is filed behind it."""
        self.generation += 1
        if self._beginning is not None:
            self._beginning.cancel()
        self.keeps_rows = self.keeps_rows and reason == "settled"
        if self._thoughts is not None:
            self._thoughts.close()
        self._around.freed(self)
        journal = None if self.is_bare else self.session.journal  # a caller with the ends has rows
        self.meter.shelve(self.client, journal, self._around.shelf)
        log.info("session over", extra={"client": self.client, "reason": reason})
        self._trace.over(reason)
        self.filing.begin(self.meter, self._around.file, self._tell, self.session.epoch)

    def _guessed(self) -> None:
        self.do(self.session.guessed())
        self.flush()

    def flush(self) -> None:
        """What was pushed leaves now."""
        self._around.neighbours.flush()

    def give_up(self) -> None:
        """The node goes down: what is not settled by now is closed with the last voucher."""
        self.do(self.session.abandon())

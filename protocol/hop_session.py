"""One session at one hop: the rules of DESIGN 5a, with no I/O, no clock and no tensors.

In: what the client says, what neighbours send, what the engine finished, and `now` in seconds.
Out: actions for the shell around it: run rows, push rows, tell the client, free everything. The
client's half of the same rules is `chain_session.py`.

What makes it small: **a link is a pointer into the journal**. A hop pushes the rows
`[sent, length)` of its journal to its successor. Ordinary decoding moves `sent` by one; credit
bounds it; a re-opened stream, a gap or a replacement only sets it back. There is no second path
for replay.

`hop_state.py` has the states, and what each event does in each of them. Frames are only taken from
the peer the epoch names as predecessor; a frame of a lower epoch or branch is dropped, a repeated
step is answered with what has been run, and only a higher step of a higher branch may lower `start`
(5a.4): on the same branch a lower `start` is an overlapping refill. `branches.py` has the rest.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from protocol.actions import Action, Ending, Launcher, Over, Return, Run, Settle, Tab, Tell
from protocol.branches import Branches
from protocol.commit_check import check_commit
from protocol.draws import Drawn, Draws
from protocol.early import Early, EarlyRows
from protocol.errors import ManyhandsError
from protocol.frames import Ack, Ask, Gone, RowGroup
from protocol.hop_state import State
from protocol.journal import Journal
from protocol.links import Arrival, InLink, OutLink
from protocol.messages import (
    TOKEN_BYTES,
    Commit,
    Committed,
    Failure,
    LinkDown,
    Progress,
    Raised,
    Reserve,
    Unpaid,
)
from protocol.patience import HANDOVER_S, RESERVE_S, Patience
from protocol.runs import Runs
from protocol.transport.error_codec import encode_error


class HopSession:
    """See the table of `hop_state.py`. Every method returns what the shell has to do, in order.

    Args:
        reserve: the admitted request.
        row_bytes: of one hidden row on the wire.
        tab: what the hop may run, and what it ran.
        ending: builds the last hop's text state from (ids, n_prompt); unused elsewhere.
        drafter: builds who guesses ahead there; None: nobody does.
    """

    def __init__(
        self,
        reserve: Reserve,
        *,
        row_bytes: int,
        tab: Tab,
        ending: Callable[[Sequence[int], int], Ending],
        now: float,
        drafter: Callable[[Commit], Launcher] | None = None,
    ) -> None:
        self.reserve = reserve
        self.id = reserve.session
        self.epoch = reserve.epoch
        self.state = State.RESERVED
        self.row_bytes = row_bytes
        self.tab = tab
        self.dropped: Counter[str] = Counter()
        self.draws = Draws(ending, drafter, reserve.capacity)  # the last hop's
        self.journal = Journal(row_bytes, 0 if reserve.is_last else reserve.capacity)
        self._output = self.draws if reserve.is_last else self.journal  # for the successor
        self.length = 0  # rows run
        self.n = 0
        self.commitment: Commit | None = None
        self.run_us = 0

        self._in = InLink(TOKEN_BYTES if reserve.is_first else row_bytes)
        self._out = OutLink(TOKEN_BYTES if reserve.is_last else row_bytes)
        self._branches = Branches(reserve, self._in, self._out)
        self._runs = Runs()
        self._early = Early()
        wait_s = HANDOVER_S if reserve.handover.peer else RESERVE_S
        self._patience = Patience(reserve.budget_ms / 1000, now, wait_s)

    # --- what the client says ---------------------------------------------------------------------

    def begin_at(self, length: int, now: float) -> bool:
        """The first rows are here already: another session ran them (5a.8), or another hop (5a.19).

        What the journal has of them is in it; its rows are the last ones. False when the client has
        left meanwhile.
        """
        if self.state is not State.RESERVED:
            return False
        if self.journal.is_empty and not self.reserve.is_last:
            self.journal.begin(length)
        assert self.reserve.is_last or self.journal.length == length
        self.length = length
        self._patience.await_commit(now)
        return True

    def commit(self, commit: Commit, now: float) -> list[Action]:
        """Agree on an epoch: cut, take the history, start pushing what the successor lacks.

        Raises:
            PeerMisbehaved: the commit contradicts what this hop reported.
        """
        if self.state not in (State.RESERVED, State.RAISED) or commit.epoch != self.epoch:
            self.dropped["stale commit"] += 1
            return []
        check_commit(commit, self.reserve, length=self.length, journal_from=self.journal.start)
        if self.reserve.is_last:
            self.draws.check(commit)
        self.state, self.commitment = State.RUNNING, commit
        self.n = commit.n
        self._patience.told(now)
        self._cut(commit.length)
        self._in.reset(commit.previous, commit.length)
        self._out.reset(commit.next, commit.n if self.reserve.is_last else commit.next_length)
        self._branches.reset(commit.n)
        actions: list[Action] = [Tell(Committed(epoch=self.epoch))]
        if self.reserve.is_last:
            self.draws.begin_epoch(commit)
        if self.reserve.is_first:
            self._in.accepted = commit.n
            actions += self._launch(commit.length, commit.n - commit.length, commit.ids, now)
        for early in self._early.release():
            actions += self.frame(early.peer, early.group, early.row_bytes, early.body, now)
        if self._early.is_asked:
            actions += self.ask(commit.previous, Ask(self.id, self.epoch))
        self._early.is_asked = False
        return actions + self._pump()

    def raise_(self, epoch: int, now: float) -> list[Action]:
        """A higher epoch stops everything here until its commit comes."""
        if self.state not in (State.RUNNING, State.RAISED) or epoch <= self.epoch:
            self.dropped["stale raise"] += 1
            return []
        self.epoch, self.state = epoch, State.RAISED
        self._runs.clear()
        self._early.clear()
        self._patience.paid()
        return [Tell(self._raised())]

    def close(self, reason: str, now: float) -> list[Action]:
        if self.state is State.RESERVED:
            return self._over(reason)
        if self.state not in (State.RUNNING, State.RAISED):
            return []
        self.state = State.CLOSING
        self._runs.clear()
        self._patience.await_settlement(now)
        return [Settle()]

    def settled(self) -> list[Action]:
        return self._over("settled") if self.state is State.CLOSING else []

    def abandon(self) -> list[Action]:
        """This node goes down now; whatever was promised last is what stands."""
        return [] if self.state is State.OVER else self._over("abandoned")

    @property
    def deadline(self) -> float:
        """The client's, on the clock of `now`."""
        return self._patience.deadline

    @property
    def accepted(self) -> int:
        """Rows taken in: run, queued or unpaid."""
        return self._in.accepted

    def paid(self, now: float) -> list[Action]:
        """A better voucher came: run what waited for it."""
        if self.state is not State.RUNNING:
            return []
        self._patience.paid()
        actions: list[Action] = []
        for run in self._runs.release():
            actions += self._queue(run, now)
        return actions

    def control_lost(self, now: float) -> list[Action]:
        if self.state is State.RESERVED:
            return self._over("client gone")
        self._patience.client_lost(now)
        return []

    def control_back(self, have: int, now: float) -> list[Action]:
        """The client re-opened its control stream and holds `have` ids."""
        self._patience.client_back()
        if self.state is State.RAISED:
            return [Tell(self._raised())]
        return [Tell(event) for event in self.draws.since(have)]

    # --- what neighbours send ---------------------------------------------------------------------

    def frame(
        self, peer: str, group: RowGroup, row_bytes: int, body: bytes | memoryview, now: float
    ) -> list[Action]:
        """Rows from the predecessor; at the first hop, ids from the last one (the ring).

        Raises:
            PeerMisbehaved: it broke a rule.
        """
        if self.state in (State.CLOSING, State.OVER):
            return [Return(peer, Gone(self.id))]
        if self.state is not State.RUNNING:
            return self._hold(EarlyRows(peer, group, row_bytes, body))
        if group.epoch != self.epoch:
            return self._drop("other epoch")
        link = self._in
        arrival = link.arrival(peer, group)
        told: list[Action] = []
        if arrival in (Arrival.NEXT, Arrival.GAP) and group.branch > link.branch:
            is_told = self._branches.begun(peer, group)
            self._cut(group.fork)
            ack = Ack(self.id, self.epoch, self.length, branch=group.branch)
            told = [Return(peer, ack)] if is_told else []
            arrival = link.arrival(peer, group)
        if arrival is Arrival.REPEAT:
            self.dropped["repeated step"] += 1
            return [Return(peer, self._ack(self.length))]
        if arrival is Arrival.GAP:
            self.dropped["gap"] += 1
            rewind = self._ack(link.accepted, rewind=True)
            return [*told, Return(peer, rewind)] if link.must_ask() else told
        if arrival is not Arrival.NEXT:
            return self._drop(arrival.name)
        link.check(peer, group, row_bytes, self.reserve.capacity)
        known = link.take(group)  # a refill may overlap what arrived meanwhile
        rest = body[known * row_bytes :]
        return [*told, *self._launch(group.start + known, group.rows - known, rest, now)]

    def ack(self, peer: str, ack: Ack) -> list[Action]:
        if self.state is not State.RUNNING or peer != self._out.peer or ack.epoch != self.epoch:
            return self._drop("stray ack")
        self._out.acknowledged(ack, self._output.available, first=self.journal.start)
        return self._pump()

    def ask(self, peer: str, ask: Ask) -> list[Action]:
        """The predecessor re-opened its stream: tell it where to go on."""
        if self.state in (State.CLOSING, State.OVER):
            return [Return(peer, Gone(self.id))]
        if self.state is not State.RUNNING:
            self._early.is_asked = ask.epoch == self.epoch
            return []
        if peer != self._in.peer or ask.epoch != self.epoch:
            return self._drop("stray ask")
        return [Return(peer, self._ack(self._in.accepted, rewind=True))]

    def gone(self, peer: str) -> list[Action]:
        return self.link_failed(peer, "the session is over there")

    def link_lost(self, peer: str) -> list[Action]:
        """The stream to the successor broke; the shell tries to open it again."""
        if self.state is State.RUNNING and peer == self._out.peer:
            self._out.paused = True
        return []

    def link_back(self, peer: str) -> list[Action]:
        if self.state is not State.RUNNING or peer != self._out.peer or not self._out.paused:
            return []
        return [Return(peer, Ask(self.id, self.epoch))]

    def link_failed(self, peer: str, reason: str) -> list[Action]:
        if self.state is not State.RUNNING or peer != self._out.peer:
            return []
        self._out.paused = True
        return [Tell(LinkDown(epoch=self.epoch, peer=peer, reason=reason))]

    # --- what the engine finished -----------------------------------------------------------------

    def is_current(self, ticket: int) -> bool:
        """Whether a queued run is still wanted: the engine asks before it starts one, on its own
        thread. Rows of a branch that was given up are dropped unread.
        """
        return self._runs.is_current(ticket)

    def ran(
        self,
        ticket: int,
        rows: int,
        output: bytes | memoryview,
        drawn: Sequence[Drawn] = (),
        run_us: int = 0,
    ) -> list[Action]:
        """The first `rows` rows of the oldest run are done.

        output: their hidden rows; a last hop, whose product is `drawn`, may give none.
        """
        if (done := self._runs.ran(ticket, rows)) is None:
            return self._drop("stale run")
        run, is_whole = done
        if not (run.sample and (is_whole or run.line)):
            drawn = ()
        self.length = run.start + run.rows
        self.run_us = run_us
        output = output[: run.rows * (len(output) // rows)]
        self.tab.count(run.start, run.rows, self.n, run.heads if drawn else 0, output)
        told: list[Action] = []
        if not self.reserve.is_last:
            self.journal.append(output)
        elif drawn:
            told = [Tell(event) for event in self.draws.take(drawn, self.epoch)]
            if self._branches.refused(self.draws):  # what was run of drafts is void now
                self._cut(len(self.draws.ids) - 1)
            self.draws.draft()
        return [*self._pump(), *told, *self._acknowledge()]  # the next step waits for the push

    def guessed(self) -> list[Action]:
        """The drafter thought of something, behind the rows that it kept nobody waiting for."""
        if self.state is not State.RUNNING:
            return []
        self.draws.draft()
        return self._pump()

    def failed(self, error: ManyhandsError) -> list[Action]:
        """This hop cannot go on; the client learns why and routes around it."""
        if self.state in (State.CLOSING, State.OVER):
            return []
        failure = Failure(epoch=self.epoch, error=encode_error(error))
        return [Tell(failure), *self.close(error.code, self.deadline)]

    def tick(self, now: float) -> list[Action]:
        """Time passes: expiries, and progress every PROGRESS_S."""
        if self.state is State.OVER:
            return []
        patience = self._patience
        if self.state in (State.RESERVED, State.CLOSING) and patience.is_expired(now):
            return self._over("expired")
        if patience.is_client_gone(now):
            return self._over("client gone")
        if (fault := patience.fault(now)) is not None:
            return self.failed(fault)
        if self.state is State.RUNNING and patience.must_tell(now):
            patience.told(now)
            self._in.asked_at = -1  # a lost answer to a gap is asked for again
            return [Tell(self.progress())]
        return []

    def progress(self) -> Progress:
        return Progress(
            epoch=self.epoch, rows_in=self._in.accepted, rows_out=self._out.sent, run_us=self.run_us
        )

    # --- inside -----------------------------------------------------------------------------------

    def _raised(self) -> Raised:
        journal_from = min(self.journal.start, self.length)
        return Raised(epoch=self.epoch, length=self.length, journal_from=journal_from)

    def _drop(self, why: str) -> list[Action]:
        self.dropped[why] += 1
        return []

    def _hold(self, rows: EarlyRows) -> list[Action]:
        if rows.group.epoch != self.epoch:
            return self._drop("other epoch")
        return [] if self._early.hold(rows) else self._drop("too early")

    def _launch(
        self, start: int, rows: int, payload: bytes | memoryview, now: float
    ) -> list[Action]:
        if rows == 0:
            return []
        sample = self.reserve.is_last and start + rows >= self.n
        line = self.draws.line if sample else None
        return self._queue(self._runs.make(start, rows, payload, sample=sample, line=line), now)

    def _queue(self, run: Run, now: float) -> list[Action]:
        launched: list[Action] = [*self._runs.queue(run, self.tab, self.n)]
        if self._runs.is_waiting and self._patience.await_voucher(now):
            return [*launched, Tell(Unpaid(epoch=self.epoch))]
        return launched

    def _acknowledge(self) -> list[Action]:
        if self.reserve.is_first or not self._in.owes_credit(self.length):
            return []
        return [Return(self._in.peer, self._ack(self.length))]

    def _ack(self, length: int, *, rewind: bool = False) -> Ack:
        return Ack(self.id, self.epoch, length, rewind, self._in.branch)

    def _pump(self) -> list[Action]:
        """Push what the successor lacks, within its credit."""
        if self.state is not State.RUNNING:
            return []
        output = self._output
        where = self.id, self.epoch, self._in.branch
        pump, at_once = self._out.pump, self.draws.at_once
        return [*pump(*where, output.available, output.rows, at_once=at_once)]

    def _cut(self, length: int) -> None:
        """Forget rows from `length` on: run, queued, waiting and journaled ones."""
        self._runs.cut(length)
        self.journal.cut(length)
        self.length = min(self.length, length)
        self._in.cut(length)
        if not self.reserve.is_last:
            self._out.sent = min(self._out.sent, length)

    def _over(self, reason: str) -> list[Action]:
        self.state = State.OVER
        self._runs.clear()
        self._early.clear()
        return [Over(reason)]

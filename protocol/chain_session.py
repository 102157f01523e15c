"""The client's half of DESIGN 5a: one session over a chain of hops, with no I/O and no clock.

In: what hops say, what the route finder found, and `now` in seconds. Out: actions for the shell:
reserve, raise, commit, deliver a token, find a route, close. The hop's half is `hop_session.py`.

**What the client holds is the history.** Every disturbance, whatever its cause, is answered the
same way: raise the epoch on the survivors, refill the lost blocks, fix the committed length n, cut
everybody to at most n - 1, feed the ids the first hop lacks. Journals fill the rest, so there is
no special case for the first hop, the last one, a loss while opening or a loss during a replay.

    phase      means
    ROUTING    blocks are uncovered: the shell was asked for a route
    AGREEING   reserving on new hops, raising on survivors; all must answer
    RUNNING    committed: tokens arrive
    DONE       finished, cancelled or failed; the shell closes what is open

    event \\ phase     ROUTING            AGREEING                   RUNNING             DONE
    routed            → AGREEING         ignored                    ignored             ignored
    reserved, raised  noted              noted; all: → RUNNING      ignored if old      ignored
    token             deliver, if of the last hop's committed epoch; the final one: DONE ignored
    progress          noted              noted                      noted               ignored
    lost, refused     → ROUTING at the next epoch, without that peer                    ignored
    link down         → the next epoch: first with the same hops, then without the blamed one
    unpaid, paid      -                  -                          stalls do not count until paid
    leaving           noted              noted                      heirs are sought    ignored
    heirs             ignored            ignored                    reserve on them     ignored
    heir reserved     ignored            ignored                    all: → AGREEING     ignored
    heir lost         ignored            ignored                    others are sought   ignored
    no route          → DONE (failed)    -                          -                   ignored
    cancel            → DONE             → DONE                     → DONE              ignored
    tick              silence and stalls: the silent hop, or the one with in > out, is lost
"""

from collections.abc import Callable, Iterable, Sequence

from protocol.actions import Drafter
from protocol.chain_actions import (
    ChainAction,
    Deliver,
    Done,
    FindRoute,
    Release,
    Seat,
    SendCommit,
    SendRaise,
    SendReserve,
    Stretch,
)
from protocol.chain_hops import Hop, Phase
from protocol.errors import ManyhandsError, PeerError, PeerUnreachable
from protocol.lateness import Hearing, blamed, excuse, late, silent
from protocol.messages import Leaving, Progress, Raised, Reserved, Span, TokenEvent
from protocol.succession import Succession, forgiven
from protocol.told_rows import ToldRows

STALL_S = 30.0  # a hop reports but nothing moves


class ChainSession:
    """See the table above. Every method returns what the shell has to do, in order."""

    def __init__(
        self,
        prompt: Sequence[int],
        n_blocks: int,
        *,
        most_drafts: int = 0,
        drafter: Drafter | None = None,
        earns_guesses: Callable[[str], bool] = lambda peer: False,
    ) -> None:
        """most_drafts: that were asked for, behind one token. drafter: see `ToldRows`.

        earns_guesses: whether a peer has a model whose guesses are paid for as far as earned.
        """
        self.most_drafts, self._drafter = most_drafts, drafter
        self._earns_guesses = earns_guesses
        self.ids = list(prompt)
        self.n_prompt = self.n = len(self.ids)
        self.first_block, self.n_blocks = 0, n_blocks
        self.epoch = -1
        self.phase = Phase.ROUTING
        self.hops: list[Hop] = []  # alive, in block order
        self.lost_hops: list[Hop] = []  # served once, lost since: their tabs are still owed
        self.avoid: dict[str, ManyhandsError] = {}  # why each was lost; the latest comes last
        self.cached: int | None = None  # rows that no hop had to run; known at the first commit
        self.failovers = 0
        self.handovers = 0  # hops that left, and whose heirs went on
        self.heals = 0
        self.succession = Succession()
        self._told = ToldRows(self.n, most_drafts, drafter)
        self._top_epoch = -1  # the highest one that anybody was told of
        self._healed_at = -1  # ids held when the epoch was last raised without a loss
        self._healing_epoch: int | None = None  # of that, in which a loss is a failover
        self._agreeing_since = 0.0
        self._moved_at = 0.0
        self._unpaid: set[str] = set()
        self._hearing = Hearing()

    # --- routes -----------------------------------------------------------------------------------

    def begin(self) -> list[ChainAction]:
        return self._next_epoch(0.0)

    def routed(self, epoch: int, seats: Iterable[Seat], now: float) -> list[ChainAction]:
        """The route finder's answer: seats for the missing blocks."""
        if self.phase is not Phase.ROUTING or epoch != self.epoch:
            return []
        new = [Hop(seat, heard_at=now) for seat in seats]
        for hop in new:
            self.avoid.pop(hop.peer, None)  # it may have been lost, and be back
        self.hops = sorted(self.hops + new, key=lambda hop: hop.seat.span)
        self.phase, self._agreeing_since = Phase.AGREEING, now
        actions: list[ChainAction] = [SendReserve(hop.seat, self.epoch) for hop in new]
        return actions + self._agree(now)

    def no_route(self, epoch: int, error: ManyhandsError) -> list[ChainAction]:
        if self.phase is not Phase.ROUTING or epoch != self.epoch:
            return []
        return self._done("", error)

    # --- what hops say ----------------------------------------------------------------------------

    def reserved(self, peer: str, message: Reserved, now: float) -> list[ChainAction]:
        if (heir := self.succession.heir(peer)) is not None:
            are_ready = self.succession.reserved(heir, message)
            return self._succeed(now) if are_ready else []
        hop = self._hop(peer, now)
        if hop is None or message.epoch != self.epoch or hop.committed:
            return []
        hop.length = message.prefix_length  # to the rules a survivor like any other (5a.8)
        hop.journal_from, hop.agreed_epoch = message.journal_from, self.epoch
        hop.reserved_at = now
        return self._agree(now)

    def raised(self, peer: str, message: Raised, now: float) -> list[ChainAction]:
        hop = self._hop(peer, now)
        if hop is None or message.epoch != self.epoch or hop.agreed_epoch == self.epoch:
            return []
        hop.length, hop.journal_from = message.length, message.journal_from
        hop.agreed_epoch = self.epoch
        return self._agree(now)

    def token(self, peer: str, event: TokenEvent, now: float) -> list[ChainAction]:
        hop = self._hop(peer, now)
        if hop is None or self.phase is Phase.DONE or hop.seat.span.stop != self.n_blocks:
            return []
        # A survivor's tokens of the epoch before count until it has answered the raise.
        if event.epoch != hop.epoch or event.position != len(self.ids):
            return []
        begins_round = self._told.heard(event, self.ids)
        self.ids.append(event.token_id)
        self._moved_at = now
        delivered: list[ChainAction] = [Deliver(event, begins_round)]
        return delivered + (self._done(event.finish_reason) if event.finish_reason else [])

    def progress(self, peer: str, message: Progress, now: float) -> list[ChainAction]:
        hop = self._hop(peer, now)
        if hop is None or message.epoch != self.epoch:
            return []
        if (message.rows_in, message.rows_out) != (hop.rows_in, hop.rows_out):
            self._moved_at = now
        hop.rows_in, hop.rows_out, hop.run_us = message.rows_in, message.rows_out, message.run_us
        return []

    def unpaid(self, peer: str, now: float) -> list[ChainAction]:
        """A hop waits for our voucher: our fault, so no stall is counted (5a.9)."""
        self._hop(peer, now)
        self._unpaid.add(peer)
        return []

    def paid(self, peer: str, now: float) -> list[ChainAction]:
        """Our voucher is on its way: from now on a stall counts again."""
        self._unpaid.discard(peer)
        self._moved_at = now
        return []

    def lost(self, peer: str, error: ManyhandsError, now: float) -> list[ChainAction]:
        """A hop died, refused, or broke a rule: go on without it."""
        if self.succession.heir(peer) is not None:
            self.avoid[peer] = error
            return self._seek_heirs(now)
        if self.phase is Phase.DONE or all(hop.peer != peer for hop in self.hops):
            return []
        self.avoid[peer] = error
        return self._next_epoch(now)

    def link_down(self, peer: str, successor: str, epoch: int, now: float) -> list[ChainAction]:
        """`peer` cannot reach its successor. Once, all may try again; then the successor goes."""
        if self.phase is not Phase.RUNNING or epoch != self.epoch:
            return []
        return self._heal_or_lose(successor, "its predecessor cannot reach it", now)

    def cancel(self) -> list[ChainAction]:
        return self._done("cancelled") if self.phase is not Phase.DONE else []

    def fail(self, error: ManyhandsError) -> list[ChainAction]:
        """Something no other route would mend: the deadline, a request no hop can serve."""
        return self._done("", error) if self.phase is not Phase.DONE else []

    def tick(self, now: float) -> list[ChainAction]:
        deaf_s = self._hearing.deaf_s(now)
        excuse(self.hops, deaf_s, now)
        self._moved_at += deaf_s
        self._agreeing_since += deaf_s
        if self.phase is Phase.AGREEING:
            tardy = late(self.hops, self.epoch, self._agreeing_since, now)
            return self._without(tardy, "no answer in time", now)
        if self.phase is not Phase.RUNNING:
            return []
        if gone := silent(self.hops, now):
            return self._without(gone, "it fell silent", now)
        if not self._unpaid and now - self._moved_at >= STALL_S:
            return self._heal_or_lose(blamed(self.hops), "rows went in and none came out", now)
        if self.succession.leaver is None or self.succession.is_late(now):
            return self._seek_heirs(now)
        return []

    # --- hops that go -----------------------------------------------------------------------------

    def leaving(self, peer: str, message: Leaving, now: float) -> list[ChainAction]:
        """A hop goes soon: others take its place while it still serves."""
        hop = self._hop(peer, now)
        if hop is None or hop.leaving is not None:
            return []
        hop.leaving, hop.leaves_at = message, now + message.left_ms / 1000
        return self._seek_heirs(now) if self.succession.leaver is None else []

    def heirs(
        self, epoch: int, seats: Sequence[Seat], now: float, *, hand_over: bool
    ) -> list[ChainAction]:
        """Who takes the leaver's blocks, which may be nobody.

        hand_over: they ask it for what it has run, else they are filled from journals.
        """
        asked = self.succession.found(epoch, seats, now, hand_over=hand_over)
        if self.succession.leaver is not None:
            return asked
        self.avoid = forgiven(self.avoid)
        return self._seek_heirs(now)  # for the next leaver

    def _seek_heirs(self, now: float) -> list[ChainAction]:
        """For a hop that goes, if there is one; those that were sought before are given up."""
        released = self.succession.give_up()
        if self.phase is not Phase.RUNNING:
            return released
        epoch, n_rows = self._top_epoch + 1, self._held()
        sought = self.succession.seek(self.hops, self.avoid, epoch, n_rows, now)
        self._top_epoch += bool(sought)
        return released + sought

    def _succeed(self, now: float) -> list[ChainAction]:
        """All heirs are ready: go on with them, and without the leaver."""
        leaver, heirs = self.succession.leaver, self.succession.heirs
        assert leaver is not None
        self._close_stretch(leaver, self._reached())
        self.lost_hops.append(leaver)
        self.handovers += 1
        others = [hop for hop in self.hops if hop is not leaver]
        self.hops = sorted(others + heirs, key=lambda hop: hop.seat.span)
        self.epoch = self.succession.epoch
        self.succession = Succession()
        self.phase, self._agreeing_since = Phase.AGREEING, now
        raised: list[ChainAction] = [SendRaise(hop.peer, self.epoch) for hop in others]
        return [*raised, Release(leaver.peer), *self._agree(now)]

    # --- what the client owes ---------------------------------------------------------------------

    def stretches(self, hop: Hop) -> list[Stretch]:
        """Everything `hop` has run, as far as the client can derive it now."""
        if not hop.running:
            return hop.stretches
        return [*hop.stretches, *self._told.stretches(hop.base, self._reached())]

    # --- inside -----------------------------------------------------------------------------------

    def _hop(self, peer: str, now: float) -> Hop | None:
        for hop in self.hops:
            if hop.peer == peer:
                hop.heard_at = now
                return hop
        return None

    def _held(self) -> int:
        """The history's length."""
        return len(self.ids)

    def _known(self) -> int:
        """Up to where a row that a hop reports is one of the history."""
        return self._held()

    def _reached(self) -> int:
        """Rows every hop has surely run: an id at position p took rows up to p - 1."""
        return len(self.ids) - 1 if len(self.ids) > self.n else 0

    def _close_stretch(self, hop: Hop, stop: int) -> None:
        if hop.running:
            hop.stretches += self._told.stretches(hop.base, stop)
        hop.running = False

    def _next_epoch(self, now: float, *, heals: bool = False) -> list[ChainAction]:
        """Raise the epoch on the survivors; ask for a route where blocks are missing."""
        actions: list[ChainAction] = []
        is_first = self.phase is Phase.RUNNING or self.epoch == self._healing_epoch
        alive = [hop for hop in self.hops if hop.peer not in self.avoid]
        for hop in self.hops:
            if hop not in alive and hop.committed:
                self._close_stretch(hop, self._reached())
                self.lost_hops.append(hop)
                actions.append(Release(hop.peer))
        actions += [Release(hop.peer) for hop in alive if not hop.committed]
        self.hops = [hop for hop in alive if hop.committed]
        self.failovers += is_first and not heals
        actions += self.succession.give_up()
        self.epoch = self._top_epoch = self._top_epoch + 1
        self._healing_epoch = self.epoch if heals else self._healing_epoch
        actions += [SendRaise(hop.peer, self.epoch) for hop in self.hops]
        missing = self._missing()
        if not missing:
            self.phase, self._agreeing_since = Phase.AGREEING, now
            return actions
        self.phase = Phase.ROUTING
        survivors = tuple(hop.seat for hop in self.hops)
        return [*actions, FindRoute(self.epoch, missing, survivors, dict(self.avoid))]

    def _without(self, hops: Sequence[Hop], reason: str, now: float) -> list[ChainAction]:
        """Go on without these, of whom nothing is heard, if there are any."""
        self.avoid |= {hop.peer: PeerUnreachable(hop.peer, reason) for hop in hops}
        return self._next_epoch(now) if hops else []

    def _missing(self) -> tuple[Span, ...]:
        """The maximal runs of blocks no survivor covers."""
        runs, at = [], self.first_block
        for hop in self.hops:
            if hop.seat.span.start > at:
                runs.append(Span(at, hop.seat.span.start))
            at = hop.seat.span.stop
        if at < self.n_blocks:
            runs.append(Span(at, self.n_blocks))
        return tuple(runs)

    def _agree(self, now: float) -> list[ChainAction]:
        """When every hop has answered: fix n and the lengths, and commit."""
        if self.phase is not Phase.AGREEING:
            return []
        if any(hop.agreed_epoch != self.epoch for hop in self.hops):
            return []
        return self._commit(now)

    def _commit(self, now: float) -> list[ChainAction]:
        n = self._held()
        for hop in self.hops:
            # Rows beyond the history were run for tokens that died with the last hop: nobody
            # can derive them, so they are cut and stay unpaid (5a.11).
            hop.length = min(hop.length, self._known())
            self._close_stretch(hop, max(hop.length, self._reached()))
        self.n, lengths = n, self._lengths(n)
        self._told = ToldRows(
            n,
            self.most_drafts,
            self._drafter,
            is_earned=self._earns_guesses(self.hops[-1].peer),
            is_first=n == self.n_prompt,
        )
        actions = self._commits(n, lengths)
        if self.cached is None:
            self.cached = min(lengths)
        for hop, length in zip(self.hops, lengths, strict=True):
            hop.cached = hop.cached if hop.committed or hop.is_heir else length
            hop.committed = hop.running = True
            hop.epoch = self.epoch
            hop.base, hop.length, hop.heard_at = length, length, now
            hop.rows_in = hop.rows_out = length
        self.phase, self._moved_at = Phase.RUNNING, now
        self._unpaid.clear()
        return actions + self._seek_heirs(now)

    def _commits(self, n: int, lengths: Sequence[int]) -> list[ChainAction]:
        """To every hop its own: the ring, and to its ends what they embed and draw from."""
        actions: list[ChainAction] = []
        for index, (hop, length) in enumerate(zip(self.hops, lengths, strict=True)):
            successor = (index + 1) % len(self.hops)
            is_first, is_last, is_new = index == 0, successor == 0, not hop.committed
            commit = SendCommit(
                peer=hop.peer,
                epoch=self.epoch,
                length=length,
                next_length=0 if is_last else lengths[successor],
                n=n,
                previous=self.hops[index - 1].peer,
                next=self.hops[successor].seat,
                ids=tuple(self.ids[length:]) if is_first else (),
                history=tuple(self.ids) if is_last and is_new else (),
                is_new=is_new,
            )
            actions.append(commit)
        return actions

    def _lengths(self, n: int) -> list[int]:
        """What each hop keeps: below n, and never more than its journal lets it pass on."""
        lengths = [min(hop.length, n - 1) for hop in self.hops]
        for index in range(len(lengths) - 2, -1, -1):
            hop, wanted = self.hops[index], lengths[index + 1]
            if hop.journal_from > wanted:  # that part of the journal is gone: run it again
                lengths[index] = min(lengths[index], wanted)
        return lengths

    def _heal_or_lose(self, peer: str, reason: str, now: float) -> list[ChainAction]:
        if self._healed_at == self._held():
            return self.lost(peer, PeerError(peer, reason), now)
        self._healed_at = self._held()
        self.heals += 1
        return self._next_epoch(now, heals=True)

    def _done(self, finish_reason: str, error: ManyhandsError | None = None) -> list[ChainAction]:
        releases = [Release(hop.peer) for hop in self.hops if not hop.committed]
        # An answer that ended by itself left no row in flight; one that was cut off may have.
        stop = self._reached() if finish_reason in ("stop", "length") else self._held()
        for hop in self.hops:
            self._close_stretch(hop, stop)
        self.hops = [hop for hop in self.hops if hop.committed]
        self.phase = Phase.DONE
        return [*releases, *self.succession.give_up(), Done(finish_reason, error)]

"""The sessions of a node: who is admitted, who is where, and who was here.

In: requests to reserve, the passing of time. Out: hops with room of their own, to which
`arrivals.py` brings their frames, or an honest refusal with its reason. Room is reserved whole at
admission (KV and journal, within one byte budget), so a live session is never evicted; a closed one
leaves a tombstone for 60 s.
"""

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial

from ledger.escrow import Hold
from node import drafting
from node.arrivals import Arrivals
from node.credit import is_idle
from node.engine import Lease
from node.hop import Hop
from node.keeping import goes_on, kept_room, longest_wait_s, may_claim
from node.leftovers import Leftovers
from node.lending import Lending
from node.metering import SessionMeter, Till
from node.prefixes import Prefixes
from node.readout import kept_bytes, readout_of
from node.served import Served
from node.shares import Holding, Shares
from node.surroundings import Surroundings
from node.taking import taking_of
from protocol.constraints import Constraints
from protocol.drawing import Drawing
from protocol.errors import (
    ManyhandsError,
    NotPermitted,
    OutOfMemory,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    UsageError,
)
from protocol.identity import public_key_from_peer_id
from protocol.membership.governance import Judgement
from protocol.messages import Leaving, Reserve, Resume, SessionId
from protocol.patience import HANDOVER_S
from protocol.transport import Stream

log = logging.getLogger(__name__)

TOMBSTONE_S = 60.0
TICK_S = 0.1
GIVING_S = 5.0  # from an heir's last rows on, in which it asks for more or the chain goes on
MAX_SESSIONS = 1024


class Sessions:
    """Admission, look-up and time for all hops of this node."""

    def __init__(self, served: Served, till: Till) -> None:
        self.served, self.till = served, till
        self.around: Surroundings  # set by the node, which it belongs to
        self.prefixes = Prefixes()
        self.gave_at_s = -math.inf  # when an heir was last given rows
        self.draining, self.held, self.paused = False, Judgement(), ""
        self.reserved_bytes = 0
        self.refused = 0
        self.shares = Shares(served.budget_bytes)
        self._hops: dict[SessionId, Hop] = {}
        self.lending = Lending(till.credit, self._hops)
        self._tombstones: dict[SessionId, float] = {}
        self.arrivals = Arrivals(
            self._hops, self._tombstones, lambda: self.around.neighbours.flush()
        )
        self._filing: set[Hop] = set()
        self._leftovers = Leftovers(self.prefixes, served, self.rows_bytes)
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._hops)

    @property
    def free_bytes(self) -> int:
        return self.served.budget_bytes - self.reserved_bytes

    @property
    def room_bytes(self) -> int:
        """What is free, or given up to who comes."""
        return self.free_bytes + sum(cost for _, cost in self._large_heirs())

    @property
    def kept_bytes(self) -> int:
        """Of it: what new sessions do not get."""
        return self._kept_from(0)

    def _kept_from(self, cost: int) -> int:
        """What a new session that needs so much does not get."""
        line_s = 0.0 if self.served.is_whole else self.around.batcher.load.backlog_s
        n_sessions = len(self) - len(self._large_heirs())  # those give way
        return kept_room(self.served.budget_bytes, self.room_bytes, n_sessions, line_s, cost)

    @property
    def open_bytes(self) -> int:
        return max(0, self.room_bytes - self.kept_bytes)

    # --- admission --------------------------------------------------------------------------------

    def cost_bytes(self, reserve: Reserve) -> int:
        """What a session keeps here while it lives: its rows, and what it guesses by."""
        guessing = drafting.kept_bytes(reserve, reserve.capacity, self.served.draft_model)
        return self.rows_bytes(reserve) + guessing

    def rows_bytes(self, reserve: Reserve, capacity: int | None = None) -> int:
        """Of that, what stays when it is over, and what another takes over: lease and journal, by
        default for all it may need."""
        positions, span = capacity or reserve.capacity, reserve.span
        journal = 0 if reserve.is_last else self.served.row_bytes
        lease = self.served.engine.lease_bytes(positions, entry=span.start, exit=span.stop)
        return lease + positions * journal + kept_bytes(reserve, positions)

    def admit(self, reserve: Reserve, client: str, stream: Stream, hold: Hold | None = None) -> Hop:
        """Room for a session, which is paid from `hold` where allotments pay.

        Raises:
            ManyhandsError: the refusal, typed by what would have to change.
        """
        try:
            self._supersede(reserve, client)
            constraints = self.check(reserve, client, turns_away=True)
            self._check_shares(reserve, client)
            drawing, readout = self._drawing(reserve), readout_of(reserve)
            is_claim = self._is_claim(reserve, client)
            is_guest = self.lending.admit(client, is_idle=is_claim or self._is_idle(reserve))
        except ManyhandsError:
            self.refused += 1
            raise
        row_bytes, cost = self.served.row_bytes, self.cost_bytes(reserve)
        taking = taking_of(reserve, client, constraints, self.served, self.around)
        self._make_room(cost)
        found = taking or self.prefixes.find(reserve, client, row_bytes)
        self.prefixes.give_way(cost, self.free_bytes)
        lease = self._open(reserve)
        payer, nonce = public_key_from_peer_id(client), secrets.token_bytes(16)
        asked = nonce, constraints.encode(), hold
        meter = SessionMeter(self.till, reserve, payer, row_bytes, *asked)
        profile = self.served.profile
        places = (row_bytes, profile, found, constraints, drawing, readout)
        hop = Hop(self.around, reserve, client, stream, lease, meter, *places)
        hop.is_claim, hop.is_guest = is_claim, is_guest
        self.reserved_bytes += cost
        self._hops[reserve.session] = hop
        self.shares.admitted(client)
        return hop

    def _drawing(self, reserve: Reserve) -> Drawing | None:
        """How this hop draws, if it is the last. Raises UsageError: what is asked cannot be."""
        return Drawing(reserve, self.around.grammars.tokenizer) if reserve.is_last else None

    def _open(self, reserve: Reserve) -> Lease:
        span, adapter = reserve.span, reserve.extensions.adapter
        open_lease = partial(self.served.engine.open, reserve.capacity, adapter=adapter)
        try:
            return open_lease(entry=span.start, exit=span.stop)
        except OutOfMemory:
            if not self.prefixes.n_kept:
                raise
            self.prefixes.clear()  # what is only kept never costs a live session its room
            return open_lease(entry=span.start, exit=span.stop)

    def _supersede(self, reserve: Reserve, client: str) -> None:
        """A client that gave a hop up may ask again before its word of that arrives, if ever.

        The two come on streams of their own, in any order: the later epoch is what it wants now.
        """
        held = self._hops.get(reserve.session)
        if held is None or held.client != client:
            return
        if held.session.epoch < reserve.epoch:
            held.give_up()

    def check(self, reserve: Reserve, client: str, *, turns_away: bool = False) -> Constraints:
        """What the client asks of the session's hops. Raises ManyhandsError: why not here, now.

        turns_away: whoever finds no room waits for it now.
        """
        if self.draining:
            raise self._away()
        self.served.require(reserve)
        constraints = self.around.vetting.opened(reserve, client)
        if client == self.around.peer_id:
            raise UsageError("a node cannot be its own client: use another home")
        if reserve.session in self._hops:
            raise PeerMisbehaved("", "that session is open here already")
        cost, budget = self.cost_bytes(reserve), self.served.budget_bytes
        if cost > budget:
            raise PeerRefused("", f"the session needs {cost} bytes, the node keeps {budget} in all")
        is_new = not self._is_claim(reserve, client)
        room = self.room_bytes if turns_away else self.free_bytes
        room -= self._kept_from(cost) if is_new else 0
        try:
            most_s = longest_wait_s(reserve, self.served.is_whole, is_new=is_new)
            self.around.batcher.check_wait(most_s)
            if cost > room or len(self._hops) >= MAX_SESSIONS:
                raise self._busy(f"the session needs {cost} bytes of KV room, {room} are free")
        except PeerBusy:
            if turns_away:
                self.shares.turned_away(client, time.monotonic())
            raise
        return constraints

    def _is_claim(self, reserve: Reserve, client: str) -> bool:
        """Whether it gets what a new session would not, by its client's word that it goes on."""
        cost, line_s = self.cost_bytes(reserve), self.around.batcher.load.backlog_s
        fits = cost <= self.room_bytes - self._kept_from(cost)
        waits = line_s < longest_wait_s(reserve, self.served.is_whole, is_new=True)
        if not goes_on(reserve) or (fits and waits):
            return False
        claims = self._holdings(hop for hop in self._hops.values() if hop.is_claim)
        return may_claim(client, cost, self.served.budget_bytes, claims)

    def _is_idle(self, reserve: Reserve) -> bool:
        """Whether there is room here for it that nobody else wants."""
        line_s = self.around.batcher.load.backlog_s
        return is_idle(self.served.budget_bytes, self.room_bytes, self.cost_bytes(reserve), line_s)

    def _away(self) -> PeerError:
        if self.held.refused:
            return NotPermitted("", self.held.refused, hint=self.held.hint)
        if self.paused:
            return self._busy(f"this node is paused: {self.paused}")
        return self._busy("this node is leaving")

    def _check_shares(self, reserve: Reserve, client: str) -> None:
        """Raises PeerBusy: this client holds its share of the room already."""
        held = self._holdings(self._hops.values())
        self.shares.check(client, self.cost_bytes(reserve), held, time.monotonic())

    def _holdings(self, hops: Iterable[Hop]) -> list[Holding]:
        cost = self.cost_bytes
        return [Holding(h.client, cost(h.session.reserve), h.is_committed) for h in hops]

    def _large_heirs(self) -> list[tuple[Hop, int]]:
        """Those that have much of the room and are no sessions yet, with what they have."""
        heirs = [hop for hop in self._hops.values() if hop.is_heir and not hop.is_committed]
        costs = ((hop, self.cost_bytes(hop.session.reserve)) for hop in heirs)
        return [(hop, cost) for hop, cost in costs if self.shares.is_large(cost)]

    def _make_room(self, cost: int) -> None:
        """A large heir has room that nobody needs: it may stay uncommitted for long."""
        for hop, _ in self._large_heirs():
            if cost > self.free_bytes:
                hop.refuse(self._busy("somebody came who needs the room"))

    def _busy(self, reason: str) -> PeerBusy:
        return PeerBusy("", reason, queue_depth=len(self._hops), hint="try again shortly")

    def find(self, session: SessionId) -> Hop | None:
        return self._hops.get(session)

    def resume(self, message: Resume, client: str, stream: Stream) -> Hop:
        """The hop a client comes back to on a new control stream (5a.2)."""
        hop = self._hops.get(message.session)
        if hop is None or hop.client != client:
            raise PeerRefused("", "no such session here")
        hop.resume(stream, message)
        return hop

    def freed(self, hop: Hop) -> None:
        """A session is over: its room is free, its receipt on the way to the log."""
        session = hop.session.id
        if self._hops.pop(session, None) is None:
            return
        cost, now = self.cost_bytes(hop.session.reserve), time.monotonic()
        self.reserved_bytes -= cost
        self.around.batcher.ended(hop)
        self.lending.ended(hop)
        if not hop.is_committed:
            self.shares.wasted(hop.client, cost, now - hop.since_s, now)
        if hop.keeps_rows and not self.draining and not hop.rows.journal.start:
            self._leftovers.keep(hop.rows, self.free_bytes, self.around.batcher)
        else:
            self.prefixes.drop(hop.rows)
        self._tombstones[session] = time.monotonic() + TOMBSTONE_S
        self._filing.add(hop)
        if not self._hops:
            self._emptied.set()

    # --- time -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Expiries, progress reports, tombstones; until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._each(partial(self._tick, now))  # no name here, which would keep one that is over
            self.around.vetting.look_again(list(self._hops.values()), now)
            self.prefixes.expire()
            self.around.shelf.sent.expire()
            self._filing = {hop for hop in self._filing if not hop.filing.done.is_set()}
            for session, until in list(self._tombstones.items()):
                if now >= until:
                    del self._tombstones[session]

    def _tick(self, now: float, hop: Hop) -> None:
        try:
            hop.do(hop.session.tick(now))
        except Exception:  # a mistake of ours in one session: it ends, the node lives on
            log.exception("a session failed in its tick")
            hop.give_up()

    async def drain(self, timeout_s: float, *, up_bytes_per_s: int = 0) -> None:
        """Take nobody new, let the others end or go on elsewhere, as their clients choose; then
        settle what is left, and file every receipt."""
        self.draining = True
        self.ask_to_go(timeout_s, up_bytes_per_s=up_bytes_per_s)
        self._leftovers.clear()
        await self._until_empty(timeout_s)
        await self._until_given(min(timeout_s, HANDOVER_S))
        self._each(lambda hop: hop.refuse(self._away()))
        await self._until_empty(min(2.0, timeout_s))
        self._each(lambda hop: hop.give_up())
        await asyncio.gather(*(hop.filing.ended() for hop in self._filing), return_exceptions=True)

    def ask_to_go(self, left_s: float | None, *, up_bytes_per_s: int = 0) -> None:
        """Have clients go on elsewhere; those that find nobody stay. None: all may stay."""
        for hop in list(self._hops.values()):
            hop.leave(None if left_s is None else self._leaving(hop, left_s, up_bytes_per_s))

    def _leaving(self, hop: Hop, timeout_s: float, up_bytes_per_s: int) -> Leaving:
        return Leaving(
            epoch=hop.session.epoch,
            left_ms=round(timeout_s * 1000),
            row_bytes=self.rows_bytes(hop.session.reserve, 1),
            up_bytes_per_s=up_bytes_per_s,
        )

    async def _until_given(self, most_s: float) -> None:
        """What others are taking over they may have to the end, however slowly they take it."""
        until_s = time.monotonic() + most_s
        while self._hops and time.monotonic() < min(until_s, self.gave_at_s + GIVING_S):
            await self._until_empty(GIVING_S / 10)

    async def _until_empty(self, timeout_s: float) -> None:
        self._emptied.clear()
        if self._hops:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._emptied.wait()

    def _each(self, call: Callable[[Hop], None]) -> None:
        for hop in list(self._hops.values()):
            call(hop)

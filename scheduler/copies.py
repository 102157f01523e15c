"""The copies of one session: each hop's rows, with the peer that would take its place (5a.20).

In: the session's rules, asked now and then; who would be found for a lost hop. Out: requests to
spares to hold rows, and for when a hop is lost: who holds what, and the names under which it is
found. Names are private to the session, under a salt of its own, whatever the caller chose about
prefixes. A copy that fails costs nobody anything but its time.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocol.asking import Handover, PrefixNames
from protocol.chain_actions import Seat
from protocol.chain_hops import Phase
from protocol.chain_session import ChainSession
from protocol.codec import to_hop_bytes
from protocol.errors import ManyhandsError
from protocol.messages import Reserve, Span
from protocol.spare import METHOD, read_held
from scheduler.chain import Connections
from scheduler.finder import RouteFinder
from scheduler.prefixes import CHEATED, name_positions, prefix_digests
from scheduler.proposals import copying, has_begun
from scheduler.settlement import Settlement
from scheduler.spares import Progress, is_worth

log = logging.getLogger(__name__)

CALL_S = 45.0
FORGET_S = 1.0
MOST_STOPS = 4  # ends of copies that get a name, besides strides


class Writes(Protocol):
    """What a seat would be asked for now."""

    def __call__(
        self, seat: Seat, epoch: int, prefixes: PrefixNames, handover: Handover
    ) -> Reserve: ...


@dataclass(slots=True)
class Copy:
    """Of one hop's rows. stops: up to where they were asked for, the latest last."""

    spare: Seat | None = None
    givers: set[str] = field(default_factory=set)
    stops: list[int] = field(default_factory=list)
    n_held: int = 0
    n_failures: int = 0
    asked_s: float = float("-inf")
    task: asyncio.Task[None] | None = None

    @property
    def is_made(self) -> bool:
        return self.task is not None and not self.task.done()

    def progress(self, n_rows: int, now_s: float) -> Progress:
        return Progress(
            n_rows=n_rows,
            n_held=self.n_held,
            since_s=now_s - self.asked_s,
            n_failures=self.n_failures,
        )

    def given_up(self) -> "Copy":
        """What is begun again, elsewhere."""
        return Copy(n_failures=self.n_failures + 1, asked_s=self.asked_s)


class Copies:
    """`look` now and then, on the event loop."""

    def __init__(
        self,
        rules: ChainSession,
        finder: RouteFinder,
        connections: Connections,
        settlement: Settlement,
        writes: Writes,
        *,
        is_on: bool,
    ) -> None:
        self._rules, self._finder, self._connections = rules, finder, connections
        self._settlement, self._writes, self._is_on = settlement, writes, is_on
        self._salt = secrets.token_bytes(32)
        self._copies: dict[Span, Copy] = {}
        self._asked: dict[str, tuple[Seat, int]] = {}  # everybody who may hold something; epoch
        finder.known.copies, finder.n_run = self.held, lambda: len(rules.ids)
        finder.has_begun = lambda: has_begun(rules)

    # --- while the answer runs --------------------------------------------------------------------

    def look(
        self, rest_s: float, start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    ) -> None:
        """Have made what is due. rest_s: how long the answer still goes on."""
        rules, now_s = self._rules, time.monotonic()
        n_rows = len(rules.ids) - 1
        if not self._is_on or rules.phase is not Phase.RUNNING or n_rows < rules.n_prompt:
            return
        chain = {hop.peer for hop in rules.hops}
        for hop in rules.hops:
            copy = self._copies.setdefault(hop.seat.span, Copy())
            if copy.is_made or hop.leaving is not None:
                continue
            is_free = copy.spare is None or copy.spare.peer not in (chain | rules.avoid.keys())
            if not is_free or not self._is_trusted(copy):
                copy = self._copies[hop.seat.span] = Copy()
            if copy.progress(n_rows, now_s).is_due:
                copy.asked_s = now_s
                copy.task = start(self._make(hop.seat, copy, rules.epoch, n_rows, rest_s))

    async def _make(self, giver: Seat, copy: Copy, epoch: int, stop: int, rest_s: float) -> None:
        try:
            await self._ask(giver, copy, epoch, stop, rest_s)
        except ManyhandsError as error:
            log.info("rows were not copied", extra={"peer": giver.peer, "error": str(error)})
            self._failed(giver.span, copy)

    async def _ask(self, giver: Seat, copy: Copy, epoch: int, stop: int, rest_s: float) -> None:
        rules, finder, n_held = self._rules, self._finder, copy.n_held
        if copy.spare is None:
            others = tuple(hop.seat for hop in rules.hops if hop.seat != giver)
            copy.spare = await finder.spare(giver, others, rules.avoid)
        spare = copy.spare
        if spare is None or not is_worth(
            stop - n_held,
            giver.span,
            giver=finder.announced(giver.peer),
            spare=finder.announced(spare.peer),
            rest_s=rest_s,
        ):
            self._failed(giver.span, copy)
            return
        copy.givers.add(giver.peer)
        copy.stops = [*copy.stops, stop][-MOST_STOPS:]
        self._asked[spare.peer] = spare, epoch
        note = copying(self._settlement, spare, epoch, giver, stop)
        reserve = self._writes(spare, epoch, self._names(spare, copy), note)
        connection = await self._connections.to(spare.peer, spare.addresses)
        answer = await connection.call(METHOD, to_hop_bytes(reserve), timeout_s=CALL_S)
        copy.n_held = min(read_held(answer), stop)
        if copy.n_held <= n_held < stop:
            self._failed(giver.span, copy)
        else:
            copy.n_failures = 0

    def _failed(self, span: Span, copy: Copy) -> None:
        if self._copies.get(span) is not copy:
            return
        if copy.n_held:
            copy.n_failures += 1  # the same spare is asked again: it holds something
        else:
            self._copies[span] = copy.given_up()

    # --- when a hop is lost -----------------------------------------------------------------------

    def held(self) -> Mapping[Span, tuple[Seat, int]]:
        """Who holds how many rows of which blocks, or is about to."""
        return {
            span: (copy.spare, copy.n_held or copy.stops[-1])
            for span, copy in self._copies.items()
            if copy.spare is not None and copy.stops and self._is_trusted(copy)
        }

    def _is_trusted(self, copy: Copy) -> bool:
        return not any(isinstance(self._rules.avoid.get(peer), CHEATED) for peer in copy.givers)

    def names(self, seat: Seat) -> PrefixNames | None:
        """Under which `seat` finds the rows it holds; None if it was asked to hold none."""
        spare, _ = self.held().get(seat.span, (None, 0))
        is_spare = spare is not None and spare.peer == seat.peer
        return self._names(seat, self._copies[seat.span]) if is_spare else None

    def _names(self, seat: Seat, copy: Copy) -> PrefixNames:
        positions = name_positions(max(copy.stops), {*copy.stops})
        digests = prefix_digests(self._salt, [seat], self._rules.ids, positions)
        return PrefixNames(positions=positions, digests=digests)

    # --- at the end -------------------------------------------------------------------------------

    async def forget(self) -> None:
        """Ask everybody to drop what they hold; who does not hear it does so in a minute."""
        for copy in self._copies.values():
            if copy.task is not None:
                copy.task.cancel()
        asked = [self._forget(seat, epoch) for seat, epoch in self._asked.values()]
        await asyncio.gather(*asked)

    async def _forget(self, seat: Seat, epoch: int) -> None:
        with contextlib.suppress(ManyhandsError):
            reserve = self._writes(seat, epoch, PrefixNames(), Handover())
            connection = await self._connections.to(seat.peer, seat.addresses, timeout_s=FORGET_S)
            await connection.call(METHOD, to_hop_bytes(reserve), timeout_s=FORGET_S)

"""What a node says before it serves: that it loads these blocks.

In: who it is, where it will listen, and the addresses to join by. Out: a choice of blocks, and a
record that names them and lives while they load, so that whoever chooses meanwhile chooses others.
Without it nodes that start together take the same blocks, since nobody is in the table before it
has loaded. For routes and for moves such a node does not exist.

Several may choose in the same moment, and be the first of their swarm. So a node that arrives
listens already, where it will serve, and answers gossip and nothing else: the first ones hear of
each other there. Each takes a number above all that it sees, as in Lamport's bakery (1974), says
what it chose, waits until the others have heard, and looks again. Lower numbers go first, among
equals lower peer ids; a clock's milliseconds make equals rare. What those will choose who came in
the same moment and go first can be told: they choose by the same rules from the same table.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from manyhands.boundary import Interrupted
from manyhands.party import Party
from manyhands.placing import Placing, Servable
from manyhands.progress import say
from protocol.address import Address
from protocol.announcement_table import MAX_SKEW_MS
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, PeerError
from protocol.identity import PeerId
from protocol.measured import NOT_MEASURED
from protocol.messages import Span

if TYPE_CHECKING:
    from manyhands.portal import Portal
    from node.gossip import Gossip
    from protocol.announcements import Announcement
    from protocol.transport import Connection

JOIN_WAIT_S = 5.0
TELL_S = 2.0
SETTLE_S = 1.5  # what a word takes to reach everybody, as in `node.moving_rules`
PATIENCE_S = 3.0  # with addresses to join by where nobody listens: they may be starting, too
RETRY_S = 0.1, 0.4
MAX_LOOKS = 4
MAX_FORETOLD = 32  # others; weighing a place takes milliseconds
LIFETIME_MS = 30_000  # gossip says it again every ten seconds


class Arrival:
    """One node's, from before it chooses until it serves. All of it on one event loop."""

    def __init__(
        self,
        party: Party,
        join: Sequence[Address],
        *,
        settle_s: float = SETTLE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._party = party
        self._join = [address for address in join if address.peer_id != party.peer_id]
        self._settle_s, self._patience_s = settle_s, patience_s
        self._directory, self._transport = party.directory(), party.transport()
        self._number = 0
        self._said: Announcement | None = None
        self._gossip: Gossip | None = None
        self._gossiping: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator["Arrival"]:
        """Answer gossip there until the context ends, and keep alive what is said.

        Raises:
            ConfigError: nobody can listen there.
        """
        from node.gossip import Gossip
        from protocol.gossip_rules import METHOD
        from protocol.guard import Guard
        from protocol.transport import Service
        from protocol.transport.paths import paths_of

        table, key, guard = self._directory.table, self._party.identity.key, Guard()
        self._gossip = gossip = Gossip(
            table, self._transport, key, self._draft, join=self._join, guard=guard
        )
        calls = {METHOD: gossip.handle, "ping": _ping}
        service = Service(guard=guard, calls=calls, is_starting=True)
        listener = await self._transport.listen(host, port, service)
        try:
            yield self
        finally:
            self._gossip = None
            if self._gossiping is not None:
                self._gossiping.cancel()
                await asyncio.gather(self._gossiping, return_exceptions=True)
            await gossip.aclose()
            await listener.aclose()
            await paths_of(self._transport).aclose()

    async def choose(self, placing: Placing) -> tuple[Servable, Span]:
        """What the swarm misses most, as far as it can be asked, once others have heard of it."""
        async with self._peers() as peers:
            await self._meet(peers)
            chosen, span = placing.first(self._directory.live(), self._others())
            known = {one.peer_id for one in self._others()}
            await self._say(chosen, span, placing.region, peers, moves=True)
            for n_looks in range(MAX_LOOKS if len(span) < chosen.model.manifest.n_blocks else 0):
                await asyncio.sleep(self._settle_s)
                await self._look(peers)
                before = self._before(placing, chosen, known, foretells=n_looks == 0)
                again = placing.again(self._directory.live(), chosen, before)
                if again == span:
                    break
                say(f"another node loads {span}; {again} is missed more")
                span = again
                await self._say(chosen, span, placing.region, peers, moves=True)
        self._keep_alive()
        return chosen, span

    async def tell(self, chosen: Servable, span: Span, region: str) -> None:
        """Say that these blocks will be served, whatever others choose."""
        async with self._peers() as peers:
            await self._look(peers)
            await self._say(chosen, span, region, peers, moves=False)
        self._keep_alive()

    async def withdraw(self) -> None:
        """Take back what was said. Best effort: the record ends by itself."""
        if self._said is None:
            return
        self._said = self._said.tombstone()
        with suppress(ManyhandsError):
            async with self._peers() as peers:
                await self._look(peers)
                await self._spread(self._said, peers)

    # --- whose choice goes before ours ------------------------------------------------------------

    def _others(self) -> "list[Announcement]":
        own = self._party.peer_id
        return [one for one in self._directory.loading() if one.peer_id != own]

    def _before(
        self, placing: Placing, chosen: Servable, known: set[PeerId], *, foretells: bool
    ) -> "list[Announcement]":
        """Those who load, or will, and whose number is lower than ours, or who choose nothing.

        Args:
            known: who had chosen before we did, and is taken at its word.
            foretells: of the others tell what they will choose, now that they hear of each other;
                later their words tell it.
        """
        ours = self._number, self._party.peer_id
        others = sorted(self._others(), key=_turn)
        before = [one for one in others if _turn(one) < ours or not _chooses(one)]
        if not foretells:
            return before
        settled: list[Announcement] = []
        choosing: list[Announcement] = []
        for one in before:
            (choosing if _chooses(one) and one.peer_id not in known else settled).append(one)
        live = self._directory.live()
        for one in choosing[:MAX_FORETOLD]:
            settled.append(placing.foretold(live, one, settled))
        return settled

    # --- saying it --------------------------------------------------------------------------------

    async def _say(
        self,
        chosen: Servable,
        span: Span,
        region: str,
        peers: "dict[PeerId, Connection]",
        *,
        moves: bool,
    ) -> None:
        from protocol.announcements import Announcement

        membership, now_ms = self._party.membership, wall_ms()
        if not self._number:
            seen = [one.measured.since_ms for one in self._others()]
            known = [number for number in seen if number <= now_ms + MAX_SKEW_MS]
            self._number = max(now_ms, 1 + max(known, default=0))
        self._said = Announcement(
            peer_id=self._party.peer_id,
            addresses=(),
            model=chosen.model.name,
            manifest=chosen.digest,
            n_blocks=chosen.model.manifest.n_blocks,
            span=None,
            loading=span,
            profile="",
            decode_us=0,
            prefill_us_per_row=0,
            kv_free_bytes=0,
            max_positions=0,
            region=region,
            membership=membership.credential if membership else b"",
            measured=replace(
                NOT_MEASURED,
                since_ms=self._number,
                capacity_blocks=chosen.capacity_blocks if moves else 0,
            ),
        )
        await self._spread(self._said, peers)

    async def _spread(self, draft: "Announcement", peers: "dict[PeerId, Connection]") -> None:
        """Best effort: who does not hear it may choose the same, and one of us will move."""
        from protocol.announcements import seal_announcement
        from protocol.anti_entropy import Record
        from protocol.gossip_rules import METHOD, tell

        now_ms, party, table = wall_ms(), self._party, self._directory.table
        sequence = max(now_ms, table.last_sequence(party.peer_id) + 1)
        stamped = draft.stamped(sequence, now_ms, LIFETIME_MS)
        record = Record(LIFETIME_MS, seal_announcement(stamped, party.swarm_id, party.identity.key))
        table.merge(record, sender=party.peer_id, now_ms=now_ms)
        calls = (each.call(METHOD, tell(record), timeout_s=TELL_S) for each in peers.values())
        for told in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(told, BaseException) and not isinstance(told, ManyhandsError):
                raise told

    def _draft(self) -> "Announcement":
        assert self._said is not None, "gossip begins once something was said"
        return self._said

    def _keep_alive(self) -> None:
        if self._gossip is not None and self._gossiping is None:
            self._gossiping = asyncio.create_task(self._gossip.run(), name="arriving")

    # --- the others -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _peers(self) -> "AsyncIterator[dict[PeerId, Connection]]":
        """For those that answer."""
        peers: dict[PeerId, Connection] = {}
        try:
            yield peers
        finally:
            for connection in peers.values():
                await connection.aclose()

    async def _meet(self, peers: "dict[PeerId, Connection]") -> None:
        """Until somebody answers, or has called us; alone it is after a while."""
        until_s = time.monotonic() + self._patience_s
        while (error := await self._look(peers)) is not None and not self._others():
            if time.monotonic() >= until_s:
                say(f"warning: choosing a span without knowing the swarm: {error}")
                return
            await asyncio.sleep(random.uniform(*RETRY_S))

    async def _look(self, peers: "dict[PeerId, Connection]") -> PeerError | None:
        """Learn what they know; why nobody answers, if nobody does."""
        from scheduler.directory import fetch_directory

        if not self._join:
            return None
        try:
            await fetch_directory(
                self._transport,
                self._join,
                self._directory,
                timeout_s=JOIN_WAIT_S,
                connections=peers,
            )
        except PeerError as error:
            return error
        return None


class Arriving:
    """An arrival beside code that waits: loading holds up the thread it runs on for minutes."""

    def __init__(self, arrival: Arrival, portal: "Portal") -> None:
        self._arrival, self._portal = arrival, portal

    def choose(self, placing: Placing) -> tuple[Servable, Span]:
        """See `Arrival.choose`."""
        return self._portal.call(self._arrival.choose(placing))

    def tell(self, chosen: Servable, span: Span, region: str) -> None:
        """Nobody need have heard of it yet: nothing depends on that."""
        self._portal.later(self._arrival.tell(chosen, span, region))


@contextmanager
def arriving(party: Party, join: Sequence[Address], listen: tuple[str, int]) -> Iterator[Arriving]:
    """Where a node is to listen, somebody answers already. An error takes back what was said."""
    # Here, and not on the other thread: modules that two threads import at once come in halves.
    import node.gossip  # noqa: F401
    import scheduler.directory  # noqa: F401
    from manyhands.portal import Portal

    portal = Portal()
    try:
        arrival = portal.call(_made(party, join))
        portal.call(portal.enter(arrival.listening(*listen)))
        try:
            yield Arriving(arrival, portal)
        except (ManyhandsError, Interrupted, KeyboardInterrupt):
            portal.call(arrival.withdraw())
            raise
    finally:
        portal.close()


async def _made(party: Party, join: Sequence[Address]) -> Arrival:
    """On the loop that it will belong to."""
    return Arrival(party, join)


def _turn(one: "Announcement") -> tuple[int, PeerId]:
    return one.measured.since_ms, one.peer_id


def _chooses(one: "Announcement") -> bool:
    """Whether it may still give way: who was told what to serve does not."""
    return one.measured.capacity_blocks > 0


async def _ping(peer_id: PeerId, request: bytes) -> bytes:
    return b""

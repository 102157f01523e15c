"""What a node that chooses its blocks says before it serves them: that it loads these.

In: a choice, and the addresses to join by. Out: a record that lives for minutes, so that others who
choose meanwhile choose other blocks. Without it nodes that start together take the same ones, since
nobody is in the table before it has loaded. For routes and for moves such a node does not exist.

Two may choose in the same moment. So each says what it chose, waits until the others have heard,
and looks again: whoever was there at the first look counts, and of those that came since, the one
with the lower peer id, as in Lamport's bakery (1974). Nodes that know no peer of the swarm yet tell
nobody; what they take twice, later moves mend.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from manyhands.boundary import Interrupted
from manyhands.loops import run
from manyhands.party import Party
from manyhands.placing import Placing, Servable
from manyhands.progress import say
from manyhands.signals import interruptible
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, PeerError
from protocol.identity import PeerId
from protocol.messages import Span

if TYPE_CHECKING:
    from protocol.announcements import Announcement
    from protocol.transport import Connection
    from scheduler.directory import Directory

JOIN_WAIT_S = 5.0
TELL_S = 2.0
SETTLE_S = 1.5  # what a word takes to reach everybody, as in `node.moving_rules`
MAX_LOOKS = 4
LIFETIME_MS = 300_000
REPEAT_S = 60.0  # a load that begins later than that after the last word is announced again


class Arrival:
    """One node's, from before it chooses until it serves."""

    def __init__(self, party: Party, join: Sequence[Address], *, settle_s: float = SETTLE_S):
        self._party, self._join, self._settle_s = party, join, settle_s
        self._said: Announcement | None = None
        self._said_at_s = 0.0

    async def choose(self, placing: Placing) -> tuple[Servable, Span]:
        """What the swarm misses most, as far as it can be asked."""
        if not self._join:
            return placing.first(())
        directory = self._party.directory()
        with interruptible():
            async with self._peers(directory) as peers:
                there = directory.loading()
                chosen, span = placing.first(directory.live(), there)
                if not peers:
                    return chosen, span
                known = {one.peer_id for one in there}
                for _ in range(MAX_LOOKS):
                    draft = self._draft(chosen, span, placing.region)
                    await self._tell(draft, directory, peers)
                    await asyncio.sleep(self._settle_s)
                    await self._look(directory, peers)
                    before = [
                        one
                        for one in directory.loading()
                        if one.peer_id in known or one.peer_id < self._party.peer_id
                    ]
                    again = placing.again(directory.live(), chosen, before)
                    if again == span:
                        break
                    say(f"another node loads {span}; {again} is missed more")
                    span = again
        return chosen, span

    def repeat(self) -> None:
        """Say it once more, if that was long ago: weights took a while to come."""
        if self._said is not None and time.monotonic() - self._said_at_s > REPEAT_S:
            run(self._dial_and_tell(self._said))

    @contextmanager
    def withdrawn_on_failure(self) -> Iterator["Arrival"]:
        """What was said is taken back when the context ends with an error."""
        try:
            yield self
        except (ManyhandsError, Interrupted, KeyboardInterrupt):
            if self._said is not None:
                run(self._dial_and_tell(self._said.tombstone()))
            raise

    async def _dial_and_tell(self, draft: "Announcement") -> None:
        """Best effort, too: the record ends by itself."""
        directory = self._party.directory()
        with suppress(ManyhandsError):
            async with self._peers(directory) as peers:
                await self._tell(draft, directory, peers)

    @asynccontextmanager
    async def _peers(self, directory: "Directory") -> "AsyncIterator[dict[PeerId, Connection]]":
        """Those that answered, once the directory has what they know."""
        peers: dict[PeerId, Connection] = {}
        try:
            await self._look(directory, peers)
            yield peers
        finally:
            for connection in peers.values():
                await connection.aclose()

    async def _look(self, directory: "Directory", peers: "dict[PeerId, Connection]") -> None:
        from scheduler.directory import fetch_directory

        transport = self._party.transport()
        try:
            await fetch_directory(
                transport, self._join, directory, timeout_s=JOIN_WAIT_S, connections=peers
            )
        except PeerError as error:
            if self._said is None:
                say(f"warning: choosing a span without knowing the swarm: {error}")

    async def _tell(
        self, draft: "Announcement", directory: "Directory", peers: "dict[PeerId, Connection]"
    ) -> None:
        """Best effort: who does not hear it may choose the same, and one of us will move."""
        from protocol.announcements import seal_announcement
        from protocol.anti_entropy import Record
        from protocol.gossip_rules import METHOD, tell

        now_ms, party = wall_ms(), self._party
        sequence = max(now_ms, directory.table.last_sequence(party.peer_id) + 1)
        stamped = draft.stamped(sequence, now_ms, LIFETIME_MS)
        data = seal_announcement(stamped, party.swarm_id, party.identity.key)
        record = Record(LIFETIME_MS, data)
        directory.table.merge(record, sender=party.peer_id, now_ms=now_ms)
        calls = (each.call(METHOD, tell(record), timeout_s=TELL_S) for each in peers.values())
        for told in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(told, BaseException) and not isinstance(told, ManyhandsError):
                raise told
        self._said, self._said_at_s = draft, time.monotonic()

    def _draft(self, chosen: Servable, span: Span, region: str) -> "Announcement":
        from protocol.announcements import Announcement

        membership = self._party.membership
        return Announcement(
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
        )

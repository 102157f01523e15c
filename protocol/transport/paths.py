"""Ways to peers over one transport: direct, through a relay, through a tunnel; the best that works.

In: a peer and its addresses, those that others doubt last. Out: a connection, which says by what
path it goes. Attempts are staggered (RFC 8305, "happy eyeballs"): the best way begins, the next one
follows a moment later, and who answers first is taken. A better way that was still trying goes on
in the background, so that the next dial knows of it. `upgraded` looks for a better way while one is
in use, and `until_due` says when: by the clock, and as soon as there is a hole. An address with a
tunnel is two ways, a hole and a circuit, each with numbers of its own. The rules are `path_book`'s.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary, WeakSet, ref

from protocol.address import Address
from protocol.errors import ManyhandsError, PeerMisbehaved, PeerUnreachable
from protocol.identity import PeerId
from protocol.path import Path
from protocol.path_book import PathBook, Way
from protocol.transport.interface import Connection, Transport

log = logging.getLogger(__name__)

STAGGER_S = 0.25  # RFC 8305 section 5
PING, PING_S = "ping", 3.0
LOOK_S = 30.0  # between looks for a better way, while one is in use
SOON_S = 2.0  # until the first look, where somebody carries the bytes: a hole is dug meanwhile
HEAR_S = 1.0  # after which we know at the latest that there is one
N_SURE, SURE_S = 2, 1.0  # a way that looks decayed is looked at again, for a queue passes


class Paths:
    """One per transport, see `paths_of`: what one dial found out, the next one knows.

    Holds its transport weakly: in a table by transport, its entry would else never go.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        now_s: Callable[[], float] | None = None,
        ping_s: float = PING_S,
        stagger_s: float = STAGGER_S,
        sure_s: float = SURE_S,
        hear_s: float = HEAR_S,
    ) -> None:
        """`now_s`: of one monotonic clock; the event loop's unless told."""
        self._transport = ref(transport)
        self.book = PathBook()
        self.stagger_s = stagger_s  # until the next way begins, while none has answered
        self._ping_s, self._sure_s, self._hear_s = ping_s, sure_s, hear_s
        self._now_s = now_s or (lambda: asyncio.get_running_loop().time())
        self._ways: WeakKeyDictionary[Connection, Way] = WeakKeyDictionary()
        self._open: WeakSet[Connection] = WeakSet()
        self._late: set[asyncio.Task[Connection]] = set()

    async def dial(
        self, peer_id: PeerId, addresses: Sequence[Address | str], *, timeout_s: float = 5.0
    ) -> Connection:
        """A connection to `peer_id` by the best way that works.

        Raises:
            PeerUnreachable: none does, or none is known.
            ManyhandsError: why the best one does not, where that is another reason.
        """
        ways, refused = self._ways_to(peer_id, addresses)
        ordered = self.book.order(peer_id, ways, self._now_s())
        if not ordered:
            raise refused or PeerUnreachable(peer_id, "no address is known")
        if len(ordered) == 1:
            return await self._try(peer_id, ordered[0], timeout_s)
        return await self._race(peer_id, ordered, timeout_s)

    def way_of(self, connection: Connection) -> Way:
        """By which it goes, and where it was dialled."""
        return self._ways.get(connection) or Way(connection.path)

    async def upgraded(
        self, connection: Connection, addresses: Sequence[Address | str]
    ) -> Connection | None:
        """Another connection to the same peer that is better than `connection`, or that stands
        where it does not any more; None: keep it. What runs on it is not touched."""
        peer_id, current = connection.peer_id, self.way_of(connection)
        ways, _ = self._ways_to(peer_id, addresses)
        if not set(ways) - {current}:
            return None
        await self._measure(connection, current)
        for way in self.book.worth_trying(peer_id, current, ways, self._now_s()):
            try:
                new = await self._try(peer_id, way, self._ping_s)
            except ManyhandsError:
                continue
            await self._measure(new, found := self.way_of(new))
            if self.book.is_better(peer_id, found, current, self._now_s()):
                log.info("a better way", extra={"peer": peer_id, "path": found.path})
                return new
            await new.aclose()
        return None

    async def until_due(
        self, connection: Connection, addresses: Sequence[Address | str], wait_s: float
    ) -> None:
        """Wait for the next look: for so long, or until there is a hole that nobody has tried."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not self._hears_of_a_hole(connection, addresses):  # noqa: ASYNC110 (polls)
                    await asyncio.sleep(self._hear_s)

    def status(self) -> dict[str, int]:
        """Open connections by path."""
        counts: dict[str, int] = {}
        for connection in self._open:
            counts[connection.path] = counts.get(connection.path, 0) + 1
        return counts

    async def aclose(self) -> None:
        """End what still tries."""
        late = tuple(self._late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    # --- inside -----------------------------------------------------------------------------------

    def _ways_to(
        self, peer_id: PeerId, addresses: Sequence[Address | str]
    ) -> tuple[list[Way], ManyhandsError | None]:
        """All that can be read, and why something could not."""
        ways: list[Way] = []
        refused: ManyhandsError | None = None
        for each in addresses:
            try:
                address = Address.parse(each) if isinstance(each, str) else each
            except ManyhandsError as error:  # a form that a later version added
                refused = error
                continue
            if address.peer_id != peer_id:
                refused = PeerMisbehaved(peer_id, f"{address} names another peer")
                continue
            if address.is_tunnel and not any(way.path is Path.PUNCHED for way in ways):
                # A hole is the same wherever the two peers were brought together.
                ways.append(Way(Path.PUNCHED, address, self._hole_to(peer_id)))
            ways.append(Way(address.path, address))
        return ways, refused

    def _hears_of_a_hole(self, connection: Connection, addresses: Sequence[Address | str]) -> bool:
        """Whether there is one that `connection` might be left for, and nobody has tried it."""
        peer_id = connection.peer_id
        if connection.path.rank <= Path.PUNCHED.rank or not self._hole_to(peer_id):
            return False
        ways, _ = self._ways_to(peer_id, addresses)
        return any(way.hole and self.book.is_new(peer_id, way) for way in ways)

    def _hole_to(self, peer_id: PeerId) -> int:
        transport = self._transport()
        return transport.hole_to(peer_id) if transport is not None else 0

    async def _race(self, peer_id: PeerId, ways: Sequence[Way], timeout_s: float) -> Connection:
        """The first to answer, of those that begin one after the other."""
        trying: dict[asyncio.Task[Connection], Way] = {}
        won: Way | None = None
        errors: dict[Way, ManyhandsError] = {}
        waiting = list(ways)
        try:
            while waiting or trying:
                if waiting:
                    way = waiting.pop(0)
                    trying[asyncio.create_task(self._try(peer_id, way, timeout_s))] = way
                done, _ = await asyncio.wait(
                    trying,
                    timeout=self.stagger_s if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in sorted(done, key=lambda task: trying[task].path.rank):
                    way, error = trying[task], task.exception()
                    if error is None:
                        del trying[task]
                        won = way
                        return task.result()
                    if not isinstance(error, ManyhandsError):
                        raise error
                    errors[trying.pop(task)] = error
        finally:
            for task, way in trying.items():
                if won is None or way.path.rank >= won.path.rank:
                    task.cancel()
                self._let_try(task)
        in_order = [errors[way] for way in ways]
        # That somebody answered and said no tells more than that nobody did.
        raise next((e for e in in_order if not isinstance(e, PeerUnreachable)), in_order[0])

    def _let_try(self, task: "asyncio.Task[Connection]") -> None:
        """The race is over: learn whether this way works, unless it is cancelled, and leave it."""
        self._late.add(task)

        def over(task: "asyncio.Task[Connection]") -> None:
            self._late.discard(task)
            if not task.cancelled() and task.exception() is None:
                closing = asyncio.ensure_future(_closed(task.result()))
                self._late.add(closing)
                closing.add_done_callback(self._late.discard)

        task.add_done_callback(over)

    async def _try(self, peer_id: PeerId, way: Way, timeout_s: float) -> Connection:
        try:
            connection = await self._dial(way, timeout_s)
        except ManyhandsError:
            self.book.failed(peer_id, way, self._now_s())
            raise
        gone = replace(way, path=connection.path)  # the transport knows best
        self.book.worked(peer_id, gone)
        self._ways[connection] = gone
        self._open.add(connection)
        return connection

    async def _dial(self, way: Way, timeout_s: float) -> Connection:
        address, transport = way.address, self._transport()
        assert address is not None, "only what was dialled elsewhere has none"
        assert transport is not None, "whoever dials over a transport holds it"
        if address.is_tunnel:
            return await transport.dial(address, timeout_s=timeout_s, path=way.path)
        return await transport.dial(address, timeout_s=timeout_s)

    async def _measure(self, connection: Connection, way: Way) -> None:
        """Its round trip now."""
        peer_id = connection.peer_id
        for is_last in (*[False] * N_SURE, True):
            began_s = self._now_s()
            try:
                await connection.call(PING, b"", timeout_s=self._ping_s)
            except PeerUnreachable:
                self.book.lost(peer_id, way, self._now_s())
                return
            except ManyhandsError:
                pass  # a no is an answer, too
            ended_s = self._now_s()
            self.book.measured(peer_id, way, ended_s - began_s, ended_s)
            if is_last or not self.book.seen(peer_id, way).is_decayed(ended_s):
                return
            await asyncio.sleep(self._sure_s)


_OF: WeakKeyDictionary[Transport, Paths] = WeakKeyDictionary()


def paths_of(transport: Transport) -> Paths:
    """Those of this transport, whoever asks."""
    found = _OF.get(transport)
    if found is None:
        found = _OF[transport] = Paths(transport)
    return found


async def _closed(connection: Connection) -> Connection:
    with contextlib.suppress(ManyhandsError):
        await connection.aclose()
    return connection

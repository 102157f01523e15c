"""Ways to peers over one transport: direct, through a relay, through a tunnel; the best that works.

In: a peer and its addresses. Out: a connection, which says by what path it goes. Attempts are
staggered (RFC 8305, "happy eyeballs"): the best way begins, the next one follows a moment later,
and who answers first is taken. A better way that was still trying goes on in the background, so
that the next dial knows of it. `upgraded` looks for a better way while one is in use. The rules are
`path_book`'s.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

from protocol.address import Address
from protocol.errors import ManyhandsError, PeerMisbehaved, PeerUnreachable
from protocol.identity import PeerId
from protocol.path import Path
from protocol.path_book import PathBook, Way
from protocol.transport.interface import Connection, Stream, Transport

log = logging.getLogger(__name__)

STAGGER_S = 0.25  # RFC 8305 section 5
PING, PING_S = "ping", 3.0
LOOK_S = 30.0  # between looks for a better way, while one is in use


class Tunnel(Protocol):
    """A way to a peer's service that no TCP connection of ours takes."""

    @property
    def address(self) -> Address:
        """Where to dial it, on this machine; whoever answers proves to be that peer."""

    async def aclose(self) -> None: ...


class Tunnels(Protocol):
    """What else leads to peers, where neither they nor a relay can be dialled."""

    def paths_to(self, peer_id: PeerId) -> Sequence[Path]:
        """The kinds of tunnel that may lead there."""

    async def open(self, peer_id: PeerId, path: Path, *, timeout_s: float) -> Tunnel:
        """
        Raises:
            PeerUnreachable: there is no such way.
        """


class Paths:
    """One per transport, see `paths_of`: what one dial found out, the next one knows."""

    def __init__(
        self,
        transport: Transport,
        *,
        tunnels: Tunnels | None = None,
        now_s: Callable[[], float] | None = None,
        ping_s: float = PING_S,
        stagger_s: float = STAGGER_S,
    ) -> None:
        """`now_s`: of one monotonic clock; the event loop's unless told."""
        self.transport, self.tunnels = transport, tunnels
        self.book = PathBook()
        self._ping_s, self._stagger_s = ping_s, stagger_s
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
        """By which it was dialled."""
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
            await self._measure(new, way)
            if self.book.is_better(peer_id, way, current, self._now_s()):
                log.info("a better way", extra={"peer": peer_id, "path": way.path})
                return new
            await new.aclose()
        return None

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
        ways, refused = [], None
        for each in addresses:
            try:
                address = Address.parse(each) if isinstance(each, str) else each
            except ManyhandsError as error:  # a form that a later version added
                refused = error
                continue
            if address.peer_id != peer_id:
                refused = PeerMisbehaved(peer_id, f"{address} names another peer")
                continue
            ways.append(Way(address.path, address))
        tunnels = self.tunnels.paths_to(peer_id) if self.tunnels else ()
        return [*ways, *(Way(path) for path in tunnels)], refused

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
                    timeout=self._stagger_s if waiting else None,
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
            connection = await self._dial(peer_id, way, timeout_s)
        except ManyhandsError:
            self.book.failed(peer_id, way, self._now_s())
            raise
        self.book.worked(peer_id, way)
        self._ways[connection] = way
        self._open.add(connection)
        return connection

    async def _dial(self, peer_id: PeerId, way: Way, timeout_s: float) -> Connection:
        if way.address is not None:
            return await self.transport.dial(way.address, timeout_s=timeout_s)
        assert self.tunnels is not None
        tunnel = await self.tunnels.open(peer_id, way.path, timeout_s=timeout_s)
        try:
            inside = await self.transport.dial(tunnel.address, timeout_s=timeout_s)
        except BaseException:
            await tunnel.aclose()
            raise
        return _Tunnelled(inside, tunnel, way.path)

    async def _measure(self, connection: Connection, way: Way) -> None:
        """Its round trip now; the first one of a connection is its slowest."""
        began_s = self._now_s()
        try:
            await connection.call(PING, b"", timeout_s=self._ping_s)
        except PeerUnreachable:
            self.book.lost(connection.peer_id, way, self._now_s())
            return
        except ManyhandsError:
            pass  # a no is an answer, too
        ended_s = self._now_s()
        self.book.measured(connection.peer_id, way, ended_s - began_s, ended_s)


_OF: WeakKeyDictionary[Transport, Paths] = WeakKeyDictionary()


def paths_of(transport: Transport) -> Paths:
    """Those of this transport, whoever asks."""
    found = _OF.get(transport)
    if found is None:
        found = _OF[transport] = Paths(transport)
    return found


class _Tunnelled:
    """A connection inside a tunnel, which ends with it."""

    def __init__(self, inside: Connection, tunnel: Tunnel, path: Path) -> None:
        self._inside, self._tunnel, self.path = inside, tunnel, path

    @property
    def peer_id(self) -> PeerId:
        return self._inside.peer_id

    @property
    def features(self) -> frozenset[str]:
        return self._inside.features

    async def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        return await self._inside.call(method, request, timeout_s=timeout_s)

    async def open(self, method: str, *, timeout_s: float = 5.0) -> Stream:
        return await self._inside.open(method, timeout_s=timeout_s)

    async def aclose(self) -> None:
        try:
            await self._inside.aclose()
        finally:
            await self._tunnel.aclose()


async def _closed(connection: Connection) -> Connection:
    with contextlib.suppress(ManyhandsError):
        await connection.aclose()
    return connection

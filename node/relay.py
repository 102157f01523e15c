"""A relay: carries the bytes of peers that cannot be dialled, and never reads one of them.

In: peers that reserve over a proven stream, and anybody's connections to a port of its own. Out:
callers and peers spliced together, within the quotas of `relay_book.py`. Of what comes to that port
only a TLS hello is looked at (`protocol.client_hello`), or a token that we gave away ourselves;
until one of the two is whole a connection gets a few seconds, and there are only so many of those.
What the two sides say to each other is between them: TLS from end to end.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from node.relay_book import Quotas, RelayBook
from node.relay_door import HELLO_S, Carriage, Door, place_of
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import PeerMisbehaved, PeerUnreachable
from protocol.identity import Identity
from protocol.rate_limits import Limit, RateLimit
from protocol.relaying import (
    MAX_ADDRESSES,
    TOKEN_BYTES,
    Alert,
    Asked,
    Called,
    Declined,
    Granted,
    Reservation,
    asked_for,
    from_bytes,
    name_of,
    to_bytes,
)
from protocol.transport import Stream
from protocol.transport.reach import reachable_hosts, why_not_listening
from protocol.transport.wire_stream import seen_from

log = logging.getLogger(__name__)

ASK_S = 10.0
MAX_STRANGERS, MAX_STRANGERS_PER_HOST = 256, 16  # connections of which nothing is known yet
PER_HOST = Limit(per_s=20, burst=200)  # connections of one IP address
SWEEP_S = 1.0


class Relay:
    """Made by a node, or alone; carries while `running`."""

    def __init__(
        self,
        identity: Identity,
        swarm_id: bytes,
        quotas: Quotas | None = None,
        *,
        hello_s: float = HELLO_S,
    ) -> None:
        """`hello_s`: what a stranger has to say whom it wants."""
        self.hello_s = hello_s
        self.book = RelayBook(quotas or Quotas())
        self.addresses: tuple[Address, ...] = ()  # of the port for callers
        self._identity, self._swarm_id = identity, swarm_id
        self._streams: dict[str, Stream] = {}  # of those with a reservation, by name
        self._strangers: Counter[str] = Counter()  # by host
        self._arrivals = RateLimit(PER_HOST)
        self._calls: dict[bytes, Door] = {}  # callers that wait, by token
        self._carriages: set[Carriage] = set()

    @asynccontextmanager
    async def running(self, host: str, port: int, announced: str = "") -> AsyncIterator["Relay"]:
        """Listen for callers; `announced` is the host to tell others, if not `host`.

        Raises:
            ConfigError: the port cannot be had.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: Door(self), host, port)
        except OSError as error:
            raise why_not_listening(host, port) from error
        bound = server.sockets[0].getsockname()[1]
        hosts = (announced,) if announced else reachable_hosts(host)
        peer_id = self._identity.peer_id
        self.addresses = tuple(Address(each, bound, peer_id) for each in hosts[:MAX_ADDRESSES])
        sweeping = asyncio.create_task(self._sweep(), name="relay")
        try:
            yield self
        finally:
            server.close()
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            for carriage in tuple(self._carriages):
                carriage.cut()
            for door in tuple(self._calls.values()):
                door.abort()
            await server.wait_closed()
            self.addresses = ()

    def status(self) -> dict[str, object]:
        return {"addresses": [str(each) for each in self.addresses], **self.book.status()}

    # --- peers that reserve -----------------------------------------------------------------------

    async def handle(self, stream: Stream) -> None:
        """A peer's reservation, for as long as its stream stands and is renewed.

        Raises:
            PeerBusy: there is no room for it.
            PeerMisbehaved: it does not say what belongs here.
        """
        peer_id, name = stream.peer_id, name_of(stream.peer_id)
        asked = await _first(stream)
        seen = seen_from(stream)
        self.book.reserve(peer_id, place_of(seen.host) if seen else "")
        before, self._streams[name] = self._streams.get(name), stream
        if before is not None:
            await before.aclose()  # a peer that came back before we saw it go
        try:
            while True:
                until_s = asyncio.get_running_loop().time() + self._grant(stream, asked) / 1000
                asked = await self._until_renewed(stream, until_s)
        except (TimeoutError, PeerUnreachable):
            log.info("a reservation is over", extra={"peer": peer_id})
        finally:
            if self._streams.get(name) is stream:
                del self._streams[name]
                self.book.release(peer_id)

    def _grant(self, stream: Stream, asked: Asked) -> int:
        """Promise; for how many milliseconds."""
        quotas, issued_ms = self.book.quotas, wall_ms()
        lifetime_ms = min(asked.lifetime_ms, quotas.lifetime_ms)
        reservation = Reservation(
            peer_id=stream.peer_id,
            relay=self._identity.peer_id,
            addresses=self.addresses,
            share=quotas.share,
            issued_ms=issued_ms,
            expires_ms=issued_ms + lifetime_ms,
        )
        stream.send(to_bytes(Granted(reservation.sealed(self._swarm_id, self._identity.key))))
        return lifetime_ms

    async def _until_renewed(self, stream: Stream, until_s: float) -> Asked:
        async with asyncio.timeout_at(until_s):
            while True:
                match from_bytes(await stream.receive(), sender=stream.peer_id):
                    case Asked() as asked:
                        return asked
                    case Declined(token):
                        if (door := self._calls.get(token)) and door.peer_id == stream.peer_id:
                            door.refuse(Alert.INTERNAL_ERROR)
                    case None:
                        pass
                    case _:
                        raise PeerMisbehaved(stream.peer_id, "that is the relay's word")

    # --- connections to the port ------------------------------------------------------------------

    def arrived(self, door: Door) -> bool:
        """Whether to wait for what it says."""
        place = place_of(door.host)
        why = ""
        if self._strangers.total() >= MAX_STRANGERS:
            why = "strangers"
        elif self._strangers[place] >= MAX_STRANGERS_PER_HOST:
            why = "strangers of one address"
        elif not self._arrivals.take(place, 1.0, _now_s()):
            why = "connections of one address"
        if why:
            self.book.refused[why] += 1
            return False
        self._strangers[place] += 1
        return True

    def known(self, door: Door) -> None:
        """It has said whom it wants, or is gone."""
        place = place_of(door.host)
        self._strangers[place] -= 1
        if self._strangers[place] <= 0:
            del self._strangers[place]

    def asked(self, door: Door, name: str) -> None:
        """A caller wants the peer of that name."""
        stream = self._streams.get(asked_for(name))
        if stream is None:
            self.book.refused["no reservation"] += 1
            door.refuse(Alert.UNRECOGNIZED_NAME)
            return
        if (alert := self.book.call(stream.peer_id, place_of(door.host), _now_s())) is not None:
            door.refuse(alert)
            return
        door.is_let_in = True
        token = secrets.token_bytes(TOKEN_BYTES)
        door.peer_id, door.token, self._calls[token] = stream.peer_id, token, door
        with contextlib.suppress(PeerUnreachable):  # then nobody connects, and the caller is told
            stream.send(to_bytes(Called(token)))

    def left(self, door: Door) -> None:
        """A caller that was let in is gone."""
        self.book.left(door.peer_id, place_of(door.host))

    def no_more(self, door: Door) -> None:
        """A call is over: it was answered, refused, or the caller went."""
        if self._calls.pop(door.token, None) is not None:
            self.book.called(door.peer_id)

    def came_back(self, back: Door, token: bytes) -> None:
        """Somebody shows a token: the peer that was called."""
        caller = self._calls.get(token)
        if caller is None:
            self.book.refused["no such token"] += 1
            back.abort()
            return
        self.no_more(caller)
        self._carriages.add(Carriage(self.book, caller, back, self._carriages.discard))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = _now_s()
            for carriage in tuple(self._carriages):
                if why := carriage.why_over(now_s):
                    self.book.refused[why] += 1
                    carriage.cut()


async def _first(stream: Stream) -> Asked:
    try:
        async with asyncio.timeout(ASK_S):
            first = from_bytes(await stream.receive(), sender=stream.peer_id)
    except TimeoutError:
        first = None
    if not isinstance(first, Asked):
        raise PeerMisbehaved(stream.peer_id, "a reservation begins with how long it is for")
    return first


def _now_s() -> float:
    return asyncio.get_running_loop().time()

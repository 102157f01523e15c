"""Being reachable through relays: the reservations of a node that nobody can dial.

In: relays to ask, given by name or found among who announces that it relays. Out: one or two of
them that carry for us, and the addresses to announce while they do. Each is a stream that we keep
open; a relay that dies or sends us away is replaced by another, and when it calls, we connect to
its port, show the token, and splice that connection to our own listener: callers get the very TLS
that they would get directly. We connect nowhere but to hosts that we dialled ourselves.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from node.splice import End, join
from protocol.address import Address
from protocol.announcements import Announcement
from protocol.errors import ManyhandsError, PeerMisbehaved, PeerUnreachable
from protocol.identity import PeerId
from protocol.relaying import (
    METHOD,
    Asked,
    Called,
    Declined,
    Granted,
    Reservation,
    from_bytes,
    to_bytes,
)
from protocol.transport import Stream, Transport
from protocol.transport.origins import brought

log = logging.getLogger(__name__)

WANTED = 2  # reservations at a time
DIAL_S, GRANT_S, BACK_S = 5.0, 10.0, 5.0
LIFETIME_MS = 3_600_000
LOOK_S = 1.0  # between looks for relays, while we have too few
SHUN_S, MAX_SHUN_S = 5.0, 300.0  # who failed us is asked again after this, twice as long each time
MAX_BACK = 128  # connections back under way or open, of all relays


@dataclass(slots=True)
class _Shunned:
    until_s: float
    for_s: float


class Reservations:
    """See the module. Nothing is reserved unless `run` runs."""

    def __init__(
        self,
        transport: Transport,
        swarm_id: bytes,
        *,
        given: Sequence[Address] = (),
        others: Callable[[], Sequence[Announcement]] = tuple,
        is_wanted: Callable[[], bool] = lambda: True,
        local: Callable[[], tuple[str, int] | None],
        changed: Callable[[], None],
        rng: random.Random | None = None,
    ) -> None:
        """
        Args:
            given: relays to ask; empty: any of `others` that announces to be one.
            is_wanted: whether to be reachable through relays at all, as of now.
            local: host and port of our own listener.
            changed: called when `addresses` are others than before.
        """
        self._transport, self._swarm_id = transport, swarm_id
        self._given, self._others, self._is_wanted = tuple(given), others, is_wanted
        self._local, self._changed = local, changed
        self._rng = rng or random.Random()
        self._held: dict[PeerId, Reservation] = {}
        self._tasks: dict[PeerId, asyncio.Task[None]] = {}
        self._shunned: dict[PeerId, _Shunned] = {}
        self._back: set[asyncio.Task[None]] = set()
        self._ends: set[End] = set()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where we can be dialled through relays, now."""
        return tuple(a for held in self._held.values() for a in held.relayed())

    def status(self) -> list[dict[str, object]]:
        return [
            {
                "relay": held.relay,
                "addresses": [str(each) for each in held.relayed()],
                "expires_ms": held.expires_ms,
                "bytes_per_s": held.share.bytes_per_s,
            }
            for held in self._held.values()
        ]

    async def run(self) -> None:
        """Until cancelled; then everything that relays carried for us ends."""
        try:
            while True:
                self._tasks = {p: task for p, task in self._tasks.items() if not task.done()}
                if not self._is_wanted():
                    await self._let_go()
                else:
                    for relay, addresses in self._next().items():
                        work = self._keep(relay, addresses)
                        self._tasks[relay] = asyncio.create_task(work, name=f"relay {relay}")
                await asyncio.sleep(LOOK_S * self._rng.uniform(0.8, 1.2))
        finally:
            await self._let_go()
            for task in self._back:
                task.cancel()
            await asyncio.gather(*self._back, return_exceptions=True)
            for end in tuple(self._ends):
                end.abort()

    async def _let_go(self) -> None:
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _next(self) -> dict[PeerId, tuple[Address, ...]]:
        """Relays to ask now, and where, as many as are missing."""
        now_s = time.monotonic()
        known = {
            relay: addresses
            for relay, addresses in self._known().items()
            if relay not in self._tasks
            and (relay not in self._shunned or self._shunned[relay].until_s <= now_s)
        }
        n_missing = WANTED - len(self._tasks)
        drawn = self._rng.sample(sorted(known), min(max(0, n_missing), len(known)))
        return {relay: known[relay] for relay in drawn}

    def _known(self) -> Mapping[PeerId, tuple[Address, ...]]:
        """Everybody who may be asked; a relay is dialled directly, never through another."""
        found: dict[PeerId, tuple[Address, ...]] = {}
        if self._given:
            for address in self._given:
                found[address.peer_id] = (*found.get(address.peer_id, ()), address)
            return found
        for peer in self._others():
            direct = tuple(address for address in peer.addresses if not address.relay)
            if peer.measured.relay_slots and direct:
                found[peer.peer_id] = direct
        return found

    async def _keep(self, relay: PeerId, addresses: Sequence[Address]) -> None:
        """One reservation, for as long as the relay keeps it."""
        reason: ManyhandsError = PeerUnreachable(relay, "no address of it is known")
        before = self._shunned.get(relay) or _Shunned(0.0, SHUN_S / 2)
        self._shunned[relay] = before
        for address in addresses:
            try:
                await self._reserve(address)
            except ManyhandsError as error:
                reason = error
            if relay not in self._shunned:  # it carried for us until now
                before = _Shunned(0.0, SHUN_S / 2)
                break
        for_s = min(MAX_SHUN_S, 2 * before.for_s)
        self._shunned[relay] = _Shunned(time.monotonic() + for_s, for_s)
        log.info("a relay does not carry for us", extra={"relay": relay, "why": str(reason)})

    async def _reserve(self, address: Address) -> None:
        """
        Raises:
            ManyhandsError: why it is over, or never was.
        """
        relay = address.peer_id
        connection = await self._transport.dial(address, timeout_s=DIAL_S)
        try:
            stream = await connection.open(METHOD, timeout_s=DIAL_S)
            try:
                await self._converse(stream, address)
            finally:
                if self._held.pop(relay, None) is not None:
                    self._changed()
                await stream.aclose()
        finally:
            await connection.aclose()

    async def _converse(self, stream: Stream, address: Address) -> None:
        relay, loop = address.peer_id, asyncio.get_running_loop()
        until_s = loop.time()
        while True:
            if loop.time() >= until_s:
                stream.send(to_bytes(Asked(LIFETIME_MS)))
                until_s = loop.time() + GRANT_S
            try:
                async with asyncio.timeout_at(until_s):
                    word = from_bytes(await stream.receive(), sender=relay)
            except TimeoutError:
                if self._held.get(relay) is None:
                    raise PeerUnreachable(relay, "it neither takes us nor refuses") from None
                continue
            match word:
                case Granted(sealed):
                    until_s = loop.time() + self._granted(sealed, relay) / 2
                case Called() as call:
                    self._answer(call, stream, address)
                case None:
                    pass
                case _:
                    raise PeerMisbehaved(relay, "that is our word")

    def _granted(self, sealed: bytes, relay: PeerId) -> float:
        """For how many seconds."""
        own = self._transport.peer_id
        reservation = Reservation.opened(sealed, self._swarm_id, peer_id=own, relay=relay)
        before, self._held[relay] = self._held.get(relay), reservation
        self._shunned.pop(relay, None)
        if before is None or before.addresses != reservation.addresses:
            log.info("reachable through a relay", extra={"relay": relay})
            self._changed()
        return reservation.lifetime_ms / 1000

    # --- calls ------------------------------------------------------------------------------------

    def _answer(self, call: Called, stream: Stream, address: Address) -> None:
        if len(self._back) + len(self._ends) >= MAX_BACK:
            self._decline(call, stream)
            return
        task = asyncio.create_task(self._connect(call, stream, address))
        self._back.add(task)
        task.add_done_callback(self._back.discard)

    async def _connect(self, call: Called, stream: Stream, address: Address) -> None:
        """Connect to the relay's port and to our own listener, and make them one."""
        held, local = self._held.get(address.peer_id), self._local()
        if held is None or local is None:
            self._decline(call, stream)
            return
        loop, here, there = asyncio.get_running_loop(), End(), End()
        try:
            async with asyncio.timeout(BACK_S):
                await loop.create_connection(lambda: here, *local)
                here.hold()
                await loop.create_connection(lambda: there, address.host, held.addresses[0].port)
        except (OSError, TimeoutError) as error:
            log.info("could not connect back", extra={"relay": held.relay, "why": str(error)})
            here.abort()
            there.abort()
            self._decline(call, stream)
            return
        except BaseException:
            here.abort()
            there.abort()
            raise
        assert there.transport is not None
        there.transport.write(call.preamble)
        self._ends.add(there)
        over = brought(f"relay {held.relay}", here.local)

        def ended() -> None:
            over()
            self._ends.discard(there)

        join(here, there, ended=ended)

    def _decline(self, call: Called, stream: Stream) -> None:
        with contextlib.suppress(ManyhandsError):
            stream.send(to_bytes(Declined(call.token)))

"""What a node has to do with relays: being one, and being reachable through some.

In: settings, who else is there, the tunnels of libp2p where that runs. Out: the stream `relay`,
addresses that begin at relays, to announce; how many more peers it would carry, and what it carried
for whom, kept in a file across starts.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from node.relay import Relay
from node.reserving import Reservations
from node.serving import Standing
from node.settings import NodeSettings
from node.whereabouts import Whereabouts
from protocol.address import Address
from protocol.announcements import Announcement
from protocol.relaying import METHOD
from protocol.transport import StreamHandler
from protocol.transport.control_plane import Tunnelling
from protocol.transport.paths import paths_of

log = logging.getLogger(__name__)

KEEP_S = 60.0
LOOK_S = 1.0  # whether libp2p has found other relays
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class Carrying:
    """Made by a node; does its work while `running`."""

    def __init__(
        self,
        standing: Standing,
        others: Callable[[], Sequence[Announcement]],
        changed: Callable[[], None],
        whereabouts: Whereabouts,
        tunnelling: Tunnelling | None = None,
    ) -> None:
        """
        Args:
            others: who serves now, but this node.
            changed: called when there are other addresses to announce.
            tunnelling: of libp2p, where it runs.
            whereabouts: whether peers found that nobody can dial this node.
        """
        self._paths = paths_of(standing.transport)
        settings, identity, swarm_id = standing.settings, standing.identity, standing.swarm_id
        self._settings, self._whereabouts = settings, whereabouts
        self._tunnelling, self._changed = tunnelling, changed
        self._peer_id = identity.peer_id
        self._port = 0  # of our own listener
        self.relay = Relay(identity, swarm_id, settings.relay_quotas) if settings.relay else None
        self.reservations = Reservations(
            standing.transport,
            swarm_id,
            given=settings.via,
            others=others,
            is_wanted=lambda: bool(settings.via) or self._wants_relays(),
            local=self._local,
            changed=changed,
        )

    @property
    def streams(self) -> Mapping[str, StreamHandler]:
        return {METHOD: self.relay.handle} if self.relay else {}

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Best first."""
        return (*self.reservations.addresses, *self._tunnels())

    def _tunnels(self) -> Iterator[Address]:
        """In which those end up who run libp2p too."""
        for relay in self._tunnelling.relays if self._tunnelling else ():
            yield Address(relay.host, relay.port, self._peer_id, relay.peer_id, is_tunnel=True)

    @property
    def n_slots(self) -> int:
        """How many more peers it would carry; a relay that nobody can dial is none."""
        return self.relay.book.n_free if self.relay and not self._is_hidden() else 0

    def status(self) -> dict[str, object]:
        return {
            "relay": self.relay.status() if self.relay else None,
            "via": self.reservations.status(),
            "connections": self._paths.status(),
            "tunnels": self._tunnelling.status() if self._tunnelling else None,
        }

    @asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[None]:
        """`port`: our own listener's."""
        self._port = port
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._paths.aclose)
            if self.relay is not None:
                await stack.enter_async_context(carrying_on(self.relay, self._settings))
            reserving = asyncio.create_task(self.reservations.run(), name="reservations")
            stack.push_async_callback(_ended, reserving)
            if self._tunnelling is not None:
                tunnelling = asyncio.create_task(self._be_tunnelled(port), name="tunnels")
                stack.push_async_callback(_ended, tunnelling)
            yield

    async def _be_tunnelled(self, port: int) -> None:
        """Tunnels of others end here from when libp2p runs; where they begin is announced."""
        assert self._tunnelling is not None
        told: tuple[Address, ...] = ()
        while True:
            self._tunnelling.serve(port, wants_places=self._wants_relays)
            relays = self._tunnelling.relays
            if relays != told:
                told = relays
                self._changed()
            await asyncio.sleep(LOOK_S)

    def _wants_relays(self) -> bool:
        where = self._whereabouts
        return self._settings.via_auto or where.may_be_hidden or where.is_likely_hidden

    def _is_hidden(self) -> bool:
        return self._whereabouts.may_be_hidden

    def _local(self) -> tuple[str, int] | None:
        host = self._settings.host
        return (_ANY.get(host, host), self._port) if self._port else None


@asynccontextmanager
async def carrying_on(relay: Relay, settings: NodeSettings) -> AsyncIterator[None]:
    """The relay runs, and its sums are kept.

    Raises:
        ConfigError: its port cannot be had.
    """
    assert settings.relay is not None
    announced = settings.announce[0] if settings.announce else ""
    path = settings.relay_file
    if path is not None:
        _restore(relay, path)
    async with relay.running(*settings.relay, announced):
        keeping = asyncio.create_task(_keep_on(relay, path), name="relay sums") if path else None
        try:
            yield
        finally:
            if keeping is not None and path is not None:
                await _ended(keeping)
                _keep(json.dumps(relay.book.kept()), path)


def _restore(relay: Relay, path: Path) -> None:
    try:
        relay.book.restore(json.loads(path.read_text()))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("sums of the relay are lost", extra={"file": str(path), "why": str(error)})


async def _keep_on(relay: Relay, path: Path) -> None:
    while True:
        await asyncio.sleep(KEEP_S)
        await asyncio.to_thread(_keep, json.dumps(relay.book.kept()), path)


def _keep(sums: str, path: Path) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(sums)
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        log.warning("sums of the relay are not kept", extra={"why": str(error)})


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

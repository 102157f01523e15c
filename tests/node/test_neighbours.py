"""Data streams break and come back: what a new session sends meanwhile arrives, and soon."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from node.neighbours import REST_S, Neighbours
from protocol.address import Address
from protocol.codec import data_message
from protocol.frames import Ack, Frame, Gone, RowGroup
from protocol.messages import SessionId
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Listener, Service, Stream
from protocol.transport.memory import Faults, MemoryNetwork, MemoryTransport
from tests.announcing import peer_of
from tests.gossiping import identity_of, until
from tests.virtual_time import run_in_virtual_time

US, SUCCESSOR, OTHER = 1, 2, 3
PEER = peer_of(SUCCESSOR)
OLD, NEW = SessionId(b"o" * 16), SessionId(b"n" * 16)
ROW_BYTES = 4


class Told:
    """What the node's sessions hear of their links."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.is_needed = True

    def leads_to(self, peer: str) -> bool:
        return self.is_needed

    def returned(self, peer: str, message: Ack | Gone) -> None:
        self.words.append("returned")

    def link_lost(self, peer: str) -> None:
        self.words.append("lost")

    def link_back(self, peer: str) -> None:
        self.words.append("back")

    def link_failed(self, peer: str, reason: str) -> None:
        self.words.append("failed")


class Link:
    """A node's link to one successor, with the switch that cuts it."""

    def __init__(self, network: MemoryNetwork, address: Address, received: list[Frame]) -> None:
        self.received, self.told, self.n_dials = received, Told(), 0
        self._network, self._addresses = network, [str(address)]
        self.neighbours = Neighbours(self._counting(network), self.told)

    def _counting(self, network: MemoryNetwork) -> MemoryTransport:
        link = self

        class Counting(MemoryTransport):
            async def dial(self, address, *, timeout_s=5.0):
                link.n_dials += 1
                return await super().dial(address, timeout_s=timeout_s)

        plain = network.transport(identity_of(US), OPEN_SWARM_ID)
        return Counting(network, plain.peer_id, plain.greeting)

    def begin(self, session: SessionId) -> None:
        """A session is committed here, and has rows to send at once."""
        self.neighbours.expect(PEER, self._addresses)
        self.neighbours.push(PEER, RowGroup(session, 0, 0, 0, 0, 1), ROW_BYTES, b"row.")
        self.neighbours.flush()

    def cut(self) -> None:
        self._network.set_faults(Faults(breakage=1.0))
        self._network.break_streams(peer_of(US), PEER)

    def mend(self) -> None:
        self._network.set_faults(Faults())

    def arrived(self) -> list[SessionId]:
        return [group.session for frame in self.received for group in frame.groups]


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """A link whose stream is up, and has carried the rows of one session."""
    network, received = MemoryNetwork(), list[Frame]()
    listener = await _listening(network, received)
    link = Link(network, listener.addresses[0], received)
    try:
        link.begin(OLD)
        await until(lambda: link.arrived() == [OLD], timeout_s=30)
        yield link
    finally:
        await link.neighbours.aclose()
        await listener.aclose()


async def test_rows_that_a_new_session_sends_while_the_stream_is_down_arrive(link):
    link.cut()
    await until(lambda: link.told.words == ["lost"], timeout_s=30)

    link.begin(NEW)
    link.mend()

    await until(lambda: link.arrived() == [OLD, NEW], timeout_s=30)
    assert link.told.words == ["lost", "back"], "whose stream broke asks where to go on"


async def test_a_new_session_does_not_wait_for_the_next_attempt(link):
    link.cut()
    await until(lambda: link.n_dials == 5, timeout_s=30)  # the next one is due in a second
    link.mend()

    link.begin(NEW)

    assert await until(lambda: link.arrived() == [OLD, NEW], timeout_s=30) < 0.5


async def test_a_peer_that_takes_connections_and_refuses_the_stream_is_dialled_ever_more_rarely():
    network = MemoryNetwork()
    successor = network.transport(identity_of(SUCCESSOR), OPEN_SWARM_ID)
    listener = await successor.listen("127.0.0.1", 0, Service(calls={}, streams={}))
    link = Link(network, listener.addresses[0], [])
    try:
        link.begin(OLD)
        await until(lambda: link.n_dials == 3, timeout_s=30)
        await asyncio.sleep(0.3)  # the next one is due half a second after the third

        assert link.n_dials == 3
        assert link.told.words == ["failed", "failed"], "and the sessions know"
    finally:
        await link.neighbours.aclose()
        await listener.aclose()


async def test_a_stream_that_is_lost_as_soon_as_it_is_up_is_not_dialled_in_a_tight_loop():
    async def hang_up(stream: Stream) -> None:
        return

    network = MemoryNetwork()
    successor = network.transport(identity_of(SUCCESSOR), OPEN_SWARM_ID)
    service = Service(calls={}, streams={"data": hang_up})
    listener = await successor.listen("127.0.0.1", 0, service)
    link = Link(network, listener.addresses[0], [])
    try:
        link.begin(OLD)
        await until(lambda: link.n_dials == 3, timeout_s=30)
        await asyncio.sleep(0.3)

        assert link.n_dials == 3
    finally:
        await link.neighbours.aclose()
        await listener.aclose()


def test_nothing_is_kept_of_a_peer_that_is_gone_for_good():
    async def life(_: asyncio.AbstractEventLoop) -> None:
        network = MemoryNetwork()
        link = Link(network, Address("127.0.0.1", 1, PEER), [])  # where nobody listens
        link.begin(OLD)
        gone = link.neighbours._links[PEER]
        await until(lambda: gone.is_over, timeout_s=60.0)

        link.neighbours.send(PEER, Gone(NEW))
        assert gone._early == [], "no session waits for what it cannot reach"
        link.neighbours.expect(peer_of(OTHER), [])
        assert list(link.neighbours._links) == [peer_of(OTHER)]
        await link.neighbours.aclose()

    run_in_virtual_time(life)


async def _listening(network: MemoryNetwork, received: list[Frame]) -> Listener:
    async def data(stream: Stream) -> None:
        while True:
            message = data_message(await stream.receive())
            assert isinstance(message, Frame)
            received.append(message)

    successor = network.transport(identity_of(SUCCESSOR), OPEN_SWARM_ID)
    return await successor.listen("127.0.0.1", 0, Service(calls={}, streams={"data": data}))


def test_a_stream_that_no_session_needs_is_closed_after_a_while_and_opened_for_the_next_one():
    async def life(_: asyncio.AbstractEventLoop) -> None:
        network, received = MemoryNetwork(), list[Frame]()
        listener = await _listening(network, received)
        link = Link(network, listener.addresses[0], received)
        link.begin(OLD)
        used = link.neighbours._links[PEER]
        await asyncio.sleep(3 * REST_S)
        assert link.neighbours.paths(), "a session that says nothing for long needs it still"

        link.told.is_needed = False
        await asyncio.sleep(REST_S / 2)
        assert link.neighbours.paths(), "one may come"
        await asyncio.sleep(REST_S)
        assert used.is_over
        assert not link.neighbours.paths()
        assert not link.told.words, "which is nobody's loss"

        link.begin(NEW)
        await until(lambda: link.arrived() == [OLD, NEW], timeout_s=30)
        await link.neighbours.aclose()
        await listener.aclose()

    run_in_virtual_time(life)

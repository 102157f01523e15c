"""The transport in one process: as the real one when all is well, and broken on demand."""

import asyncio

import pytest

from protocol.address import Address
from protocol.errors import (
    ConfigError,
    ManyhandsError,
    PeerBusy,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    VersionMismatch,
)
from protocol.identity import Identity, PeerId
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport import MAX_MESSAGE_BYTES, Service, Stream
from protocol.transport.memory import (
    Faults,
    MemoryConnection,
    MemoryNetwork,
    MemoryTransport,
)
from tests.protocol.transport.peers import echo, who_am_i

ALICE, BOB = (Identity(SigningKey.from_seed(bytes([number]) * 32)) for number in (1, 2))


def join(network: MemoryNetwork, identity: Identity, **options: int) -> MemoryTransport:
    return network.transport(identity, OPEN_SWARM_ID, **options)


async def connect(network: MemoryNetwork, service: Service) -> MemoryConnection:
    """Alice, connected to Bob, who listens."""
    listener = await join(network, BOB).listen("127.0.0.1", 0, service)
    return await join(network, ALICE).dial(listener.addresses[0])


async def received_under(faults: Faults, *, seed: int) -> list[int]:
    """What arrives at Bob of the numbers that Alice sends, until the stream is over."""
    received: list[int] = []
    ended = asyncio.Event()

    async def collect(stream: Stream) -> None:
        try:
            while True:
                received.append(int(await stream.receive()))
        finally:
            ended.set()

    network = MemoryNetwork(seed)
    connection = await connect(network, Service(streams={"Test": collect}))
    stream = await connection.open("Test")
    network.set_faults(faults)
    try:
        for number in range(200):
            stream.send(b"%d" % number)
    except PeerUnreachable:
        pass
    await stream.aclose()
    await asyncio.wait_for(ended.wait(), timeout=5)
    return received


async def test_calls_and_streams_know_the_caller():
    connection = await connect(
        MemoryNetwork(), Service(calls={"Who": who_am_i}, streams={"Echo": echo})
    )
    stream = await connection.open("Echo")
    for number in range(100):
        stream.send(b"%d" % number)

    assert await connection.call("Who", b"!", timeout_s=1) == ALICE.peer_id.encode() + b"!"
    assert [await stream.receive() for _ in range(100)] == [b"%d" % n for n in range(100)]
    assert stream.peer_id == BOB.peer_id
    await connection.aclose()


async def test_errors_and_ends_are_those_of_real_sockets():
    async def refuse_call(caller: PeerId, request: bytes) -> bytes:
        raise PeerBusy("", "no room", queue_depth=2)

    async def refuse_stream(stream: Stream) -> None:
        stream.send(await stream.receive())
        raise PeerRefused("", "enough")

    service = Service(calls={"Call": refuse_call}, streams={"Stream": refuse_stream})
    connection = await connect(MemoryNetwork(), service)
    stream = await connection.open("Stream")
    stream.send(b"one")

    assert await stream.receive() == b"one"
    with pytest.raises(PeerRefused, match="enough") as from_stream:
        await stream.receive()
    with pytest.raises(PeerBusy, match="no room") as from_call:
        await connection.call("Call", b"", timeout_s=1)
    with pytest.raises(PeerUnreachable):
        stream.send(b"two")
    with pytest.raises(PeerRefused, match="does not offer"):
        await connection.open("Nothing")
    assert from_stream.value.peer_id == from_call.value.peer_id == BOB.peer_id
    assert from_call.value.queue_depth == 2


async def test_ports_identities_and_versions_are_checked():
    network = MemoryNetwork()
    listener = await join(network, BOB).listen("0.0.0.0", 7, Service())
    address = listener.addresses[0]
    alice = join(network, ALICE)

    assert address.host == "127.0.0.1"
    with pytest.raises(ConfigError, match="in use"):
        await alice.listen("127.0.0.1", 7, Service())
    with pytest.raises(PeerMisbehaved, match=BOB.peer_id):
        await alice.dial(Address(address.host, address.port, ALICE.peer_id))
    with pytest.raises(PeerUnreachable):
        await alice.dial(Address(address.host, 8, BOB.peer_id))
    with pytest.raises(VersionMismatch, match="listener is older"):
        await join(network, ALICE, version=2).dial(address)
    await listener.aclose()
    with pytest.raises(PeerUnreachable):
        await alice.dial(address)


async def test_without_faults_everything_arrives_once_and_in_order():
    assert await received_under(Faults(), seed=1) == list(range(200))


async def test_delays_keep_the_order():
    assert await received_under(Faults(delay_s=(0.0, 0.02)), seed=1) == list(range(200))


@pytest.mark.parametrize("seed", range(3))
async def test_faults_repeat_with_the_seed_and_differ_without(seed):
    faults = Faults(loss=0.1, duplication=0.1, breakage=0.01, delay_s=(0.0, 0.001))

    first, again, other = [await received_under(faults, seed=s) for s in (seed, seed, seed + 1)]

    assert first == again != other
    assert first == sorted(first)
    assert len(set(first)) < max(first) + 1, "some are lost"
    assert len(set(first)) < len(first), "some come twice"


async def test_a_killed_peer_is_gone_at_once_for_everybody():
    network, cancelled = MemoryNetwork(), asyncio.Event()

    async def hang(stream: Stream) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def hang_call(caller: PeerId, request: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    connection = await connect(network, Service(calls={"Hang": hang_call}, streams={"Hang": hang}))
    stream = await connection.open("Hang")
    waiting = [
        asyncio.create_task(stream.receive()),
        asyncio.create_task(connection.call("Hang", b"", timeout_s=60)),
    ]
    await asyncio.sleep(0.01)

    network.kill(BOB.peer_id)

    for task in waiting:
        with pytest.raises(PeerUnreachable):
            await asyncio.wait_for(task, timeout=0.1)
    with pytest.raises(PeerUnreachable):
        stream.send(b"anyone?")
    with pytest.raises(PeerUnreachable):
        await connection.open("Hang")
    assert cancelled.is_set()


async def test_a_killed_caller_ends_its_streams_at_the_listener():
    network, ended = MemoryNetwork(), asyncio.get_running_loop().create_future()

    async def wait(stream: Stream) -> None:
        try:
            await stream.receive()
        except ManyhandsError as error:
            ended.set_result(error)

    connection = await connect(network, Service(streams={"Test": wait}))
    await connection.open("Test")
    await asyncio.sleep(0)

    network.kill(ALICE.peer_id)

    assert isinstance(await asyncio.wait_for(ended, timeout=0.1), PeerUnreachable)
    with pytest.raises(PeerUnreachable):
        await connection.call("Test", b"", timeout_s=1)


async def test_a_broken_connection_can_be_dialled_again():
    network = MemoryNetwork()
    connection = await connect(network, Service(streams={"Echo": echo}))
    stream = await connection.open("Echo")

    network.break_streams(ALICE.peer_id, BOB.peer_id)

    with pytest.raises(PeerUnreachable, match="lost"):
        await stream.receive()
    stream = await connection.open("Echo")
    stream.send(b"again")
    assert await stream.receive() == b"again"


async def test_a_partition_is_silence_until_it_heals():
    network = MemoryNetwork()
    connection = await connect(network, Service(calls={"Who": who_am_i}, streams={"Echo": echo}))
    stream = await connection.open("Echo")

    network.partition([ALICE.peer_id], [BOB.peer_id])
    stream.send(b"held back")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.receive(), timeout=0.05)
    with pytest.raises(PeerUnreachable, match="in time"):
        await connection.call("Who", b"", timeout_s=0.05)
    network.heal()

    assert await asyncio.wait_for(stream.receive(), timeout=1) == b"held back"
    assert await connection.call("Who", b"", timeout_s=1)


async def test_a_lost_request_ends_at_its_deadline():
    network = MemoryNetwork()
    connection = await connect(network, Service(calls={"Who": who_am_i}))
    network.set_faults(Faults(loss=1.0), ALICE.peer_id, BOB.peer_id)

    with pytest.raises(PeerUnreachable, match="in time"):
        await connection.call("Who", b"", timeout_s=0.05)


async def test_too_much_under_way_is_busy():
    network = MemoryNetwork()
    connection = await connect(network, Service(streams={"Echo": echo}))
    stream = await connection.open("Echo")
    network.set_faults(Faults(delay_s=(60, 60)))
    message = bytes(MAX_MESSAGE_BYTES)
    for _ in range(3):
        stream.send(message)

    with pytest.raises(PeerBusy):
        stream.send(message)

    network.kill(BOB.peer_id)
    with pytest.raises(PeerUnreachable):
        stream.send(b"")


async def test_a_listener_that_closes_ends_its_streams():
    network = MemoryNetwork()
    listener = await join(network, BOB).listen("127.0.0.1", 0, Service(streams={"Echo": echo}))
    connection = await join(network, ALICE).dial(listener.addresses[0])
    stream = await connection.open("Echo")

    await listener.aclose()

    with pytest.raises(PeerUnreachable):
        await asyncio.wait_for(stream.receive(), timeout=1)

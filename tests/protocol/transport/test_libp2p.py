"""The network of discovery over libp2p, where the extra is installed; the words where it is not."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from protocol.address import Address
from protocol.errors import ConfigError
from protocol.identity import Identity, PeerId
from protocol.signing import SigningKey
from protocol.transport.control_plane import PlaneLimits
from protocol.transport.libp2p import Libp2pPlane
from protocol.transport.trio_thread import TrioThread
from tests.gossiping import until

IS_INSTALLED = importlib.util.find_spec("libp2p") is not None
needs_libp2p = pytest.mark.skipif(not IS_INSTALLED, reason="the libp2p extra is not installed")
KEY = b"/mh/0123456789abcdef/00"


class Shelf:
    """A keeper that takes everything but what is bad."""

    def __init__(self, denied: PeerId | None = None) -> None:
        self.values: dict[bytes, bytes] = {}
        self.denied = denied

    def admits(self, peer_id: PeerId) -> bool:
        return peer_id != self.denied

    async def keep(self, sender: PeerId, key: bytes, value: bytes) -> bool:
        if value != b"bad":
            self.values[key] = value
        return value != b"bad"

    async def kept(self, sender: PeerId, key: bytes) -> bytes:
        return self.values.get(key, b"")


def new_identity() -> Identity:
    return Identity(SigningKey.generate())


@asynccontextmanager
async def plane(
    *bootstrap: Address, keeper: Shelf | None = None, **options: Any
) -> AsyncIterator[Libp2pPlane]:
    made = Libp2pPlane(options.pop("identity", new_identity()), bootstrap=bootstrap, **options)
    await made.start(keeper or Shelf())
    try:
        yield made
    finally:
        await made.stop()


async def on_a_strangers_host(
    target: Address, act: Callable[[Any], Awaitable[Any]], **options: Any
) -> Any:
    """What `act` returns, given the host of somebody whose rules are the library's own; None if
    it gets no connection."""
    thread = TrioThread("stranger")

    async def dial() -> Any:
        from libp2p import new_host
        from libp2p.peer.peerinfo import info_from_p2p_addr
        from multiaddr import Multiaddr

        host = new_host(**options)
        async with host.run(listen_addrs=[]):
            try:
                await host.connect(info_from_p2p_addr(Multiaddr(str(target))))
            except Exception:  # of a library with many kinds
                return None
            return await act(host)

    try:
        return await asyncio.wait_for(thread.call(dial), timeout=30)
    finally:
        await thread.stop()


@pytest.mark.skipif(IS_INSTALLED, reason="libp2p is installed")
async def test_without_the_extra_the_error_names_the_command():
    made = Libp2pPlane(new_identity())

    with pytest.raises(ConfigError, match="not installed") as caught:
        await made.start(Shelf())

    assert "pip install" in caught.value.hint
    assert made.problem == "libp2p is not installed"
    assert await made.publish(KEY, b"value") == 0
    assert not await made.find(KEY)


@pytest.mark.libp2p
@needs_libp2p
async def test_the_host_has_the_nodes_own_peer_id_and_proves_it():
    identity = new_identity()

    async def see(host: Any) -> str:
        (connection,) = host.get_network().get_connections()
        return str(connection.muxed_conn.peer_id)

    async with plane(identity=identity) as made:
        address = made.addresses[0]
        found = await on_a_strangers_host(address, see)

    assert found == identity.peer_id == address.peer_id
    assert made.addresses == ()


@pytest.mark.libp2p
@needs_libp2p
async def test_a_port_in_use_is_a_config_error():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made = Libp2pPlane(new_identity(), port=port)

    with pytest.raises(ConfigError, match="in use"):
        await asyncio.wait_for(made.start(Shelf()), timeout=20)

    assert "in use" in made.problem
    server.close()


@pytest.mark.libp2p
@needs_libp2p
async def test_a_value_is_kept_by_others_and_found_by_who_knows_one_of_them():
    async with plane() as hub, plane(*hub.addresses) as writer, plane(*hub.addresses) as reader:
        for each in (writer, reader):
            await until(lambda each=each: bool(each.peers()), timeout_s=20)

        n_keeping = await writer.publish(KEY, b"value")
        told = await reader.find(KEY)

        assert n_keeping >= 1
        assert {each.value for each in told} == {b"value"}
        assert await writer.publish(KEY, b"bad") == 0
        assert hub.refused["not kept"] >= 1


@pytest.mark.libp2p
@needs_libp2p
async def test_a_peer_that_is_denied_gets_nowhere():
    denied = new_identity()
    async with (
        plane(keeper=Shelf(denied.peer_id)) as made,
        plane(*made.addresses, identity=denied),
    ):
        await until(lambda: made.refused["peer not admitted"] > 0, timeout_s=20)

        assert not made.peers()


@pytest.mark.libp2p
@needs_libp2p
async def test_who_does_not_know_a_private_swarm_gets_no_connection():
    ours, limits = bytes(range(32)), PlaneLimits(timeout_s=1.0)
    async with (
        plane(swarm_id=ours, limits=limits) as first,
        plane(*first.addresses, swarm_id=ours) as second,
        plane(*first.addresses, swarm_id=bytes(32), limits=limits) as guessing,
        plane(*first.addresses, limits=limits) as open_one,
    ):
        await until(lambda: bool(second.peers()), timeout_s=20)
        await asyncio.sleep(2.0)  # the others have tried, and were given up

        assert list(first.peers()) == [second.peer_id]
        assert not guessing.peers()
        assert not open_one.peers()


@pytest.mark.libp2p
@needs_libp2p
async def test_a_plaintext_dialler_is_turned_away():
    async def nothing(host: Any) -> bool:
        return True

    async with plane() as made:
        from libp2p.crypto.ed25519 import create_new_key_pair
        from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport

        keys = create_new_key_pair()
        plaintext = {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)}
        reached = await on_a_strangers_host(
            made.addresses[0], nothing, key_pair=keys, sec_opt=plaintext
        )

        assert reached is None
        assert not made.peers()
        assert not made.problem


@pytest.mark.libp2p
@needs_libp2p
async def test_a_peer_that_opens_a_thousand_streams_holds_a_few_and_others_are_served():
    limits = PlaneLimits(streams_per_peer=8, timeout_s=2.0)

    async def open_many(host: Any) -> int:
        import trio
        from libp2p.custom_types import TProtocol

        (peer,) = host.get_connected_peers()
        opened: list[Any] = []

        async def open_one() -> None:
            with suppress(Exception):
                stream = await host.new_stream(peer, [TProtocol("/ipfs/kad/1.0.0")])
                opened.append(stream)

        for _ in range(10):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(open_one)
        return len(opened)

    async with plane(limits=limits) as made, plane(*made.addresses) as other:
        await until(lambda: bool(other.peers()), timeout_s=20)
        flood = asyncio.create_task(on_a_strangers_host(made.addresses[0], open_many))
        await until(lambda: made.refused["streams of one peer"] > 50, timeout_s=20)

        assert await other.publish(KEY, b"value") >= 1
        assert not made.problem
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)


@pytest.mark.libp2p
@needs_libp2p
async def test_a_reader_that_says_half_a_request_and_stalls_is_cut_off():
    limits = PlaneLimits(timeout_s=1.0)

    async def stall(host: Any) -> bytes:
        from libp2p.custom_types import TProtocol

        (peer,) = host.get_connected_peers()
        stream = await host.new_stream(peer, [TProtocol("/ipfs/kad/1.0.0")])
        await stream.write(b"\x50half")
        with suppress(Exception):
            return bytes(await stream.read(1))
        return b""

    async with plane(limits=limits) as made:
        assert await on_a_strangers_host(made.addresses[0], stall) == b""

        assert made.refused["stalled"] == 1
        assert not made.problem


@pytest.mark.libp2p
@needs_libp2p
async def test_who_asks_for_much_and_reads_nothing_is_cut_off_while_others_are_served():
    limits = PlaneLimits(timeout_s=1.0)
    shelf = Shelf()
    shelf.values[KEY] = bytes(200_000)
    ask = b"\x08\x01\x12" + bytes([len(KEY)]) + KEY  # GET_VALUE

    async def never_read(host: Any) -> None:
        import trio
        from libp2p.custom_types import TProtocol

        (peer,) = host.get_connected_peers()
        stream = await host.new_stream(peer, [TProtocol("/ipfs/kad/1.0.0")])
        for _ in range(200):  # more than any window holds
            with suppress(Exception):
                await stream.write(bytes([len(ask)]) + ask)
        await trio.sleep(30)

    async with plane(keeper=shelf, limits=limits) as made, plane(*made.addresses) as other:
        await until(lambda: bool(other.peers()), timeout_s=20)
        stalling = asyncio.create_task(on_a_strangers_host(made.addresses[0], never_read))
        await until(lambda: made.refused["stalled"] > 0, timeout_s=25)

        assert [len(told.value) for told in await other.find(KEY)] == [200_000]
        stalling.cancel()
        await asyncio.gather(stalling, return_exceptions=True)
        assert not made.problem


@pytest.mark.libp2p
@needs_libp2p
async def test_oversized_and_malformed_requests_end_their_stream_and_are_counted():
    async def send_junk(host: Any) -> None:
        from libp2p.custom_types import TProtocol

        (peer,) = host.get_connected_peers()
        for junk in (b"\xff\xff\xff\x7f", b"\x05\xff\xff\xff\xff\xff", b"\x02\x08\x02"):
            stream = await host.new_stream(peer, [TProtocol("/ipfs/kad/1.0.0")])
            await stream.write(junk)
            with suppress(Exception):
                await stream.read(1)

    async with plane() as made:
        await on_a_strangers_host(made.addresses[0], send_junk)

        assert made.refused == {"too large": 1, "malformed": 1, "unsupported": 1}
        assert not made.problem


@pytest.mark.libp2p
@needs_libp2p
async def test_peers_that_came_and_went_are_forgotten_and_we_never_are():
    from libp2p import new_host
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

    from protocol.transport.kademlia import Kademlia

    async def nothing(*_: object) -> Any:
        return b""

    thread = TrioThread("book")

    async def meet_many() -> tuple[int, bool, int]:
        host = new_host()
        dht = Kademlia(host, nothing, nothing, lambda peer: True, PlaneLimits())
        book, far = host.get_peerstore(), [Multiaddr("/ip4/203.0.113.5/tcp/4001")]
        friend = ID(bytes([0, 2, 1, 1]))
        for peer in (friend, *(ID(bytes([0, 2, n // 256, n % 256])) for n in range(300, 900))):
            book.add_addrs(peer, far, 100)
        dht.forget([friend])
        return len(book.peer_ids()), book.has_peer(friend), len(host.get_public_key().to_bytes())

    assert await thread.call(meet_many) == (2, True, 32)
    await thread.stop()


async def test_the_bridge_carries_results_errors_and_cancellation():
    trio = pytest.importorskip("trio")
    thread, cancelled = TrioThread("test"), []

    async def answer() -> int:
        await trio.sleep(0)
        return 42

    async def fail() -> None:
        raise KeyError("there")

    async def hang() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(True)
            raise

    assert await thread.call(answer) == 42
    with pytest.raises(KeyError, match="there"):
        await thread.call(fail)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(thread.call(hang), timeout=0.05)
    assert await thread.call(answer) == 42
    assert cancelled == [True]
    await thread.stop()
    await thread.stop()


async def test_the_way_back_carries_the_same():
    pytest.importorskip("trio")
    thread, cancelled = TrioThread("test"), []

    async def here(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    async def fail() -> int:
        raise KeyError("here")

    async def hang() -> int:
        try:
            return await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def there_and_back() -> int:
        return await thread.ask(lambda: here(1)) + await thread.ask(lambda: here(2))

    assert await thread.call(there_and_back) == 5
    with pytest.raises(KeyError, match="here"):
        await thread.call(lambda: thread.ask(fail))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(thread.call(lambda: thread.ask(hang)), timeout=0.05)
    await until(lambda: bool(cancelled), timeout_s=5)
    await thread.stop()

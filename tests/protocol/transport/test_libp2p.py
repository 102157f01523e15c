"""The libp2p host of a node, where the extra is installed; and the words where it is not."""

import asyncio
import importlib.util

import pytest

from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.signing import SigningKey
from protocol.transport.libp2p import Libp2pHost
from protocol.transport.trio_thread import TrioThread

IS_INSTALLED = importlib.util.find_spec("libp2p") is not None


@pytest.mark.skipif(IS_INSTALLED, reason="libp2p is installed")
async def test_without_the_extra_the_error_names_the_command():
    with pytest.raises(ConfigError, match="not installed") as caught:
        await Libp2pHost(Identity(SigningKey.generate())).start()

    assert "pip install" in caught.value.hint


@pytest.mark.libp2p
async def test_the_host_has_the_nodes_own_peer_id_and_proves_it():
    pytest.importorskip("libp2p")
    identity = Identity(SigningKey.generate())
    host, dialler = Libp2pHost(identity), TrioThread("dialler")
    await host.start()
    address = host.addresses[0]

    async def dial_pinned() -> str:
        from libp2p import new_host
        from libp2p.peer.peerinfo import info_from_p2p_addr
        from multiaddr import Multiaddr

        other = new_host()
        async with other.run(listen_addrs=[]):
            target = info_from_p2p_addr(Multiaddr(str(address)))
            await other.connect(target)
            return str(other.get_network().connections[target.peer_id][0].muxed_conn.peer_id)

    try:
        found = await asyncio.wait_for(dialler.call(dial_pinned), timeout=10)
    finally:
        await dialler.stop()
        await host.stop()

    assert found == identity.peer_id == address.peer_id
    assert host.addresses == ()


@pytest.mark.libp2p
async def test_a_port_in_use_is_a_config_error():
    pytest.importorskip("libp2p")
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    host = Libp2pHost(Identity(SigningKey.generate()), port=port)

    with pytest.raises(ConfigError, match="in use"):
        await asyncio.wait_for(host.start(), timeout=10)

    server.close()


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

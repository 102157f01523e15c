"""How a client on a swarm finds models, where a peer takes a connection and says nothing."""

import asyncio

import pytest

from manyhands.client.swarm_backend import SwarmBackend
from manyhands.errors import DeadlineExceeded
from manyhands.home import Home
from protocol.address import Address
from tests.announcing import peer_of


async def test_a_name_that_nobody_answers_for_stalls_no_other_and_ends_in_time(tmp_path):
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        address = Address("127.0.0.1", silent.sockets[0].getsockname()[1], peer_of(1))
        backend = SwarmBackend(Home.at(tmp_path), [address], timeout_s=2.0)
        unknown = asyncio.create_task(backend._find("nobody/such"))
        await asyncio.sleep(0)

        known = await backend._find("tiny")

        assert not unknown.done()
        assert known.model.manifest.n_blocks == 8
        with pytest.raises(DeadlineExceeded, match="nobody/such was not found"):
            await unknown

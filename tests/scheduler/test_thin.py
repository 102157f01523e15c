"""A client that has nothing but an address gets a model's small files, and can trust them."""

import asyncio

import pytest

from protocol.errors import PeerMisbehaved, PeerRefused
from protocol.signing import OPEN_SWARM_ID
from protocol.text import Tokenizer
from protocol.transport.memory import MemoryNetwork
from scheduler.thin import fetch_small_files
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer, swarm


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def served(model, tmp_path):
    network = MemoryNetwork()
    async with swarm(
        model, tmp_path, lambda identity: network.transport(identity, OPEN_SWARM_ID), (0, 6)
    ) as built:
        yield built


async def test_manifest_and_tokenizer_come_from_any_host(served):
    async with served.client() as client:
        hosts = (await client.directory()).hosts(served.manifest.digest)
        manifest, files = await fetch_small_files(client.transport, hosts, served.manifest.digest)

    assert manifest.digest == served.manifest.digest
    assert Tokenizer(files).encode("hands") == served.tokenizer.encode("hands")
    assert not any(name.endswith(".safetensors") for name in files)


async def test_a_host_that_serves_other_bytes_is_found_out(served):
    async with served.client() as client:
        hosts = (await client.directory()).hosts(served.manifest.digest)
        await asyncio.sleep(0)
        shown = served.nodes[0].node.model.files
        shown["tokenizer.json"] = shown["tokenizer.json"].replace(b"a", b"b", 1)
        with pytest.raises(PeerMisbehaved, match="tokenizer"):
            await fetch_small_files(client.transport, hosts, served.manifest.digest)


async def test_weights_are_not_served(served):
    async with served.client() as client:
        connection = await client.transport.dial(served.nodes[0].address)
        from protocol.canonical import encode

        with pytest.raises(PeerRefused):
            await connection.call(
                "file", encode([served.manifest.digest, "model.safetensors"]), timeout_s=2
            )

"""A node behind a forwarded port tells others the way that leads to it."""

from protocol.address import Address
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer, swarm


async def test_a_node_announces_the_address_it_was_given_and_not_where_it_listens(tmp_path):
    network = MemoryNetwork()
    model = add_byte_tokenizer(write_checkpoint(tmp_path / "model"))

    async with swarm(
        model, tmp_path / "homes", lambda identity: network.transport(identity, OPEN_SWARM_ID)
    ) as built:
        [local] = await built.start((0, 6), announce=("203.0.113.5", 31400))
        node = local.node

        assert node.draft().addresses == (Address("203.0.113.5", 31400, node.peer_id),)

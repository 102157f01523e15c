"""What an answer may cost at most, and at most per token: real nodes, over their own protocol."""

from pathlib import Path

import pytest

from ledger.meter import Rates
from ledger.reader import LedgerReader
from protocol.errors import BudgetExceeded, SwarmIncomplete
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Finished, Generation, GenerationRequest, Token
from scheduler.wanted import Limits
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole
from tests.test_failover import ask

CHEAP, DEAR = Rates(prefill_tl=10**6, decode_tl=10**6), Rates(prefill_tl=10**7, decode_tl=10**7)
N_BLOCKS, N_PROMPT, N_ANSWER = 6, 20, 16
AT_CHEAP = N_BLOCKS * (N_PROMPT + N_ANSWER)  # an ncr for a token through a block


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


def asking(swarm: Swarm, **limits: int) -> GenerationRequest:
    return ask(swarm, max_tokens=N_ANSWER, reuse_prefix=False, wait_s=0.5, limits=Limits(**limits))


def over(network: MemoryNetwork):
    return lambda identity: network.transport(identity, OPEN_SWARM_ID)


async def test_an_answer_that_could_cost_more_than_it_may_is_not_begun(model, network, tmp_path):
    async with swarm(model, tmp_path, over(network)) as built:
        await built.start((0, 3), (3, 6), rates=CHEAP)
        async with built.client() as client:
            exact = await whole(client.generate(asking(built, max_cost=AT_CHEAP)))
            with pytest.raises(BudgetExceeded, match=f"{AT_CHEAP:,} ncr"):
                await whole(client.generate(asking(built, max_cost=AT_CHEAP - 1)))

    assert 0 < exact.cost_ncr <= AT_CHEAP
    with LedgerReader.read(tmp_path / "client") as reader:
        assert len(reader) == 2  # tabs: those of the answer that was made


async def test_a_limit_takes_the_cheap_chain_where_the_fast_one_is_too_dear(
    model, network, tmp_path
):
    async with swarm(model, tmp_path, over(network)) as built:
        await built.start((0, 6), rates=DEAR)
        await built.start((0, 2), (2, 4), (4, 6), rates=CHEAP)
        dear = built.nodes[0].node.identity.peer_id
        async with built.client() as client:
            fast = await whole(client.generate(asking(built)))
            kept = await whole(client.generate(asking(built, max_cost=AT_CHEAP)))

    assert [step.peer for step in fast.route] == [dear]
    assert len(kept.route) == 3
    assert kept.token_ids == fast.token_ids
    assert kept.cost_ncr <= AT_CHEAP


async def test_limits_bind_what_takes_a_lost_hops_place(model, network, tmp_path):
    network.set_faults(Faults(delay_s=(0.01, 0.01)))
    async with swarm(model, tmp_path, over(network)) as built:
        _, lost = await built.start((0, 3), (3, 6), rates=CHEAP)
        async with built.client() as client:
            for limits, error in (  # the second chain has one hop that is new
                ({"max_cost": AT_CHEAP}, BudgetExceeded),
                ({"max_price": 10**6}, SwarmIncomplete),
            ):
                (dear,) = await built.start((3, 6), rates=DEAR)
                with pytest.raises(error) as raised:
                    await _losing(network, client.generate(asking(built, **limits)), lost)
                await built.stop(dear)
                (lost,) = await built.start((3, 6), rates=CHEAP)

    assert raised.value.constraint == "max-price"
    with LedgerReader.read(tmp_path / "client") as reader:
        paid = [entry.net for entry in reader.entries()]
    assert len(paid) == 4
    assert all(amount <= AT_CHEAP for amount in paid)


async def _losing(network: MemoryNetwork, generation: Generation, lost: LocalNode) -> None:
    async with generation:
        async for event in generation:
            if isinstance(event, Token) and event.index == 3:
                network.kill(lost.node.identity.peer_id)
            assert not isinstance(event, Finished)

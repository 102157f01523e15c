"""Adapters in a swarm: several at once over one chain, come and gone while it runs."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from manyhands.adapters import refusal
from manyhands.distributed.auto import assemble
from manyhands.models import Model
from manyhands.portal import Portal
from node.engine.adapter_files import WEIGHTS, files_state
from protocol.errors import PeerRefused, SwarmIncomplete, UsageError
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import (
    Finished,
    GenerationRequest,
    GenerationResult,
    HiddenRequest,
    Routed,
    Token,
)
from tests.adapters import change_config, merged, strip_whole_weights, write_adapter
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole

SPANS = [(0, 2), (2, 5), (5, 6)]
PROMPT = [84, 101, 108, 108, 32, 109, 101]
N = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("adapters")
    return {
        "pirate": write_adapter(home / "pirate", model, seed=1),
        "poet": write_adapter(home / "poet", model, seed=2, rank=8, layers_to_transform=[1, 5]),
    }


@pytest.fixture(scope="module")
def expected(model: Path, adapters: dict[str, Path]) -> dict[str, list[int]]:
    """PEFT's own greedy answer with each, and without any."""
    answers = {}
    for name in ("", *adapters):
        text = merged(model, adapters.get(name)).generate(
            input_ids=torch.tensor([PROMPT]), max_new_tokens=N, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        answers[name] = text[0, len(PROMPT) :].tolist()
    assert len({tuple(answer) for answer in answers.values()}) == 3, "adapters that change nothing"
    return answers


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


@pytest.fixture
async def chain(model: Path, tmp_path: Path, network: MemoryNetwork) -> AsyncIterator[Swarm]:
    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory, *SPANS) as built:
        yield built


def put(local: LocalNode, name: str, adapter: Path) -> None:
    """As `manyhands adapters load` does it: whole or not at all."""
    shelf = local.home / "adapters"
    shutil.copytree(adapter, shelf / f".{name}")
    (shelf / f".{name}").rename(shelf / name)


async def look(*nodes: LocalNode) -> None:
    """What their loop does every two seconds, now."""
    for local in nodes:
        if await asyncio.to_thread(local.node.serving.shelf.look):
            local.node.gossip.announce()


async def serve(nodes: list[LocalNode], adapters: dict[str, Path]) -> tuple[str, ...]:
    for local in nodes:
        for name, adapter in adapters.items():
            put(local, name, adapter)
    await look(*nodes)
    announced = {local.node.draft().adapters for local in nodes}
    assert len(announced) == 1, "the same names and digests everywhere"
    return announced.pop()


def ask(built: Swarm, adapter: str = "", **what: object) -> GenerationRequest:
    return built.request(PROMPT, adapter=adapter, max_tokens=N, ignore_eos=True, **what)


async def test_sessions_with_two_adapters_and_none_share_a_chain(chain, adapters, expected):
    pirate, _ = await serve(chain.nodes, adapters)
    wanted = ["", "pirate", "poet", pirate, ""]

    async with chain.client() as client:
        answers = await asyncio.gather(*(whole(client.generate(ask(chain, a))) for a in wanted))

    got = [list(answer.token_ids) for answer in answers]
    assert got == [expected[adapter.partition("@")[0]] for adapter in wanted]
    assert max(chain.nodes[0].node.batcher.load.batch_rows) > 1, "they never met in a batch"


async def test_an_adapter_that_nobody_or_not_everybody_serves_is_named(chain, adapters):
    await serve(chain.nodes[:2], adapters)

    async with chain.client() as client:
        for adapter in ("pirate", "nobody", "pirate@0123456789ab"):
            with pytest.raises(SwarmIncomplete, match=f"of tiny with adapter {adapter}"):
                await whole(client.generate(ask(chain, adapter, model="tiny", wait_s=0.5)))


async def test_two_versions_of_a_name_are_never_mixed(chain, adapters, expected, tmp_path):
    other = change_config(Path(shutil.copytree(adapters["pirate"], tmp_path / "v2")), lora_alpha=1)
    first, second = chain.nodes[0].node.engine.adapters, chain.nodes[1].node.engine.adapters
    await serve(chain.nodes, {"pirate": adapters["pirate"]})
    (version,) = first.names
    second.load(other, "pirate")
    chain.nodes[1].node.gossip.announce()

    async with chain.client() as client:
        await client.directory()
        with pytest.raises(UsageError, match="2 adapters called pirate"):
            await whole(client.generate(ask(chain, "pirate")))
        answer = await whole(client.generate(ask(chain, version)))

    assert list(answer.token_ids) == expected["pirate"]


async def test_an_unloaded_adapter_finishes_what_it_began_and_takes_no_more(
    chain, adapters, expected
):
    await serve(chain.nodes, adapters)

    async with chain.client() as client:
        tokens: list[int] = []
        async with client.generate(ask(chain, "pirate")) as generation:
            async for event in generation:
                if isinstance(event, Token):
                    tokens.append(event.token_id)
                if isinstance(event, Token) and event.index == 3:
                    for local in chain.nodes:
                        shutil.rmtree(local.home / "adapters" / "pirate")
                    await look(*chain.nodes)
        names = [local.node.draft().adapters for local in chain.nodes]
        with pytest.raises((SwarmIncomplete, PeerRefused), match="adapter pirate"):
            await whole(client.generate(ask(chain, "pirate", wait_s=0.5)))

    assert tokens == expected["pirate"]
    assert all(len(name) == 1 and name[0].startswith("poet@") for name in names)


async def test_a_bad_adapter_on_the_shelf_is_told_of_and_the_node_goes_on(
    chain, adapters, expected
):
    node = chain.nodes[0]
    put(node, "good", adapters["poet"])
    put(node, "bad", adapters["pirate"])
    (node.home / "adapters" / "bad" / "adapter_model.safetensors").write_bytes(b"junk")
    (node.home / "adapters" / "no name").mkdir()

    await look(node)

    status = node.node.status()
    assert [name.partition("@")[0] for name in node.node.draft().adapters] == ["good"]
    assert list(status["adapters_refused"]) == ["bad"]
    assert "corrupt" in status["adapters_refused"]["bad"]
    async with chain.client() as client:
        answer = await whole(client.generate(ask(chain)))
    assert list(answer.token_ids) == expected[""]
    bad = node.home / "adapters" / "bad"
    assert "corrupt" in refusal(status, "bad", files_state(bad))
    shutil.copyfile(adapters["pirate"] / WEIGHTS, bad / WEIGHTS)
    assert refusal(node.node.status(), "bad", files_state(bad)) == "", "it has not looked yet"
    await look(node)
    assert node.node.status()["adapters_seen"]["bad"] == files_state(bad)
    assert node.node.status()["adapters_refused"] == {}
    assert len(node.node.draft().adapters) == 2


async def test_a_hop_that_dies_is_replaced_by_one_with_the_same_adapter(
    chain, network, adapters, expected
):
    await chain.start((2, 5), (2, 5))  # one of them shall have the adapter, one not
    await serve([*chain.nodes[:3], chain.nodes[4]], adapters)
    result: GenerationResult | None = None
    dead = ""

    async with chain.client() as client, client.generate(ask(chain, "pirate")) as generation:
        async for event in generation:
            if isinstance(event, Routed):
                route = event.route
            if isinstance(event, Token) and event.index == 5:
                dead = route[1].peer
                network.kill(dead)
            if isinstance(event, Finished):
                result = event.result

    assert result is not None
    assert list(result.token_ids) == expected["pirate"]
    able = {chain.nodes[n].node.identity.peer_id for n in (1, 4)}
    assert {result.route[1].peer} == able - {dead}


async def test_what_was_run_with_one_adapter_is_never_used_again_with_another(
    chain, model, adapters
):
    await serve(chain.nodes, adapters)
    prompt = [(7 * i + 3) % 250 for i in range(60)]  # without the id that pads
    expected = {
        name: merged(model, adapters.get(name)).generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=N, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for name in ("", "pirate", "poet")
    }  # fmt: skip

    async with chain.client() as client:
        for n_cached in (0, len(prompt) - 1):
            for name, text in expected.items():
                request = chain.request(prompt, adapter=name, max_tokens=N, ignore_eos=True)
                answer = await whole(client.generate(request))
                assert list(answer.token_ids) == text
                assert answer.n_cached == n_cached


async def test_a_client_that_holds_the_ends_gets_adapted_rows_and_no_adapted_head(
    chain, model, adapters, tmp_path
):
    with_head = write_adapter(tmp_path / "head", model, target_modules=["q_proj", "lm_head"])
    strip_whole_weights(with_head)
    await serve(chain.nodes, {"pirate": adapters["pirate"], "head": with_head})
    adapted = merged(model, adapters["pirate"])
    seen: list[torch.Tensor] = []
    adapted.base_model.model.model.layers[-1].register_forward_hook(
        lambda _, __, out: seen.append(out[0])
    )
    with torch.inference_mode():
        embedded = adapted.base_model.model.model.embed_tokens(torch.tensor(PROMPT))
        adapted(torch.tensor([PROMPT]))

    def lane(adapter: str, wait_s: float = 10.0) -> HiddenRequest:
        return HiddenRequest(
            manifest=chain.manifest.digest, n_blocks=6, stop=6, capacity=16, row_bytes=4 * 64,
            profile="float32/none/float32", adapter=adapter, wait_s=wait_s,
        )  # fmt: skip

    async with chain.client() as client:
        session = client.hidden(lane("pirate"))
        body = await session.forward(0, embedded.numpy().tobytes())
        await session.aclose()
        refused = client.hidden(lane("head", wait_s=0.5))
        with pytest.raises(PeerRefused, match="changes the head"):
            await refused.forward(0, embedded.numpy().tobytes())
        await refused.aclose()

    got = torch.frombuffer(bytearray(body), dtype=torch.float32).view(-1, 64)
    assert (got - seen[0]).abs().max() / seen[0].abs().max() <= 1e-5


async def test_generate_of_the_distributed_model_runs_with_its_adapter(
    model, chain, adapters, expected
):
    await serve(chain.nodes, adapters)
    portal = Portal(asyncio.get_running_loop())
    client = await portal.enter(chain.client())
    found = Model("test", "test", model, chain.manifest)

    def generate() -> list[int]:
        with assemble(found, portal, client, adapter="poet") as remote:
            out = remote.generate(
                torch.tensor([PROMPT]), max_new_tokens=N, do_sample=False, eos_token_id=None,
                pad_token_id=0,
            )  # fmt: skip
        return out[0, len(PROMPT) :].tolist()

    assert await asyncio.to_thread(generate) == expected["poet"]

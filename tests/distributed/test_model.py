"""A transformers model whose blocks are a swarm generates what the local model generates."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LogitsProcessor, LogitsProcessorList

from manyhands.distributed.auto import assemble
from manyhands.models import Model
from manyhands.portal import Portal
from protocol.errors import ContextExceeded, PeerUnreachable, SwarmIncomplete, UsageError
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler.wanted import Limits
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm
from tests.test_constraints_kept import asked_in

SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("gemma2", "qwen3", "bloom")]
FAMILIES = ["llama", "gpt2", *SLOW]
HALVES = [(0, 3), (3, 6)]
PROMPT = [1, 40, 77, 123, 9, 250, 33, 180, 66, 12]
PADDED = [[0, 0, 0, 5, 77, 31], [9, 250, 33, 180, 66, 12], [0, 44, 45, 46, 44, 45]]
GENERATE: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {
        "do_sample": True,
        "temperature": 0.9,
        "top_k": 40,
        "top_p": 0.95,
        "repetition_penalty": 1.2,
    },
    "four beams": {"num_beams": 4},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "three answers": {"do_sample": True, "num_return_sequences": 3},
    "no cache": {"use_cache": False, "max_new_tokens": 4},
}


@dataclass
class Both:
    """The model over a swarm, and the same in one piece."""

    remote: Any
    local: Any
    swarm: Swarm
    network: MemoryNetwork
    loop: asyncio.AbstractEventLoop
    victim: int = 0

    def generate(self, model: Any, ids: torch.Tensor, **what: Any) -> torch.Tensor:
        torch.manual_seed(5)
        fixed = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        out: torch.Tensor = model.generate(ids, **(fixed | what))
        return out

    async def equal(self, ids: torch.Tensor, **what: Any) -> torch.Tensor:
        """What the swarm generates, which the local model generates as well."""
        got = await asyncio.to_thread(self.generate, self.remote, ids, **what)
        expected = self.generate(self.local, ids, **what)
        assert got.tolist() == expected.tolist()
        return got

    @property
    def is_settled(self) -> bool:
        return all(local.node.sessions.reserved_bytes == 0 for local in self.swarm.nodes)


@asynccontextmanager
async def both(
    directory: Path,
    home: Path,
    *spans: tuple[int, int],
    limits: Limits | None = None,
    **settings: object,
) -> AsyncIterator[Both]:
    network = MemoryNetwork(seed=3)
    async with swarm(
        directory, home, lambda identity: network.transport(identity, OPEN_SWARM_ID)
    ) as built:
        await built.start(*spans, **settings)
        portal = Portal(asyncio.get_running_loop())
        model = Model("test", "test", directory, built.manifest)

        @asynccontextmanager
        async def client():
            async with built.client() as opened:
                yield opened

        opened, close = await portal.enter(client()), portal.close
        try:
            remote = await asyncio.to_thread(
                assemble, model, portal, opened, limits=limits, wait_s=0.3
            )
            close = remote.close
            local = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
            yield Both(remote, local, built, network, asyncio.get_running_loop())
        finally:
            await asyncio.to_thread(close)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def write(family: str) -> Path:
        if family not in made:
            directory = write_checkpoint(tmp_path_factory.mktemp(family), family)
            made[family] = add_byte_tokenizer(directory)
        return made[family]

    return write


@pytest.fixture
async def llama(written, tmp_path):
    async with both(written("llama"), tmp_path, *HALVES) as pair:
        yield pair


@pytest.mark.parametrize("family", FAMILIES)
async def test_generate_gives_the_tokens_of_the_local_model(written, tmp_path, family):
    async with both(written(family), tmp_path, *HALVES) as pair:
        for name, how in GENERATE.items():
            if family == "gpt2" and name not in ("greedy", "sampling", "four beams"):
                continue  # what differs there is the embedding: positions are learned
            tokens = await pair.equal(torch.tensor([PROMPT]), **how)
            assert len(set(tokens[0].tolist())) > 4
        mask = (torch.tensor(PADDED) != 0).long()
        await pair.equal(torch.tensor(PADDED), attention_mask=mask)
        await pair.equal(torch.tensor(PADDED), attention_mask=mask, num_beams=2)
        assert pair.is_settled


async def test_an_assistant_a_processor_and_a_streamer_work_as_with_the_local_model(llama):
    class Never7(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            scores[:, 7] = float("-inf")
            return scores

    class Collected:
        def __init__(self) -> None:
            self.ids: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.ids += value.flatten().tolist()

        def end(self) -> None: ...

    ids, streamed = torch.tensor([PROMPT]), Collected()

    await llama.equal(ids, assistant_model=llama.local)
    await llama.equal(ids, logits_processor=LogitsProcessorList([Never7()]))
    tokens = await asyncio.to_thread(llama.generate, llama.remote, ids, streamer=streamed)

    assert streamed.ids == tokens[0].tolist()


@pytest.mark.parametrize("victim", [0, -1])
async def test_a_hop_killed_during_generate_changes_nothing(written, tmp_path, victim):
    class Killer:
        """A streamer that kills a hop as a token comes."""

        def __init__(self, pair: Both, at: int) -> None:
            self.pair, self.at = pair, at

        def put(self, value: torch.Tensor) -> None:
            self.at -= 1
            if not self.at:
                busy = [n.node for n in self.pair.swarm.nodes if n.node.sessions.reserved_bytes]
                peers = [node.identity.peer_id for node in busy]
                kill = self.pair.network.kill
                self.pair.loop.call_soon_threadsafe(kill, peers[self.pair.victim])

        def end(self) -> None: ...

    async with both(written("llama"), tmp_path, *HALVES, *HALVES) as pair:
        ids, pair.victim = torch.tensor([PROMPT]), victim
        killed = Killer(pair, 6)
        got = await asyncio.to_thread(pair.generate, pair.remote, ids, streamer=killed)
        assert got.tolist() == pair.generate(pair.local, ids).tolist()
        assert killed.at < 0


async def test_an_error_in_the_middle_of_generate_leaves_no_session_open(llama):
    class Broken:
        def put(self, value: torch.Tensor) -> None:
            if value.dim() == 1:
                raise ZeroDivisionError

        def end(self) -> None: ...

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(
            llama.generate, llama.remote, torch.tensor([PROMPT]), streamer=Broken()
        )

    assert llama.is_settled


async def test_logits_and_caches_go_on_over_several_calls(llama):
    first, second = torch.tensor([PROMPT[:6]]), torch.tensor([PROMPT[6:]])

    def twice(model: Any, cache: Any) -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(ids, past_key_values=cache).logits for ids in (first, second)]

    cache = llama.remote.new_cache(64)
    got = await asyncio.to_thread(twice, llama.remote, cache)
    expected = twice(llama.local, DynamicCache(config=llama.local.config))
    for logits, wanted in zip(got, expected, strict=True):
        assert torch.allclose(logits, wanted, rtol=1e-4, atol=1e-4)

    await asyncio.to_thread(cache.close)
    assert llama.is_settled


async def test_hidden_states_of_every_border_are_those_of_the_local_model(llama):
    ids, mask = torch.tensor(PADDED), (torch.tensor(PADDED) != 0).long()
    states: list[torch.Tensor] = []
    for block in llama.local.model.layers:
        block.register_forward_pre_hook(lambda _, args: states.append(args[0]))
        block.register_forward_hook(lambda _, __, out: states.append(out))
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        llama.local(ids, attention_mask=mask, position_ids=positions)
    borders = [*states[::2], states[-1]]
    real = mask.bool()

    for block in (0, 1, 4, 6):
        got = await asyncio.to_thread(llama.remote.hidden_states_at, ids, block, mask)
        assert torch.allclose(got[real], borders[block][real], rtol=1e-4, atol=1e-4)
    assert llama.is_settled


@pytest.mark.parametrize("pooling", ["mean", "last"])
async def test_embeddings_are_pooled_over_what_is_no_padding(llama, pooling):
    ids, mask = torch.tensor(PADDED), (torch.tensor(PADDED) != 0).long()

    got = await asyncio.to_thread(llama.remote.embed, ids, mask, pooling=pooling)

    with torch.no_grad():
        for row, kept, vector in zip(ids, mask.bool(), got, strict=True):
            alone = llama.local.model(row[kept][None]).last_hidden_state[0]
            wanted = alone.mean(dim=0) if pooling == "mean" else alone[-1]
            assert torch.allclose(vector, wanted, rtol=1e-4, atol=1e-4)


async def test_an_inference_session_steps_and_goes_back(llama):
    rows = llama.local.model.embed_tokens(torch.tensor([PROMPT])).detach()

    def steps() -> tuple[torch.Tensor, torch.Tensor, int]:
        with llama.remote.inference_session(max_length=8) as session:  # it grows when it must
            session.step(rows[:, :4])
            session.step(torch.randn(1, 3, 64))
            session.position = 4
            rest = session.step(rows[:, 4:])
            whole = session.position
            session.position = 0
            return rest, session.step(rows), whole

    rest, again, whole = await asyncio.to_thread(steps)

    states: list[torch.Tensor] = []
    llama.local.model.layers[-1].register_forward_hook(lambda _, __, out: states.append(out))
    with torch.no_grad():
        llama.local(torch.tensor([PROMPT]))
    assert whole == len(PROMPT)
    assert torch.allclose(rest, states[0][:, 4:], rtol=1e-4, atol=1e-4)
    assert torch.allclose(again, states[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 2, 128),
        torch.zeros(1, 2, 7),
        torch.zeros(2, 64),
        torch.zeros(64),
        torch.zeros(1, 1, 2, 64),
        torch.zeros(1, 2, 64, dtype=torch.int64),
        torch.zeros(1, 0, 64),
        torch.zeros(0, 2, 64),
    ],
    ids=lambda rows: f"{list(rows.shape)} {rows.dtype}",
)
async def test_rows_of_another_shape_are_refused_and_the_session_goes_on(llama, wrong):
    rows = llama.local.model.embed_tokens(torch.tensor([PROMPT])).detach()

    def steps() -> int:
        with llama.remote.inference_session() as session:
            session.step(rows[:, :4])
            with pytest.raises(UsageError) as caught:
                session.step(wrong)
            assert not wrong.numel() or "64" in caught.value.hint
            session.step(rows[:, 4:].double())
            return int(session.position)

    assert await asyncio.to_thread(steps) == len(PROMPT)


async def test_what_cannot_be_is_said_with_its_reason(llama):
    ids = torch.tensor([PROMPT])
    call = asyncio.to_thread

    with pytest.raises(UsageError, match="with its peers"):
        await call(llama.remote, ids, past_key_values=DynamicCache())
    with pytest.raises(UsageError, match="stays with the peers"):
        await call(llama.remote, ids, output_hidden_states=True)
    with pytest.raises(UsageError, match="pooling"):
        await call(llama.remote.embed, ids, pooling="first")
    with pytest.raises(UsageError, match="borders"):
        await call(llama.remote.hidden_states_at, ids, 7)
    with pytest.raises(ContextExceeded):
        await call(llama.remote, torch.ones(1, 300, dtype=torch.long))
    assert llama.is_settled


async def test_without_a_holder_the_blocks_that_nobody_serves_are_named(llama):
    await llama.swarm.stop(llama.swarm.nodes[1])

    with pytest.raises((SwarmIncomplete, PeerUnreachable), match=r"3:6|nobody"):
        await asyncio.to_thread(llama.remote.generate, torch.tensor([PROMPT]), max_new_tokens=2)


async def test_limits_are_kept_by_the_model_and_told_to_its_hops(written, tmp_path):
    limits = Limits(regions=("eu",), max_price=0)
    async with both(written("llama"), tmp_path, *HALVES, limits=limits, region="eu-west") as pair:
        (nearer,) = await pair.swarm.start(
            (0, 6), region="us"
        )  # one hop, which costs less than two

        await pair.equal(torch.tensor([PROMPT]), max_new_tokens=3)

        assert nearer.node.batcher.load.rows == 0
    told = asked_in(tmp_path / "client")
    assert [each.regions for each in told] == [("eu",)] * len(told) != []


async def test_limits_that_leave_nobody_are_named(written, tmp_path):
    with pytest.raises(SwarmIncomplete, match="nobody in region eu serves blocks 0:6"):
        async with both(
            written("llama"), tmp_path, *HALVES, limits=Limits(regions=("eu",)), region="us"
        ):
            pass


async def test_a_cache_that_is_forgotten_is_settled_behind_us(llama):
    def forget() -> None:
        with torch.no_grad():
            llama.remote(torch.tensor([PROMPT]))

    await asyncio.to_thread(forget)
    for _ in range(50):
        await asyncio.sleep(0.05)
        if llama.is_settled:
            break
    assert llama.is_settled


def test_importing_the_front_door_loads_no_torch():
    code = "import sys, manyhands; from manyhands import AutoDistributedModelForCausalLM as A"
    code += "; assert A.from_pretrained and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

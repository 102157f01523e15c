"""A client that holds the ends, over real nodes: hidden rows in, hidden rows out, no token seen."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ledger.meter import Rates
from ledger.verify import verify_ledger
from protocol.codec import data_bytes, data_message
from protocol.errors import ContextExceeded, ManyhandsError, SwarmIncomplete, UsageError
from protocol.frames import Frame
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from protocol.transport.memory import MemoryNetwork
from scheduler import Client, HiddenRequest, HiddenSession
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm

SPANS = [(0, 2), (2, 5), (5, 6)]
HIDDEN = 64
ROW = 4 * HIDDEN
PROMPT = [1, 40, 77, 123, 9, 250, 33, 180, 66, 12]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def states(model: Path) -> tuple[torch.Tensor, ...]:
    """Behind the embedding, and behind each block, of the unsplit model."""
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    seen = []
    for block in whole.model.layers:
        block.register_forward_hook(lambda _, __, out: seen.append(out[0]))
    with torch.inference_mode():
        first = whole.model.embed_tokens(torch.tensor(PROMPT))
        whole(torch.tensor([PROMPT]))
    return first, *seen


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


@pytest.fixture
async def pair(model, tmp_path, network):
    """Two nodes for every span."""

    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory, *SPANS, *SPANS) as built:
        yield built


def lane(swarm: Swarm, client: Client, **what: object) -> HiddenSession:
    fixed = {"capacity": 32, "row_bytes": ROW, "profile": "float32/none/float32", "stop": 6}
    digest, n_blocks = swarm.manifest.digest, swarm.manifest.n_blocks
    return client.hidden(HiddenRequest(manifest=digest, n_blocks=n_blocks, **(fixed | what)))


def rows_of(states: torch.Tensor, start: int, stop: int) -> bytes:
    return states[start:stop].contiguous().numpy().tobytes()


def close(body: bytes, expected: torch.Tensor) -> bool:
    got = torch.frombuffer(bytearray(body), dtype=torch.float32).view(-1, HIDDEN)
    return torch.allclose(got, expected, rtol=1e-4, atol=1e-4)


async def test_rows_go_through_all_blocks_and_come_back_to_the_client(model, states, tmp_path):
    def over_sockets(identity):
        return GrpcTransport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_sockets, *SPANS) as built, built.client() as client:
        session = lane(built, client)
        prefill = await session.forward(0, rows_of(states[0], 0, 7))
        steps = [await session.forward(p, rows_of(states[0], p, p + 1)) for p in (7, 8, 9)]
        await session.aclose()

    assert close(prefill, states[6][:7])
    assert all(close(step, states[6][7 + i : 8 + i]) for i, step in enumerate(steps))
    assert len(session.receipts) == 3
    for party in ("client", "node-0", "node-1", "node-2"):
        assert verify_ledger(tmp_path / party).holds


async def test_a_chain_that_stops_early_gives_that_boundarys_rows(pair, states):
    async with pair.client() as client:
        for stop in (1, 4, 5):
            session = lane(pair, client, stop=stop)
            rows = await session.forward(0, rows_of(states[0], 0, 10))
            await session.aclose()
            assert close(rows, states[stop])
            assert session.spans[-1].stop == stop


async def test_rows_from_a_lower_position_roll_back(pair, states):
    noise = torch.randn(6, HIDDEN)
    async with pair.client() as client:
        session = lane(pair, client)
        await session.forward(0, rows_of(states[0], 0, 4) + rows_of(noise, 0, 6))
        rest = await session.forward(4, rows_of(states[0], 4, 10))
        await session.aclose()

    assert close(rest, states[6][4:])
    assert session.failovers == 0


@pytest.mark.parametrize("n_bytes", [0, 28, ROW + 4])
async def test_bytes_that_are_no_whole_rows_are_refused_here(pair, n_bytes):
    async with pair.client() as client:
        session = lane(pair, client)
        with pytest.raises(UsageError, match=f"no rows of {ROW} bytes"):
            await session.forward(0, bytes(n_bytes))
        await session.aclose()


@pytest.mark.parametrize("row_bytes", [28, 2 * ROW])
async def test_a_first_frame_of_another_row_size_ends_with_what_is_wrong(pair, row_bytes):
    async with pair.client() as client:
        session = lane(pair, client, row_bytes=row_bytes)
        async with asyncio.timeout(5):
            with pytest.raises(ManyhandsError, match=f"rows of {row_bytes} bytes, not {ROW}"):
                await session.forward(0, bytes(2 * row_bytes))
        await session.aclose()

    assert not any(len(local.node.sessions) for local in pair.nodes)


class Shrinking:
    """A transport, connection or stream whose later frames have rows of half their size."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._n_frames = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def dial(self, *args: Any, **kwargs: Any) -> "Shrinking":
        return Shrinking(await self._inner.dial(*args, **kwargs))

    async def open(self, method: str, **kwargs: Any) -> Any:
        stream = await self._inner.open(method, **kwargs)
        return Shrinking(stream) if method == "data" else stream

    def send(self, message: bytes) -> None:
        said = data_message(message)
        if isinstance(said, Frame):
            self._n_frames += 1
            if self._n_frames > 1:
                half = len(said.body) // 2
                said = replace(said, row_bytes=said.row_bytes // 2, body=said.body[:half])
        self._inner.send(data_bytes(said))


async def test_a_later_frame_of_another_row_size_is_answered_by_the_hop(
    model, tmp_path, network, states
):
    def over_memory(identity):
        transport = network.transport(identity, OPEN_SWARM_ID)
        return transport if len(built.nodes) < len(SPANS) else Shrinking(transport)

    built = Swarm(model, tmp_path, over_memory)
    await built.start(*SPANS)
    async with built.client() as client:
        session = lane(built, client, wait_s=0.3)
        await session.forward(0, rows_of(states[0], 0, 5))
        async with asyncio.timeout(5):
            with pytest.raises(ManyhandsError, match=f"rows of {ROW // 2} bytes, not {ROW}"):
                await session.forward(5, rows_of(states[0], 5, 6))
        await session.aclose()
    await built.aclose()

    assert not any(len(local.node.sessions) for local in built.nodes)


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_a_hop_that_dies_is_replaced_and_the_rows_are_the_same(pair, network, states, hop):
    async with pair.client() as client:
        session = lane(pair, client)
        await session.forward(0, rows_of(states[0], 0, 5) + rows_of(torch.randn(2, HIDDEN), 0, 2))
        network.kill(session.rules.hops[hop].peer)
        again = await session.forward(5, rows_of(states[0], 5, 8))
        rest = await session.forward(8, rows_of(states[0], 8, 10))
        await session.aclose()

    assert close(again, states[6][5:8])
    assert close(rest, states[6][8:])
    assert session.failovers == 1
    assert len(session.receipts) == 4


async def test_a_broken_data_stream_is_opened_again_and_nothing_restarts(pair, network, states):
    async with pair.client() as client:
        session = lane(pair, client)
        await session.forward(0, rows_of(states[0], 0, 5))
        hops = [hop.peer for hop in session.rules.hops]
        for at, (one, other) in enumerate(((client.identity.peer_id, hops[0]), hops[:2])):
            network.break_streams(one, other)
            rows = await session.forward(5 + at, rows_of(states[0], 5 + at, 6 + at))
            assert close(rows, states[6][5 + at : 6 + at])
        network.break_streams(client.identity.peer_id, hops[2])
        rest = await session.forward(7, rows_of(states[0], 7, 10))
        await session.aclose()

    assert close(rest, states[6][7:])
    assert session.failovers == 0


async def test_sessions_of_a_client_share_their_frames(pair, states):
    async with pair.client() as client:
        lanes = [lane(pair, client) for _ in range(4)]
        rows = rows_of(states[0], 0, 10)
        answers = await asyncio.gather(*(session.forward(0, rows) for session in lanes))
        assert all(close(answer, states[6]) for answer in answers)
        await asyncio.gather(*(session.aclose() for session in lanes))
        assert all(local.node.sessions.reserved_bytes == 0 for local in pair.nodes)


async def test_a_long_input_is_paid_for_as_it_runs(model, tmp_path, network, states):
    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    rates = Rates(prefill_tl=1_000_000_000, decode_tl=5_000_000_000)  # a window is six decode rows
    async with swarm(model, tmp_path, over_memory) as priced:
        await priced.start((0, 3), (3, 6), rates=rates)
        async with priced.client() as client:
            session = lane(priced, client)
            await session.forward(0, rows_of(states[0], 0, 1))
            rest = await session.forward(1, rows_of(states[0], 1, 10))
            await session.aclose()

    assert close(rest, states[6][1:])
    for party in ("client", "node-0", "node-1"):
        report = verify_ledger(tmp_path / party)
        assert report.holds, report.failures


async def test_what_cannot_be_is_refused_with_its_reason(pair, states):
    async with pair.client() as client:
        session = lane(pair, client, capacity=4)
        with pytest.raises(ContextExceeded, match="reserved"):
            await session.forward(0, rows_of(states[0], 0, 5))
        with pytest.raises(UsageError, match="go on"):
            await session.forward(2, rows_of(states[0], 0, 1))
        await session.aclose()
        with pytest.raises(UsageError, match="closed"):
            await session.forward(0, rows_of(states[0], 0, 1))

        unknown = lane(pair, client, profile="bfloat16/none/bfloat16", wait_s=0.2)
        with pytest.raises(SwarmIncomplete):
            await unknown.forward(0, rows_of(states[0], 0, 1))
        await unknown.aclose()

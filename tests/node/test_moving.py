"""A node moves: sessions under way end well, no block is left alone, nothing leaks."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from node.engine import ShardEngine, load_shard
from node.moving_rules import Pace, Target
from node.serving import Model
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.describing import make_manifest
from protocol.errors import BadModel, PeerBusy
from protocol.identity import PeerId
from protocol.measured import State
from protocol.messages import Span
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Finished, Routed, Token
from scheduler.placement import choose_move
from tests import gossiping
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole

QUICK = Pace(first_s=0.02, last_s=0.05, settle_s=0.1, rest_s=0.05)
# A word takes 0.2 s, and more while nodes of one process load: now two may move at a time.
CAREFUL = replace(QUICK, settle_s=3.0)
N = 40
WANDERING = SamplingParams(temperature=1.0, seed=7)


class Wishes:
    """What a front door would bring, by script; it loads for real."""

    def __init__(
        self, directory: Path, span: tuple[int, int] | None, *, beside: bool = True
    ) -> None:
        self.directory, self.beside = directory, beside
        self.span = Span(*span) if span else None
        self.manifest = b""
        self.fails: set[Span] = set()
        self.hold = threading.Event()  # a load waits for it
        self.hold.set()
        self.loading = threading.Event()
        self.is_abandoned = False
        self.told: list[str] = []
        self.model: Model | None = None
        self.ready: ShardEngine | None = None

    def choose(
        self,
        announcements: Sequence[Announcement],
        now: Target,
        now_ms: int,
        stuck: Collection[PeerId],
    ) -> Target | None:
        return Target(self.manifest or now.manifest, self.span) if self.span else None

    def fetch(self, target: Target) -> bool:
        return self.beside

    def load(self, target: Target) -> ShardEngine:
        self.loading.set()
        self.hold.wait()
        if self.is_abandoned or target.span in self.fails:
            raise BadModel(f"there is no {target.span}")
        ready, self.ready = self.ready, None
        return ready or load_shard(self.directory, target.span, dtype="float32")

    def describe(self, target: Target, engine: ShardEngine) -> Model:
        assert self.model is not None
        return self.model

    def abandon(self) -> None:
        self.is_abandoned = True
        self.hold.set()

    def arrived(self, target: Target) -> None:
        self.told.append(f"at {target.span}")

    def tell(self, line: str) -> None:
        self.told.append(line)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def built(directory: Path, tmp_path: Path):
    """Blocks 0:3 on one host."""
    network = MemoryNetwork(seed=5, faults=Faults(delay_s=(0.01, 0.015)))

    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(directory, tmp_path, over_memory, (0, 3)) as made:
        yield made


async def mover(
    built: Swarm,
    at: tuple[int, int],
    to: tuple[int, int] | None = None,
    pace: Pace = QUICK,
    **how: bool,
) -> tuple[LocalNode, Wishes]:
    """A node that serves blocks and would rather serve others."""
    wishes = Wishes(built.directory, to, **how)
    wishes.model = built.model()
    [local] = await built.start(at, elsewhere=wishes, pace=pace)
    return local, wishes


async def until(holds: Callable[[], object]) -> None:
    await gossiping.until(lambda: bool(holds()), timeout_s=60)


def knows(local: LocalNode, other: LocalNode) -> Span | None:
    """Where one node believes the other to be."""
    said = local.node.gossip.table.get(other.node.peer_id, wall_ms())
    return said.span if said else None


def ask(built: Swarm):
    prompt = built.tokenizer.encode("Tell me about hands.")
    return built.request(prompt, max_tokens=N, sampling=WANDERING, ignore_eos=True)


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "after the drain"])
async def test_an_answer_under_way_ends_with_the_right_text(built: Swarm, beside: bool):
    pair = [await mover(built, (3, 6), beside=beside) for _ in range(2)]
    (one, _), (other, _) = pair
    await until(lambda: knows(one, other) and knows(other, one))
    async with built.client("before") as client:
        expected = await whole(client.generate(ask(built)))
    for _, wishes in pair:
        wishes.ready = load_shard(built.directory, Span(0, 2), dtype="float32")

    async with built.client("during") as client, client.generate(ask(built)) as run:
        async for event in run:
            if isinstance(event, Routed):
                used = next(p for p in pair if p[0].node.peer_id == event.route[1].peer)
            if isinstance(event, Token) and event.index == 2:
                local, wishes = used
                old = weakref.ref(local.node.serving)
                wishes.span = Span(0, 2)
            if isinstance(event, Finished):
                result = event.result
    await until(lambda: local.node.mover.moves == 1)
    await until(lambda: knows(built.nodes[0], local) == Span(0, 2))
    async with built.client("after") as client:
        again = await whole(client.generate(ask(built)))

    assert result.token_ids == again.token_ids == expected.token_ids
    assert result.route[1].peer == next(p[0].node.peer_id for p in pair if p[0] is not local)
    assert (local.node.state, local.node.sessions.draining) == (State.SERVING, False)
    assert local.node.status()["span"] == [0, 2]
    assert local.node.status()["moving"] == {"doing": "", "moves": 1, "stayed": ""}
    assert old() is None, "what served the old span still takes memory"


async def test_a_load_that_fails_beside_costs_nothing(built: Swarm):
    local, wishes = await mover(built, (0, 3), (1, 4))
    wishes.fails.add(Span(1, 4))
    serving = local.node.serving

    await until(lambda: local.node.mover.stayed)

    assert "1:4 cannot be had: there is no 1:4" in local.node.mover.stayed
    assert local.node.serving is serving
    assert local.node.state is State.SERVING


async def test_a_load_that_fails_after_the_drain_brings_the_old_span_back(built: Swarm):
    local, wishes = await mover(built, (0, 3), beside=False)
    await until(lambda: knows(local, built.nodes[0]))
    wishes.fails.add(Span(1, 4))
    wishes.span = Span(1, 4)

    await until(lambda: local.node.mover.stayed)

    assert "1:4 could not be loaded: there is no 1:4" in local.node.mover.stayed
    assert (local.node.serving.span, local.node.state) == (Span(0, 3), State.SERVING)
    assert local.node.mover.moves == 0


async def test_a_node_that_can_load_nothing_any_more_ends_with_the_reason(built: Swarm):
    local, wishes = await mover(built, (0, 3), beside=False)
    await until(lambda: knows(local, built.nodes[0]))
    wishes.fails |= {Span(1, 4), Span(0, 3)}
    wishes.span = Span(1, 4)

    with pytest.raises(ExceptionGroup) as ended:
        await local.task
    built.nodes.remove(local)

    assert ended.group_contains(BadModel, match="there is no 0:3")


async def test_while_nothing_is_loaded_a_session_is_refused_and_the_node_says_that_it_moves(
    built: Swarm,
):
    first = built.nodes[0]
    local, wishes = await mover(built, (0, 3), beside=False)
    await until(lambda: knows(local, first))
    wishes.hold.clear()
    wishes.span = Span(1, 4)

    await until(wishes.loading.is_set)
    with pytest.raises(PeerBusy, match="loading other blocks"):
        _ = local.node.sessions
    told, said = local.node.status(), local.node.draft()
    wishes.hold.set()
    await until(lambda: local.node.mover.moves == 1)

    assert (told["state"], told["span"], told["sessions"]) == ("moving", [0, 3], 0)
    assert (said.measured.state, said.span, said.kv_free_bytes) == (State.MOVING, Span(0, 3), 0)
    assert local.node.draft().span == Span(1, 4)


async def test_the_last_host_of_a_block_stays_and_says_why(built: Swarm):
    local, wishes = await mover(built, (3, 6), (0, 3))
    await until(lambda: knows(local, built.nodes[0]))

    await until(lambda: local.node.mover.stayed)

    assert "nobody else would serve blocks 3, 4, 5 meanwhile" in local.node.mover.stayed
    assert any("3:6 stay" in line for line in wishes.told)
    assert local.node.serving.span == Span(3, 6)


async def test_of_two_that_go_at_once_one_stays(built: Swarm):
    pair = [await mover(built, (3, 6), pace=CAREFUL) for _ in range(2)]
    (one, _), (other, _) = pair
    await until(lambda: knows(one, other) and knows(other, one))
    for _, wishes in pair:
        wishes.span = Span(0, 3)

    await until(lambda: one.node.mover.moves + other.node.mover.moves == 1)
    await until(lambda: one.node.mover.stayed or other.node.mover.stayed)

    spans = {one.node.serving.span, other.node.serving.span}
    assert spans == {Span(0, 3), Span(3, 6)}


async def test_whoever_must_leave_does_not_wait_for_a_load(built: Swarm):
    local, wishes = await mover(built, (0, 3), (1, 4))
    wishes.hold.clear()
    await until(wishes.loading.is_set)

    async with asyncio.timeout(4):
        await built.stop(local)

    assert wishes.is_abandoned


async def test_a_node_goes_over_to_another_model(built: Swarm, tmp_path: Path):
    other = add_byte_tokenizer(write_checkpoint(tmp_path / "other", seed=11))
    manifest = make_manifest(other)
    local, wishes = await mover(built, (0, 3))
    await until(lambda: knows(local, built.nodes[0]))
    wishes.directory = other
    wishes.model = replace(built.model(), digest=manifest.digest, name="other")
    wishes.manifest, wishes.span = manifest.digest, Span(0, 6)

    await until(lambda: local.node.mover.moves == 1)
    async with built.client() as client:
        answer = await whole(client.generate(replace(ask(built), manifest=manifest.digest)))

    assert [(step.peer, step.span) for step in answer.route] == [(local.node.peer_id, Span(0, 6))]
    assert local.node.status()["model"] == "other"
    assert local.node.draft().manifest == manifest.digest


class Placed(Wishes):
    """Goes where the scheduler's placement says."""

    def __init__(self, built: Swarm, n_blocks: int) -> None:
        super().__init__(built.directory, None)
        self.n_blocks, self.model = n_blocks, built.model(capacity_blocks=2)
        self.peer_id = PeerId("")

    def choose(
        self,
        announcements: Sequence[Announcement],
        now: Target,
        now_ms: int,
        stuck: Collection[PeerId],
    ) -> Target | None:
        span = choose_move(
            announcements,
            manifest=now.manifest,
            n_blocks=self.n_blocks,
            capacity_blocks=len(now.span),
            peer_id=self.peer_id,
            now_ms=now_ms,
            stuck=stuck,
        )
        return Target(now.manifest, span) if span else None


async def test_nodes_that_all_took_the_same_blocks_come_to_cover_all(built: Swarm):
    """As after a start at the same moment. One move each for two of three is all it takes."""
    n_blocks = built.manifest.n_blocks
    placed = [Placed(built, n_blocks) for _ in range(3)]
    trio = [(await built.start((0, 2), elsewhere=one, pace=CAREFUL))[0] for one in placed]
    await until(lambda: all(len(local.node.announcements()) == 4 for local in trio))
    await built.stop(built.nodes[0])
    for local, one in zip(trio, placed, strict=True):
        one.peer_id = local.node.peer_id  # from now on they look

    def covered() -> set[int]:
        spans = [local.node.target.span for local in trio if local.node.state is State.SERVING]
        return {block for span in spans for block in range(span.start, span.stop)}

    await until(lambda: len(covered()) == n_blocks)
    async with built.client() as client:
        answer = await whole(client.generate(ask(built)))

    assert len(answer.token_ids) == N
    assert sum(local.node.mover.moves for local in trio) <= 3

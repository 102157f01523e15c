"""A node that gives way: its sessions end or go on elsewhere, all hear why, and it comes back."""

import asyncio
import time
from pathlib import Path

import pytest

from manyhands.condition import Seen, condition_of
from node.manners import Hours, Pause, Sensed, Wishes, local_minute
from node.pausing import HAND_OVER_S, Pausing
from node.settings import NodeSettings
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.measured import MAX_WHY_CHARS, Measured, State
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import Finished, Token
from tests.checkpoints import write_checkpoint
from tests.gossiping import until
from tests.local_swarm import LocalNode, add_byte_tokenizer, swarm, whole

N, LONG = 60, 200  # tokens; a long answer is still being made when an heir is ready


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


class Machine:
    """What its sensors say, by script."""

    def __init__(self) -> None:
        self.sensed = Sensed(on_battery=False, idle_s=1e6)

    def sense(self, wishes: Wishes) -> Sensed:
        return self.sensed


@pytest.fixture
def machine() -> Machine:
    return Machine()


def over_memory(network: MemoryNetwork):
    return lambda identity: network.transport(identity, OPEN_SWARM_ID)


def manners(machine: Machine, **wishes: object) -> dict[str, object]:
    """Settings of a node that looks at it often."""
    return {
        "wishes": Wishes(**wishes),  # type: ignore[arg-type]
        "sense": machine.sense,
        "sense_every_s": 0.01,
    }


def told(by: LocalNode, of: LocalNode) -> Announcement | None:
    return by.node.gossip.table.get(of.node.identity.peer_id, wall_ms())


def state(by: LocalNode, of: LocalNode) -> State | None:
    seen = told(by, of)
    return seen.measured.state if seen else None


def slow_down(local) -> None:
    """Its steps take as long as on a machine where an heir is ready before an answer is over."""
    engine = local.node.serving.engine
    step = engine.step

    def slowly(items):
        time.sleep(0.01)
        return step(items)

    engine.step = slowly


async def test_a_session_goes_on_elsewhere_and_the_node_comes_back_by_itself(
    model, tmp_path, machine
):
    async with swarm(model, tmp_path, over_memory(MemoryNetwork())) as pair:
        [one] = await pair.start((0, 6), **manners(machine, when_idle_s=600))
        await pair.engine(Span(0, 6))  # loaded ahead: the answer would be over before it is
        slow_down(one)
        async with pair.client() as client:
            request = pair.request([5, 6], max_tokens=LONG, ignore_eos=True)
            expected = (await whole(client.generate(request))).token_ids
            async with client.generate(request) as run:
                async for event in run:
                    if isinstance(event, Token) and event.index == 3:
                        [other] = await pair.start((0, 6))
                        machine.sensed = Sensed(idle_s=1.0)
                    if isinstance(event, Finished):
                        result = event.result
        await until(lambda: state(other, one) is State.PAUSED, timeout_s=5)
        paused = told(other, one)
        refusal = one.node.sessions._away()

        machine.sensed = Sensed(idle_s=1e6)
        await until(lambda: state(other, one) is State.SERVING, timeout_s=5)
        status = one.node.status()

    assert result.token_ids == expected
    assert (result.handovers, result.failovers) == (1, 0)
    assert "this node is paused: in use" in str(refusal)
    assert paused.measured.paused == "in use"
    assert 0 < paused.measured.back_ms - wall_ms() < 600_000
    [why] = condition_of(paused, Seen()).why
    assert why.startswith("paused: in use; back at ")
    assert status["paused"] is None


async def test_a_session_that_finds_nobody_else_ends_where_it_began(model, tmp_path, machine):
    async with swarm(model, tmp_path, over_memory(MemoryNetwork())) as alone:
        [node] = await alone.start((0, 6), **manners(machine, pauses_on_battery=True))
        async with alone.client() as client:
            request = alone.request([5, 6], max_tokens=N, ignore_eos=True)
            expected = (await whole(client.generate(request))).token_ids
            async with client.generate(request) as run:
                async for event in run:
                    if isinstance(event, Token) and event.index == 3:
                        machine.sensed = Sensed(on_battery=True)
                        await until(lambda: node.node.state is State.PAUSED, timeout_s=5)
                    if isinstance(event, Finished):
                        result = event.result

    assert result.token_ids == expected
    assert (result.failovers, result.handovers) == (0, 0)


async def test_a_node_outside_its_hours_is_paused_from_its_first_word_on(model, tmp_path, machine):
    minute = local_minute(wall_ms() / 1000)
    start = (minute + 60) % (24 * 60)
    hours = Hours(((start, start + 1),))

    async with swarm(model, tmp_path, over_memory(MemoryNetwork())) as alone:
        [node] = await alone.start((0, 6), **manners(machine, hours=hours))
        await until(lambda: node.node.state is State.PAUSED, timeout_s=5)
        status = node.node.status()

    assert "outside its hours" in status["paused"]["why"]
    assert 3400 < status["paused"]["back_s"] - wall_ms() / 1000 < 7300  # a clock may change


class Heard:
    """A node that remembers what it was told."""

    def __init__(self) -> None:
        self.asked: list[float | None] = []
        self.n_said = 0

    def say_again(self) -> None:
        self.n_said += 1

    def ask_to_go(self, left_s: float | None) -> None:
        self.asked.append(left_s)


async def test_an_owner_pauses_it_by_hand_and_no_answer_is_dropped(model, tmp_path):
    async with swarm(model, tmp_path, over_memory(MemoryNetwork())) as alone:
        [node] = await alone.start((0, 6))
        pausing = node.node.pausing
        async with alone.client() as client:
            request = alone.request([5, 6], max_tokens=N, ignore_eos=True)
            expected = (await whole(client.generate(request))).token_ids
            async with client.generate(request) as run:
                async for event in run:
                    if isinstance(event, Token) and event.index == 3:
                        pausing.hold(Pause("by its owner", wall_ms() / 1000 + 600))
                        was = node.node.state
                    if isinstance(event, Finished):
                        result = event.result
        refusal = node.node.sessions._away()
        pausing.release()

        assert was is State.PAUSED
        assert node.node.state is State.SERVING
        assert "paused: by its owner" in str(refusal)
        assert result.token_ids == expected


async def test_a_pause_by_hand_ends_by_itself_when_its_time_is_over():
    heard = Heard()
    pausing = Pausing(heard, NodeSettings())
    looking = asyncio.create_task(pausing.run())
    await asyncio.sleep(0)

    pausing.hold(Pause("by its owner", wall_ms() / 1000 + 0.05))
    assert pausing.why == "by its owner"
    await until(lambda: pausing.pause is None, timeout_s=5)
    looking.cancel()

    assert heard.asked == [HAND_OVER_S, None]
    assert heard.n_said == 2


async def test_a_pause_by_hand_ends_on_time_however_seldom_the_machine_is_looked_at(machine):
    settings = NodeSettings(**manners(machine, pauses_on_battery=True) | {"sense_every_s": 3600.0})
    pausing = Pausing(Heard(), settings)
    looking = asyncio.create_task(pausing.run())
    await asyncio.sleep(0)

    pausing.hold(Pause("by its owner", wall_ms() / 1000 + 0.05))
    await until(lambda: pausing.pause is None, timeout_s=5)
    looking.cancel()


@pytest.mark.parametrize("n_ranges", [3, 16, 23])
def test_a_reason_with_any_number_of_hours_can_be_announced(n_ranges):
    hours = Hours.parse(",".join(f"{hour}:30-{hour + 1}:15" for hour in range(n_ranges)))
    pausing = Pausing(Heard(), NodeSettings())
    why = f"by its owner and outside its hours, {hours}"

    pausing.hold(Pause(why))

    announced = Measured(state=State.PAUSED, **pausing.said()).paused
    assert announced == why or (len(announced) == MAX_WHY_CHARS and announced[-1] == "…")
    assert announced[:-1] == why[: len(announced) - 1]
    assert pausing.why == why, "the owner is told all of it"


def test_a_drain_asks_nobody_to_go_until_it_becomes_a_pause():
    heard = Heard()
    pausing = Pausing(heard, NodeSettings())

    pausing.hold(Pause("draining", None, hands_over=False))
    assert heard.asked == []
    pausing.hold(Pause("by its owner"))
    pausing.release()

    assert heard.asked == [HAND_OVER_S, None]


def test_pauses_together_end_with_the_later_one():
    hours, hand = Pause("outside its hours", 200.0), Pause("by its owner", 100.0, hands_over=False)

    assert hours.and_also(hand) == Pause("outside its hours and by its owner", 200.0)
    assert hours.and_also(Pause("in use")).back_s is None


def test_a_pause_hides_no_leave_and_no_move():
    pausing = Pausing(Heard(), NodeSettings())
    pausing.pause = Pause("in use")

    assert pausing.state(State.SERVING) is State.PAUSED
    assert pausing.state(State.DRAINING) is State.DRAINING
    assert pausing.state(State.MOVING) is State.MOVING

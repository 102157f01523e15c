"""What a caller sees of an answer that comes late, breaks, or has nobody left to read it."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from manyhands.gateway import stream
from manyhands.gateway.answers import Answers, CallerLeft, Observer
from manyhands.gateway.asked import ChatAsked
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import Bounds, Gateway
from manyhands.gateway.grants import Caller
from manyhands.gateway.policy import Upstream
from manyhands.gateway.relayed import MAX_AHEAD, Passing, Relayed
from manyhands.gateway.reply import Reply
from manyhands.gateway.shapes import Chat
from manyhands.gateway.speaking import Speech
from manyhands.gateway.upstream import Opened, Used
from manyhands.replies.dialect import PLAIN
from protocol.errors import PeerBusy, SwarmIncomplete
from scheduler.request import Finished
from tests.gateway.scripted import END, ROUTED, A, B, Client, Connection, result

SERVED: Any = SimpleNamespace(digest="ab" * 32, pinned="tiny@abababab", tokenizer=None)
REQUESTS: Any = [SimpleNamespace(prompt_ids=(1, 2, 3), capacity=5, model="tiny")]
ONE, TWO = Caller("one", "1"), Caller("two", "2")
SPEECH = Speech(ids=(1, 2, 3), dialect=PLAIN)
LOST = SwarmIncomplete([(3, 5)], model="tiny")
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}


class Counting(Observer):
    def __init__(self) -> None:
        self.running, self.endings = 0, list[tuple[str, str]]()

    def began(self, n_choices: int) -> None:
        self.running += n_choices

    def ended(self, index: int, reason: str, code: str) -> None:
        self.running -= 1
        self.endings.append((reason, code))


@asynccontextmanager
async def begun(
    client: Client, connection: Connection, observer: Observer | None = None, n: int = 1
) -> AsyncIterator[Answers]:
    answers = Answers(cast("Any", client), REQUESTS * n, observer)
    async with asyncio.TaskGroup() as tasks:
        answers.start(tasks, connection.receive)
        try:
            yield answers
        finally:
            answers.leave()


async def streamed(client: Client, connection: Connection, **asked: object) -> str:
    async with begun(client, connection) as answers:
        body = ChatAsked.model_validate(ASKED | asked)
        reply = Reply(Chat("tiny", SERVED, SPEECH), SERVED, body, REQUESTS)
        response = stream.EventStream(answers, reply, {})
        await response({"type": "http"}, connection.receive, connection.send)
    return connection.text


async def test_a_failure_before_the_first_token_keeps_its_own_status():
    async with begun(Client([ROUTED, PeerBusy("", "full")]), Connection()) as answers:
        with pytest.raises(ApiError) as refused:
            await answers.ready(5)

    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    assert refused.value.headers()["retry-after"] == "1"


async def test_a_failure_after_the_first_token_is_a_frame_and_there_is_no_done():
    text = await streamed(Client([ROUTED, A, LOST]), Connection())

    assert '"code":"swarm_incomplete"' in text
    assert "blocks 3:5" in text
    assert "[DONE]" not in text


async def test_a_mistake_of_ours_ends_a_stream_as_an_error_without_its_words():
    text = await streamed(Client([ROUTED, A, ValueError("secret")]), Connection())

    assert '"code":"internal_error"' in text
    assert "secret" not in text
    assert "[DONE]" not in text


async def test_a_long_prefill_is_waited_for_so_long_and_then_pinged(monkeypatch):
    client, connection = Client([ROUTED, 0.2, A, END]), Connection()

    async with begun(client, connection) as answers:
        began = asyncio.get_running_loop().time()
        await answers.ready(0.02)
        held_s = asyncio.get_running_loop().time() - began
        told = await answers.next(0.01)  # the route
        quiet = await answers.next(0.01)  # what becomes a comment

    assert held_s < 0.15
    assert (told, quiet) == ([(0, ROUTED)], [])


async def test_without_a_chain_the_status_is_held_until_there_is_one_or_an_error():
    async with begun(Client([0.05, LOST]), Connection()) as answers:
        with pytest.raises(ApiError, match="3:5"):
            await answers.ready(0.001)


async def test_a_caller_who_leaves_has_all_its_answers_cancelled_and_settled():
    client, connection, counts = Client([ROUTED, A, 60.0], [60.0]), Connection(), Counting()

    async with begun(client, connection, counts, n=2) as answers:
        await answers.ready(5)
        connection.gone.set()
        await answers.over.wait()
        assert await answers.next()  # what was told before it left
        with pytest.raises(CallerLeft):
            await answers.next()

    assert client.log == ["settled", "settled"]
    assert counts.running == 0
    assert counts.endings == [("cancelled", "")] * 2


async def test_a_prompt_counts_from_the_first_route_on_for_a_caller_who_leaves():
    gateway = Gateway(cast("Any", SERVED), Bounds(drain_s=1))

    async with gateway.serving(cast("Any", Client([60.0], [ROUTED, 60.0]))):
        for caller in (ONE, TWO):
            answers = gateway.ask(REQUESTS, Connection().receive, caller=caller)
            assert not await answers.next(0.02) or caller is TWO
            answers.leave()

    spent = gateway.allowances.spending.in_all
    assert (spent("1").tokens, spent("2").tokens) == (0, 3)


async def test_a_reader_that_reads_nothing_is_given_up():
    slow = Connection(stuck_after=2)
    real, stream.STUCK_S = stream.STUCK_S, 0.05
    client = Client([ROUTED, A, 0.01, B, 60.0])
    try:
        await streamed(client, slow)
    finally:
        stream.STUCK_S = real

    assert client.log == ["settled"]


BIG = Upstream(url="http://127.0.0.1:1/v1", model="m")


def relayed(*waits_s: float, observer: Observer | None = None) -> Relayed:
    """An upstream's stream of as many words as there are waits before them."""

    def told(word: str, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": reason}
        return {"choices": [choice]}

    async def words() -> AsyncGenerator[dict[str, Any], None]:
        for wait_s in waits_s:
            await asyncio.sleep(wait_s)
            yield told("word")
        yield told("", "stop")

    @asynccontextmanager
    async def opening() -> AsyncIterator[Opened]:
        used.is_due = True
        yield Opened("big", [told("first")], math.inf, words())

    used = Used(3, 5)
    return Relayed(opening(), BIG, used, 1, observer, streams=True)


async def test_an_upstreams_answer_that_nobody_reads_is_over_for_all_who_count_it():
    counts, slow = Counting(), Connection(stuck_after=2)
    answers = relayed(*[0.001] * 200, 60.0, observer=counts)
    body = ChatAsked.model_validate(ASKED)
    real, stream.STUCK_S = stream.STUCK_S, 0.05
    try:
        async with asyncio.TaskGroup() as tasks:
            answers.start(tasks, slow.receive)
            response = stream.EventStream(answers, Passing(body, dict, "id"), {})
            await response({"type": "http"}, slow.receive, slow.send)
    finally:
        stream.STUCK_S = real

    assert (counts.running, counts.endings) == (0, [("cancelled", "")])
    assert len(answers._told) <= MAX_AHEAD  # the upstream waited, too


async def test_upstreams_answers_take_room_and_are_waited_for_as_the_swarms_are():
    gateway = Gateway(cast("Any", SERVED), Bounds(drain_s=0.2, max_running=2, max_per_key=1))

    async with asyncio.TaskGroup() as tasks:
        async with gateway.serving(cast("Any", Client([ROUTED, 60.0]))):
            quick, slow = relayed(0.05), relayed(60.0)
            for answers, caller in ((quick, ONE), (slow, TWO)):
                gateway.relay(answers, Connection().receive, caller)
                await answers.ready(5)
            with pytest.raises(ApiError, match="being made"):
                gateway.relay(relayed(), Connection().receive, Caller())
            gateway.bounds = Bounds(drain_s=0.2, max_per_key=1)
            with pytest.raises(ApiError, match="a key may"):
                gateway.ask(REQUESTS, Connection().receive, caller=ONE)
            assert gateway.n_running == 2

            async def read(answers: Relayed) -> int:
                n = 0
                while not answers.is_over:
                    n += len(await answers.next())
                return n

            whole, cut = tasks.create_task(read(quick)), tasks.create_task(refusal_of(read(slow)))
        with pytest.raises(ApiError, match="ending"):
            gateway.relay(relayed(), Connection().receive, ONE)

    assert (whole.result(), cut.result().code) == (3, "shutting_down")
    assert gateway.n_running == 0
    spent = gateway.allowances.spending.in_all
    assert (spent("1").tokens, spent("1").answers, spent("2").answers) == (3, 1, 1)


async def test_choices_are_told_apart_and_the_end_comes_once():
    one, two = [ROUTED, A, 0.01, B, END], [ROUTED, A, Finished(result("a", 1))]

    async with begun(Client(one, two), Connection(), n=2) as answers:
        body = ChatAsked.model_validate({**ASKED, "n": 2})
        reply = Reply(Chat("tiny", SERVED, SPEECH), SERVED, body, answers.requests)
        frames = []
        while not answers.is_over:
            frames += [*reply.frames(await answers.next())]

    texts = [frame.decode() for frame in frames]
    assert sum('"role":"assistant"' in text for text in texts) == 2
    assert sum('"finish_reason":"stop"' in text for text in texts) == 2
    assert sum('"manyhands"' in text for text in texts) == 1


async def test_a_gateway_that_ends_lets_answers_finish_and_cuts_off_the_rest():
    gateway = Gateway(cast("Any", SERVED), Bounds(drain_s=0.1))
    quick, slow = [ROUTED, A, 0.03, END], [ROUTED, A, 60.0]

    async with asyncio.TaskGroup() as tasks:
        async with gateway.serving(cast("Any", Client(quick, slow))):
            first = gateway.ask(REQUESTS, Connection().receive)
            second = gateway.ask(REQUESTS, Connection().receive)
            await asyncio.gather(first.ready(5), second.ready(5))

            async def read(answers: Answers) -> list[object]:
                told: list[object] = []
                while not answers.is_over:
                    told += await answers.next()
                return told

            whole, cut = tasks.create_task(read(first)), tasks.create_task(refusal_of(read(second)))
        with pytest.raises(ApiError, match="ending"):
            gateway.ask(REQUESTS, Connection().receive)

    assert (0, END) in whole.result()
    assert cut.result().code == "shutting_down"
    assert gateway.n_running == 0


async def refusal_of(reading: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await reading
    return refused.value


async def test_more_answers_than_there_is_room_for_are_told_to_come_back():
    gateway = Gateway(cast("Any", SERVED), Bounds(max_running=1, drain_s=0))

    with pytest.raises(ApiError) as early:
        gateway.ask(REQUESTS, Connection().receive)
    async with gateway.serving(cast("Any", Client([ROUTED, 60.0]))):
        gateway.ask(REQUESTS, Connection().receive)
        with pytest.raises(ApiError) as full:
            gateway.ask(REQUESTS, Connection().receive)

    assert (early.value.code, full.value.code) == ("starting", "overloaded")


async def test_one_key_leaves_room_for_the_others():
    gateway = Gateway(cast("Any", SERVED), Bounds(max_per_key=1, drain_s=0))

    async with gateway.serving(cast("Any", Client([ROUTED, 60.0], [ROUTED, 60.0]))):
        gateway.ask(REQUESTS, Connection().receive, caller=ONE)
        with pytest.raises(ApiError) as refused:
            gateway.ask(REQUESTS, Connection().receive, caller=ONE)
        gateway.ask(REQUESTS, Connection().receive, caller=TWO)

    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    assert refused.value.headers()["retry-after"] == "1"


@pytest.mark.parametrize(
    ("bounds", "most"),
    [(Bounds(max_per_key=2, drain_s=0), 2), (Bounds(max_running=1, drain_s=0), 1)],
)
async def test_more_choices_than_ever_fit_are_no_matter_of_patience(bounds: Bounds, most: int):
    gateway = Gateway(cast("Any", SERVED), bounds)

    async with gateway.serving(cast("Any", Client([ROUTED, 60.0]))):
        with pytest.raises(ApiError, match=f"up to {most} answers") as refused:
            gateway.ask([*REQUESTS] * 3, Connection().receive, caller=ONE)

    assert (refused.value.status, refused.value.code) == (400, "unsupported_value")
    assert refused.value.param == "n"

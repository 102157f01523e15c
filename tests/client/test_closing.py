"""A client that is closed while others ask: each of them hears that it was, and nobody waits on."""

import asyncio
import gc
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from manyhands import AsyncClient, Client
from manyhands.client.backend import Backend
from manyhands.client.http_backend import HttpBackend
from manyhands.client.swarm_backend import Running
from manyhands.client.values import Json
from manyhands.errors import Overloaded, error_of
from manyhands.gateway.answers import Answers
from manyhands.gateway.faults import ApiError
from manyhands.portal import Portal
from protocol.errors import UsageError
from tests.client.elsewhere import Reply, elsewhere


class Endless:
    """A generation that says nothing."""

    cost_ncr = 0

    async def __aenter__(self) -> "Endless":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> "Endless":
        return self

    async def __anext__(self) -> None:
        await asyncio.Event().wait()


async def stays() -> Any:
    await asyncio.Event().wait()


async def test_whoever_waits_for_an_answer_hears_that_its_owner_ended_it():
    running, client = Running(), SimpleNamespace(generate=lambda _: Endless())
    answers = Answers(client, [SimpleNamespace(prompt_ids=(1,))])  # type: ignore[arg-type,list-item]  # what it reads
    answers.start(running, stays)
    waiting = asyncio.create_task(answers.next())
    await asyncio.sleep(0)

    await running.end()

    with pytest.raises(ApiError, match="ended before") as ended:
        async with asyncio.timeout(5):
            await waiting
    assert ended.value.code == "shutting_down"
    assert answers.over.is_set()


class Silent(Backend):
    """A gateway that never answers; what is under way when it closes fails as a connection does."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self.asked = asyncio.Event()

    async def open(self) -> None:
        pass

    async def whole(self, path: str, body: Json) -> Json:
        self.asked.set()
        await self._over.wait()
        raise error_of("swarm_unreachable", "http://127.0.0.1: ")

    async def stream(self, path: str, body: Json) -> AsyncGenerator[Json, None]:
        yield await self.whole(path, body)

    async def models(self) -> list[Json]:
        return [await self.whole("", {})]

    async def coverage(self, model: str) -> Json:
        return await self.whole("", {})

    async def aclose(self) -> None:
        self._over.set()


@pytest.mark.parametrize("ask", [
    lambda client: client.generate("Once"),
    lambda client: client.stream("Once").result(),
    lambda client: client.models(),
    lambda client: client.swarm.coverage("a-model"),
    lambda client: client.chat.completions.create(messages=[]),
])  # fmt: skip
async def test_what_is_cut_by_closing_says_that_the_client_was_closed(ask):
    client = AsyncClient(base_url="http://127.0.0.1:9")
    client._backend = silent = Silent()
    asking = asyncio.create_task(ask(client))
    await silent.asked.wait()

    await client.aclose()

    with pytest.raises(UsageError, match="closed before the answer was complete"):
        await asking


async def test_a_gateway_s_client_that_pauses_asks_no_more_once_it_is_closed():
    backend = HttpBackend("http://127.0.0.1:9", "", timeout_s=5.0, max_retries=2)
    await backend.open()
    asking = asyncio.create_task(backend.whole("/v1/completions", {}))
    await asyncio.sleep(0.1)  # refused; the first pause is longer

    await backend.aclose()

    with pytest.raises(Overloaded, match="closed"):
        await asking


def test_a_call_that_races_with_the_end_of_its_loop_is_told_and_does_not_hang():
    async def nothing() -> None:
        pass

    def call_until_it_fails(portal: Portal, heard: list[BaseException]) -> None:
        try:
            while True:
                portal.call(nothing())
        except BaseException as error:
            heard.append(error)

    heard: list[BaseException] = []
    for _ in range(100):
        portal = Portal()
        thread = threading.Thread(target=call_until_it_fails, args=(portal, heard), daemon=True)
        thread.start()
        portal.call(nothing())

        portal.close()

        thread.join(timeout=5)
        assert not thread.is_alive()
    assert {type(error) for error in heard} == {UsageError}
    assert len(heard) == 100


def test_a_call_under_way_fails_when_the_loop_ends():
    portal, heard = Portal(), list[BaseException]()
    begun = threading.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    def ask() -> None:
        with pytest.raises(UsageError, match="closed meanwhile") as error:
            portal.call(endless())
        heard.append(error.value)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    begun.wait(5)

    portal.close()

    thread.join(timeout=5)
    assert len(heard) == 1


def test_a_forgotten_client_ends_though_its_own_thread_collects_it():
    client = Client(base_url="http://127.0.0.1:9")
    portal, circle = client._portal, [client]
    circle.append(circle)  # type: ignore[arg-type]

    async def collect() -> None:
        gc.collect()

    gc.disable()
    try:
        del client, circle
        portal.call(collect())
    finally:
        gc.enable()

    portal._thread.join(timeout=10)
    assert portal.is_closed
    assert not portal._thread.is_alive()


def test_whoever_forgets_a_client_does_not_wait_until_it_is_closed():
    client = Client(base_url="http://127.0.0.1:9")
    thread, settled = client._portal._thread, threading.Event()

    class Settling(Silent):
        async def aclose(self) -> None:
            await asyncio.to_thread(settled.wait)

    client._client._backend = Settling()
    client.__enter__()

    del client

    assert thread.is_alive()
    settled.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


PROGRAM = r"""
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from manyhands import Client

def ask(name):
    (model,) = client.models()
    sys.stdout.write(f"{name} {model.id}\n")  # in one piece

client = Client(base_url=sys.argv[1])
pool = ThreadPoolExecutor(1)
pool.submit(ask, "first")
pool.submit(ask, "queued")
threading.Thread(target=ask, args=("thread",)).start()
threading.Timer(0.3, ask, args=("later",)).start()
"""


async def test_a_program_whose_threads_still_ask_ends_after_they_were_answered():
    models = {"data": [{"id": "tiny", "root": "tiny@1"}]}
    async with elsewhere(lambda _: Reply.of(models)) as url:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, url, stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(60):
            said, complaints = await program.communicate()

    assert complaints == b""
    assert sorted(said.decode().split()) == sorted(
        ["first", "queued", "thread", "later"] + ["tiny"] * 4
    )

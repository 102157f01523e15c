"""A swarm itself, for the clients: no HTTP, no gateway, the same bodies and the same answers.

In: bodies, as the HTTP API takes them; `manyhands.gateway.prepared` makes requests of them here as
there. Out: plain values. Models are looked up in the swarm when they are first asked for.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from manyhands.asking import open_client
from manyhands.client.backend import CHAT, EMBED, ROUTE, TEXT, Backend
from manyhands.client.values import Json
from manyhands.errors import ModelNotFound, SwarmIncomplete, error_of, of_failure
from manyhands.gateway.answers import Answers
from manyhands.gateway.asked import ChatAsked, CompletionAsked, Drawn, EmbeddingsAsked
from manyhands.gateway.catalogue import DEFAULT, DIGEST_CHARS, Served
from manyhands.gateway.complaints import invalid
from manyhands.gateway.coverage_told import view_of
from manyhands.gateway.explaining import RouteAsked, explain
from manyhands.gateway.faults import ApiError
from manyhands.gateway.gateway import SETTLE_S, Bounds
from manyhands.gateway.prepared import Prepared, prepare_chat, prepare_text
from manyhands.gateway.readiness import serving_per_block
from manyhands.gateway.second_runs import refused
from manyhands.gateway.vectors import prepare_vectors, unit
from manyhands.governing.gate import terms_for
from manyhands.home import Home
from manyhands.running import join_addresses
from manyhands.thin import fetch_client_model
from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.membership.rules import Rules
from protocol.text import Tokenizer
from scheduler.request import GenerationRequest, GenerationResult

if TYPE_CHECKING:
    from scheduler.client import Client
    from scheduler.permission import Terms

Asked = TypeVar("Asked", bound=BaseModel)


class SwarmBackend(Backend):
    """default: what `default` means; empty: the only model that the swarm serves."""

    def __init__(
        self,
        home: Home,
        join: Sequence[Address],
        *,
        channel: str = "stable",
        default: str = "",
        timeout_s: float = 600.0,
        tunnels: bool = False,
    ) -> None:
        self._home, self._join, self._channel = home, tuple(join), channel
        self._default, self._tunnels = default, tunnels
        self._bounds = Bounds(timeout_s=timeout_s)
        self._served: dict[str, Served] = {}
        self._terms: dict[bytes, Terms] = {}
        self._looking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by name
        self._stack, self._tasks = AsyncExitStack(), Running()
        self._client: Client | None = None

    async def open(self) -> None:
        with _told():
            self._join = join_addresses(self._home, self._join)
            self._client = await self._stack.enter_async_context(
                open_client(
                    self._home, self._join, self._channel, self._require, tunnels=self._tunnels
                )
            )

    async def whole(self, path: str, body: Json) -> Json:
        with self._answering(body):
            if path == ROUTE:
                asked = _checked(RouteAsked, body)
                return await explain(self._opened, await self._find(asked.model), asked)
            if path == EMBED:
                return await self._embed(_checked(EmbeddingsAsked, body))
            prepared = await self._prepare(path, body)
            answers, reply = self._ask(prepared.requests), prepared.reply()
            try:
                while not answers.is_over:
                    reply.hear(await answers.next())
                return reply.whole()
            finally:
                await _left(answers)

    async def stream(self, path: str, body: Json) -> AsyncGenerator[Json, None]:
        with self._answering(body):
            prepared = await self._prepare(path, body)
            answers, reply = self._ask(prepared.requests), prepared.reply()
            try:
                while not answers.is_over:
                    for chunk in reply.chunks(await answers.next()):
                        yield chunk
                for chunk in reply.last_chunks():
                    yield chunk
            finally:
                await _left(answers)

    async def models(self) -> list[Json]:
        with _told():
            live = (await self._opened.directory()).live()
            names = {peer.model: peer.manifest.hex() for peer in live if peer.span}
            known = {each.digest: each.max_positions for each in self._served.values()}
            return [
                {
                    "id": name,
                    "root": f"{name}@{digest[:DIGEST_CHARS]}",
                    "max_model_len": known.get(digest),
                }
                for name, digest in sorted(names.items())
            ]

    async def coverage(self, model: str) -> Json:
        with self._answering({"model": model}):
            served = await self._find(model)
            hosts = (await self._opened.directory()).hosts(served.model.manifest.digest)
            return view_of(served, serving_per_block(served, hosts))

    async def aclose(self) -> None:
        self._client = None  # whoever still looks for a model begins nothing any more
        await self._tasks.end()
        await self._stack.aclose()

    @property
    def _opened(self) -> "Client":
        if self._client is None:
            raise ApiError("shutting_down", "this client is closed")
        return self._client

    async def _prepare(self, path: str, body: Json) -> Prepared:
        if path == CHAT:
            chat = _checked(ChatAsked, body)
            _require_once(chat)
            return await prepare_chat(await self._find(chat.model), chat, self._bounds)
        assert path == TEXT
        text = _checked(CompletionAsked, body)
        _require_once(text)
        return await prepare_text(await self._find(text.model), text, self._bounds)

    async def _embed(self, asked: EmbeddingsAsked) -> Json:
        vectors = await prepare_vectors(await self._find(asked.model), asked, self._bounds)
        results: list[GenerationResult] = []
        for part in vectors.parts():
            answers = self._ask(part)
            try:
                results += await answers.results()
            finally:
                await _left(answers)
        data = [{"embedding": unit(result.vector).tolist()} for result in results]
        return vectors.rest(results) | {"data": data}

    def _ask(self, requests: Sequence[GenerationRequest]) -> Answers:
        answers = Answers(self._opened, requests)
        answers.start(self._tasks, _stays)
        return answers

    async def _find(self, name: str) -> Served:
        """The model of this name, looked up once; again, when it turned out not to be served."""
        try:
            async with asyncio.timeout(self._bounds.timeout_s), self._looking[name]:
                if name not in self._served:
                    self._served[name] = await self._fetched(name)
                return self._served[name]
        except TimeoutError as error:
            message = f"{name} was not found within {self._bounds.timeout_s:g} s"
            raise error_of("timeout", message) from error

    async def _fetched(self, name: str) -> Served:
        asked = (self._default or await self._only()) if name == DEFAULT else name
        model = await fetch_client_model(
            asked, self._home, self._join, self._channel, tunnels=self._tunnels
        )
        tokenizer = await asyncio.to_thread(Tokenizer.from_directory, model.directory)
        self._terms[model.manifest.digest] = terms_for(self._home, model.manifest)
        return Served(model, tokenizer, model.adapter)

    @contextmanager
    def _answering(self, body: Json) -> Iterator[None]:
        try:
            with _told():
                yield
        except (SwarmIncomplete, ModelNotFound):
            self._served.pop(str(body.get("model")), None)  # by now another may have the name
            raise

    async def _only(self) -> str:
        names = sorted({peer.model for peer in (await self._opened.directory()).live()})
        if len(names) == 1:
            return names[0]
        served = f"serves {', '.join(names)}" if names else "serves no model"
        hint = "name one: model=…, of an answer or of the client"
        raise error_of("model_not_found", f"the swarm {served}", hint=hint, param="model")

    def _require(self, rules: Rules, digest: bytes) -> None:
        self._terms[digest](rules, digest)


class Running:
    """Tasks that end when the client does."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def create_task(self, work: Coroutine[Any, Any, None], /) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _left(answers: Answers) -> None:
    """Cancel what still runs, and let it settle."""
    answers.leave()
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            await answers.over.wait()


async def _stays() -> Any:
    """There is no connection that a caller could drop."""
    await asyncio.Event().wait()


def _checked(kind: type[Asked], body: Json) -> Asked:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise invalid(error.errors()) from None


def _require_once(asked: Drawn) -> None:
    if asked.manyhands is not None and asked.manyhands.runs_again:
        raise refused("a gateway runs answers again, or generate --audit shadow; not this client")


@contextmanager
def _told() -> Iterator[None]:
    """Failures become what the Python API raises."""
    try:
        yield
    except (ManyhandsError, ApiError) as error:
        if (failure := of_failure(error)) is error:
            raise
        raise failure from error

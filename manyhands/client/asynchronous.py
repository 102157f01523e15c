"""`AsyncClient`: a swarm, or a gateway, for code that awaits.

In: where to ask, then prompts and messages. Out: answers, whole or as they come.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, Unpack, overload

from manyhands.client.backend import CHAT, EMBED, ROUTE, TEXT, Backend
from manyhands.client.chat_values import ChatCompletion, ChatCompletionChunk
from manyhands.client.choices import (
    ChatChoices,
    Drawing,
    Extension,
    chat_body,
    completion_body,
    embedding_body,
)
from manyhands.client.reading import understood
from manyhands.client.streams import AsyncAnswerStream, AsyncStream
from manyhands.client.values import (
    Answer,
    Coverage,
    Embeddings,
    Json,
    Model,
    answer_of,
    coverage_of,
    embeddings_of,
    models_of,
)
from manyhands.errors import RequestError
from protocol.errors import UsageError

DEFAULT = "default"
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


class AsyncClient:
    """Asks a swarm directly, as one of its clients, or a gateway at `base_url`.

    Nothing is opened before the first question. Use `async with`, or `aclose` at the end.

    Args:
        join: addresses of the swarm; none: whoever serves on this home.
        home: where this client's key and ledger are; by default as for the command line.
        swarm: one that this home has joined, by name; None: the home's default.
        channel: of models, where the swarm releases them: stable, candidate or dev.
        model: what `default` means; None: the only model that the swarm serves.
        tunnels: run libp2p too, for peers to which nothing else leads.
        base_url: of a gateway, with `/v1` or without; then none of the above but `model` counts.
        api_key: for that gateway.
        timeout_s: for one answer. max_retries: of a gateway that has no room now.
    """

    def __init__(
        self,
        *,
        join: Iterable[str] = (),
        home: str | PathLike[str] | None = None,
        swarm: str | None = None,
        channel: str = "stable",
        model: str | None = None,
        tunnels: bool = False,
        base_url: str | None = None,
        api_key: str = "",
        timeout_s: float = 600.0,
        max_retries: int = 2,
    ) -> None:
        self._model = model
        if base_url is not None:
            from manyhands.client.http_backend import HttpBackend

            self._backend: Backend = HttpBackend(
                base_url, api_key, timeout_s=timeout_s, max_retries=max_retries
            )
        else:
            self._backend = _of_swarm(
                list(join), home, swarm, channel, model or "", timeout_s, tunnels=tunnels
            )
        self._opening, self._is_open, self._is_closed = asyncio.Lock(), False, False
        self.chat, self.swarm = AsyncChat(self), AsyncSwarm(self)

    @classmethod
    async def join(
        cls,
        invite: str,
        *,
        name: str | None = None,
        home: str | PathLike[str] | None = None,
        model: str | None = None,
        timeout_s: float = 600.0,
    ) -> Self:
        """A client of the swarm that this invite (`mh://…`) is for, which this home belongs to
        from then on: later `AsyncClient(swarm=name)` does, as on the command line.

        Args:
            name: what to call the swarm here; None: its own name.
            home, model, timeout_s: as for any client.

        Raises:
            ManyhandsError: it is no invite, or is worth nothing any more.
        """
        from manyhands.redeeming import redeem

        base = _base(home)
        redeemed = await redeem(invite, name, base)
        return cls(home=base, swarm=redeemed.name, model=model, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what runs, settle it, and leave. Then nothing can be asked any more."""
        self._is_closed = True
        async with self._opening:
            if self._is_open:
                await self._backend.aclose()
                self._is_open = False

    async def generate(
        self, prompt: str | Sequence[int], *, model: str | None = None, **drawing: Unpack[Drawing]
    ) -> Answer:
        """Complete a prompt, given as text or as token ids.

        Raises:
            RequestError: it was refused, or failed; see `manyhands.errors`.
        """
        body = completion_body(prompt, self._named(model), drawing)
        return understood(answer_of, await self._whole(TEXT, body))

    def stream(
        self, prompt: str | Sequence[int], *, model: str | None = None, **drawing: Unpack[Drawing]
    ) -> AsyncAnswerStream:
        """The same, token by token; `result()` gives the whole at the end."""
        body = completion_body(prompt, self._named(model), drawing)
        return AsyncAnswerStream(self._chunks(TEXT, body | STREAMED))

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        pooling: Literal["mean", "last"] | None = None,
        manyhands: Extension | None = None,
    ) -> Embeddings:
        """A vector of length 1 for each text.

        Args:
            pooling: `mean` or `last`; None: as the model's files say, else the mean.
            manyhands: who may serve.
        """
        body = embedding_body(texts, self._named(model), pooling, manyhands)
        return understood(embeddings_of, await self._whole(EMBED, body))

    async def models(self) -> list[Model]:
        """What can be asked for now."""
        backend = await self._opened()
        with self._unless_closed():
            listed = await backend.models()
        return understood(models_of, listed)

    async def explain_route(
        self,
        model: str | None = None,
        *,
        tokens: int = 1024,
        manyhands: Extension | None = None,
    ) -> Json:
        """Which chain an answer would get now, what each part of it costs, and what keeps others
        out: as `manyhands route explain --json` prints it. Nothing is opened.

        Args:
            tokens: room for so many, prompt and answer.
            manyhands: who may serve.
        """
        body = {"model": self._named(model), "tokens": tokens, "manyhands": {**(manyhands or {})}}
        return await self._whole(ROUTE, body)

    def _named(self, model: str | None) -> str:
        return model or self._model or DEFAULT

    async def _opened(self) -> Backend:
        async with self._opening:
            if self._is_closed:
                raise UsageError("this client is closed", hint="make another one")
            if not self._is_open:
                await self._backend.open()
                self._is_open = True
        return self._backend

    async def _whole(self, path: str, body: Json) -> Json:
        backend = await self._opened()
        with self._unless_closed():
            return await backend.whole(path, body)

    async def _chunks(self, path: str, body: Json) -> AsyncGenerator[Json, None]:
        chunks = (await self._opened()).stream(path, body)
        try:
            with self._unless_closed():
                async for chunk in chunks:
                    yield chunk
        finally:
            await chunks.aclose()

    @contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """What fails once the client is closed failed for that reason, whatever it looks like."""
        try:
            yield
        except RequestError as error:
            if not self._is_closed:
                raise
            message = "this client was closed before the answer was complete"
            raise UsageError(message, hint="make another one") from error


class AsyncSwarm:
    """`client.swarm`: who serves, as far as this client sees."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def coverage(self, model: str | None = None) -> Coverage:
        """How many peers serve every block of a model now.

        Raises:
            RequestError: there is no such model, or nobody to ask.
        """
        client = self._client
        backend = await client._opened()
        with client._unless_closed():
            return understood(coverage_of, await backend.coverage(client._named(model)))


class AsyncChat:
    """`client.chat.completions`, as OpenAI's client has it."""

    def __init__(self, client: AsyncClient) -> None:
        self.completions = AsyncCompletions(client)


class AsyncCompletions:
    """`client.chat.completions`: conversations, with the model's own chat template."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @overload
    async def create(
        self,
        *,
        messages: Sequence[Any],
        model: str | None = None,
        stream: Literal[False] = False,
        **choices: Unpack[ChatChoices],
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self,
        *,
        messages: Sequence[Any],
        model: str | None = None,
        stream: Literal[True],
        **choices: Unpack[ChatChoices],
    ) -> AsyncStream[ChatCompletionChunk]: ...

    async def create(
        self,
        *,
        messages: Sequence[Any],
        model: str | None = None,
        stream: bool = False,
        **choices: Unpack[ChatChoices],
    ) -> ChatCompletion | AsyncStream[ChatCompletionChunk]:
        """Answer a conversation; with `stream=True`, chunk by chunk.

        Raises:
            RequestError: it was refused, or failed; see `manyhands.errors`.
        """
        client = self._client
        body = chat_body(messages, client._named(model), choices)
        if stream:
            chunks = client._chunks(CHAT, body | {"stream": True})
            return AsyncStream(chunks, ChatCompletionChunk.model_validate)
        return understood(ChatCompletion.model_validate, await client._whole(CHAT, body))


def _of_swarm(
    join: Sequence[str],
    home: str | PathLike[str] | None,
    swarm: str | None,
    channel: str,
    model: str,
    timeout_s: float,
    *,
    tunnels: bool,
) -> Backend:
    from manyhands.client.swarm_backend import SwarmBackend
    from manyhands.home import Home, home_of
    from protocol.address import Address

    base = _base(home)
    addresses: list[Address] = [Address.parse(text) for text in join]
    return SwarmBackend(
        Home.at(home_of(base, swarm)),
        addresses,
        channel=channel,
        default=model,
        timeout_s=timeout_s,
        tunnels=tunnels,
    )


def _base(home: str | PathLike[str] | None) -> Path:
    from manyhands.home import default_home

    return Path(home).expanduser() if home is not None else default_home()

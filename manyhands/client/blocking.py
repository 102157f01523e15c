"""`Client`: a swarm, or a gateway, for code that waits.

An `AsyncClient` on an event loop in a thread of its own: it works in notebooks, and from several
threads at once.
"""

from collections.abc import Coroutine, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from manyhands.client import closing
from manyhands.client.asynchronous import AsyncClient
from manyhands.client.chat_values import ChatCompletion, ChatCompletionChunk
from manyhands.client.choices import ChatChoices, Drawing, Extension
from manyhands.client.streams import AnswerStream, Stream
from manyhands.client.values import Answer, Coverage, Embeddings, Json, Model
from manyhands.portal import Portal

T = TypeVar("T")


class Client:
    """Asks a swarm directly, as one of its clients, or a gateway at `base_url`.

    Nothing is opened before the first question. Use `with`, or `close` at the end; one that is
    forgotten closes itself, at the latest when the program ends and none of its threads asks any
    more. The arguments are those of `AsyncClient`.
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
        self._client = AsyncClient(
            join=join,
            home=home,
            swarm=swarm,
            channel=channel,
            model=model,
            tunnels=tunnels,
            base_url=base_url,
            api_key=api_key,
            timeout_s=timeout_s,
            max_retries=max_retries,
        )
        self._portal = Portal()
        closing.remember(self, self._portal, self._client)

    @classmethod
    def join(
        cls,
        invite: str,
        *,
        name: str | None = None,
        home: str | PathLike[str] | None = None,
        model: str | None = None,
        timeout_s: float = 600.0,
    ) -> Self:
        """A client of the swarm that this invite (`mh://…`) is for, which this home belongs to
        from then on: later `Client(swarm=name)` does, as on the command line.

        Args:
            name: what to call the swarm here; None: its own name.
            home, model, timeout_s: as for any client.

        Raises:
            ManyhandsError: it is no invite, or is worth nothing any more.
        """
        from manyhands.home import default_home
        from manyhands.redeeming import redeem

        base, portal = Path(home).expanduser() if home is not None else default_home(), Portal()
        try:
            redeemed = portal.call(redeem(invite, name, base))
        finally:
            portal.close()
        return cls(home=base, swarm=redeemed.name, model=model, timeout_s=timeout_s)

    @property
    def swarm(self) -> "Swarm":
        """`client.swarm.coverage`: who serves."""
        return Swarm(self)

    @property
    def chat(self) -> "Chat":
        """`client.chat.completions`, as OpenAI's client has it."""
        return Chat(self)  # made anew: a circle would be left to the garbage collector

    def __enter__(self) -> Self:
        self._call(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs, settle it, and leave. Then nothing can be asked any more."""
        closing.close(self._portal, self._client)

    def generate(
        self, prompt: str | Sequence[int], *, model: str | None = None, **drawing: Unpack[Drawing]
    ) -> Answer:
        """Complete a prompt, given as text or as token ids.

        Raises:
            RequestError: it was refused, or failed; see `manyhands.errors`.
        """
        return self._call(self._client.generate(prompt, model=model, **drawing))

    def stream(
        self, prompt: str | Sequence[int], *, model: str | None = None, **drawing: Unpack[Drawing]
    ) -> AnswerStream:
        """The same, token by token; `result()` gives the whole at the end."""
        inner = self._client.stream(prompt, model=model, **drawing)
        return AnswerStream(self._portal, inner, self)

    def embed(
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
        return self._call(
            self._client.embed(texts, model=model, pooling=pooling, manyhands=manyhands)
        )

    def models(self) -> list[Model]:
        """What can be asked for now."""
        return self._call(self._client.models())

    def explain_route(
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
        return self._call(self._client.explain_route(model, tokens=tokens, manyhands=manyhands))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return self._portal.call(work)


class Swarm:
    """`client.swarm`: who serves, as far as this client sees."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def coverage(self, model: str | None = None) -> Coverage:
        """How many peers serve every block of a model now.

        Raises:
            RequestError: there is no such model, or nobody to ask.
        """
        client = self._client
        return client._call(client._client.swarm.coverage(model))


class Chat:
    """`client.chat.completions`, as OpenAI's client has it."""

    def __init__(self, client: Client) -> None:
        self.completions = Completions(client)


class Completions:
    """`client.chat.completions`: conversations, with the model's own chat template."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @overload
    def create(
        self,
        *,
        messages: Sequence[Any],
        model: str | None = None,
        stream: Literal[False] = False,
        **choices: Unpack[ChatChoices],
    ) -> ChatCompletion: ...

    @overload
    def create(
        self,
        *,
        messages: Sequence[Any],
        model: str | None = None,
        stream: Literal[True],
        **choices: Unpack[ChatChoices],
    ) -> Stream[ChatCompletionChunk]: ...

    def create(
        self,
        *,
        messages: Sequence[Any],
        model: str | None = None,
        stream: bool = False,
        **choices: Unpack[ChatChoices],
    ) -> ChatCompletion | Stream[ChatCompletionChunk]:
        """Answer a conversation; with `stream=True`, chunk by chunk.

        Raises:
            RequestError: it was refused, or failed; see `manyhands.errors`.
        """
        client = self._client
        inner = client._client.chat.completions
        if stream:
            chunks = client._call(
                inner.create(messages=messages, model=model, stream=True, **choices)
            )
            return Stream(client._portal, chunks, client)
        return client._call(inner.create(messages=messages, model=model, **choices))

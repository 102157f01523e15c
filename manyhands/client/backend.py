"""Where a client's questions go: to a swarm, or to a gateway in front of one."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator

from manyhands.client.values import Json

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
EMBED, ROUTE = "/v1/embeddings", "/api/v1/route"
COVERAGE = "/api/v1/coverage"


class Backend(ABC):
    """Bodies in, as in the HTTP API; plain values out, as in the HTTP API.

    Every method raises `manyhands.errors.RequestError` for what is refused or fails.
    """

    @abstractmethod
    async def open(self) -> None:
        """Before anything else; once."""

    @abstractmethod
    async def whole(self, path: str, body: Json) -> Json:
        """One answer, complete."""

    @abstractmethod
    def stream(self, path: str, body: Json) -> AsyncGenerator[Json, None]:
        """An answer, chunk by chunk. Closing the generator cancels it, and waits until it has."""

    @abstractmethod
    async def models(self) -> list[Json]:
        """What can be asked for."""

    @abstractmethod
    async def coverage(self, model: str) -> Json:
        """How many hosts its blocks have."""

    @abstractmethod
    async def aclose(self) -> None:
        """Cancel what runs, settle it, and leave."""

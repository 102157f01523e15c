"""What the doctor looks at: a home, and what a node or client on it would be asked to do.

In: the command line, read, and the environment. Out: the same as values, and what several checks
need and one look brings: the model, and who was met at the addresses. Nothing is created: a home
that is not there yet stays away, and a client without a key meets others under a passing one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from manyhands.doctor.finding import in_thread
from manyhands.home import KEY_NAME, Home
from manyhands.running import addresses_of, found_running
from node.share import Share
from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.messages import Span

if TYPE_CHECKING:
    from manyhands.doctor.meeting import Met
    from manyhands.models import Model
    from manyhands.own_words import OwnWords
    from manyhands.party import Party

T = TypeVar("T")

USUAL_PORT = 31400
OWN_S = 2.0  # for our own node, on this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line, read."""

    home: Path
    model: str = ""  # empty: nothing in particular
    span: Span | None = None
    join: tuple[Address, ...] = ()
    listen: tuple[str, int] | None = None
    dtype: str = "auto"
    quantize: str = "none"
    device: str = "auto"
    kv_cache_bytes: int = 1 << 30
    max_vram: Share | None = None
    max_memory: Share | None = None
    is_full: bool = False  # read everything, not samples
    environment: Mapping[str, str] = field(default_factory=dict)


class Case:
    """One examination. Belongs to the event loop it is made in."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.home = Home(asked.home)
        self._begun: dict[str, asyncio.Task[Any]] = {}

    @property
    def endpoint(self) -> tuple[str, int]:
        """Where a node would listen."""
        return self.asked.listen or ("0.0.0.0", USUAL_PORT)

    async def model(self) -> "Model | None":
        """The model that was named; of one on the hub all but the weights.

        Raises:
            ManyhandsError: there is none, it is damaged, or the hub cannot be asked.
        """
        return await self.once("model", lambda: in_thread(self._find_model))

    def _find_model(self) -> "Model | None":
        from manyhands.models import find_model

        return find_model(self.asked.model) if self.asked.model else None

    async def party(self) -> "Party":
        """Who we are to others.

        Raises:
            ManyhandsError: our key or membership cannot be used.
        """
        return await self.once("party", lambda: in_thread(self._open_party))

    def _open_party(self) -> "Party":
        from manyhands.party import Party, open_party
        from protocol.identity import Identity
        from protocol.signing import SigningKey

        has_key = (self.home.client / KEY_NAME).exists()
        if not has_key and not (self.home.root / "membership").exists():
            return Party(self.home, Identity(SigningKey.generate()))
        return open_party(self.home, "client")

    async def met(self) -> "Met":
        """Everybody at the addresses that were given or are remembered.

        Raises:
            ManyhandsError: our key or membership cannot be used.
        """
        from manyhands.doctor.meeting import meet

        return await self.once("met", lambda: meet(self))

    async def own_words(self) -> "OwnWords | None":
        """What the node that runs on this home says of itself; None: none runs, or answers.

        Raises:
            ManyhandsError: our key or membership cannot be used.
        """
        return await self.once("own words", self._ask_own_node)

    async def _ask_own_node(self) -> "OwnWords | None":
        from manyhands.own_words import fetch_own_words

        serving = [each for each in found_running(self.home) if each.command == "serve"]
        addresses = [address for record in serving for address in addresses_of(record)]
        transport = (await self.party()).transport()
        for address in addresses:
            with suppress(ManyhandsError):
                connection = await transport.dial(address, timeout_s=OWN_S)
                try:
                    return await fetch_own_words(connection)
                finally:
                    await connection.aclose()
        return None

    async def aclose(self) -> None:
        for task in self._begun.values():
            task.cancel()
        await asyncio.gather(*self._begun.values(), return_exceptions=True)

    async def once(self, name: str, begin: Callable[[], Awaitable[T]]) -> T:
        """What several checks need is begun by the first; a deadline of one stops no other."""

        async def work() -> T:
            return await begin()

        if name not in self._begun:
            self._begun[name] = asyncio.create_task(work())
        result: T = await asyncio.shield(self._begun[name])
        return result

"""A client of a swarm that tells what a test wrote down, and a connection that keeps all."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

from scheduler.request import Finished, GenerationResult, Routed, Token

COST_NCR = 10
Step = object  # an event, an error, or seconds to wait


def result(text: str = "ab", n_tokens: int = 2) -> GenerationResult:
    return GenerationResult(
        text=text,
        token_ids=tuple(range(n_tokens)),
        finish_reason="stop",
        n_prompt=3,
        ttft_ms=1.0,
        tpot_ms=1.0,
        total_ms=2.0,
        route=(),
        failovers=0,
        receipts=(),
        seed=1,
    )


ROUTED, A, B, END = Routed(()), Token(0, 5, "a"), Token(1, 6, "b"), Finished(result())


class Generation:
    def __init__(self, steps: Sequence[Step], log: list[str]) -> None:
        self._steps, self._log = steps, log
        self.cost_ncr = COST_NCR

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._log.append("settled")

    async def __aiter__(self) -> AsyncIterator[Any]:
        for step in self._steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, Exception):
                raise step
            else:
                yield step


class Client:
    """Its generations tell these steps, one script after the other."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self._scripts, self.log = list(scripts), list[str]()

    def generate(self, request: object) -> Generation:
        return Generation(self._scripts.pop(0), self.log)


class Connection:
    """An ASGI connection; `gone` ends it."""

    def __init__(self, stuck_after: int | None = None) -> None:
        self.gone, self.sent = asyncio.Event(), list[dict[str, Any]]()
        self._stuck_after = stuck_after

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self._stuck_after is not None and len(self.sent) >= self._stuck_after:
            await asyncio.Event().wait()
        self.sent.append(message)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

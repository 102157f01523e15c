"""What this machine runs again by itself, for several audits, one after the other in one thread.

In: ids and a border, or rows and a span. Out: rows. Weights are loaded for the first. A run that
nobody waits for any more ends after the rows at hand, and is not begun where it has not been: those
behind it get their turn.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from manyhands.models import Model
from protocol.messages import Span
from protocol.profile import Profile
from protocol.wire import Rows

if TYPE_CHECKING:
    from node.engine import ShardEngine

KEPT = 64  # runs, of which several windows are looked at

Waiting = Callable[[], AbstractContextManager[None]]
"""Entered for as long as others have the thread."""
IsGivenUp = Callable[[], bool]


class OwnEngine:
    """Of one model with all its weights here, in one execution profile."""

    def __init__(self, model: Model, profile: Profile) -> None:
        self._model, self._profile = model, profile
        self._thread = ThreadPoolExecutor(1, "runs again")
        self._engine: ShardEngine | None = None
        self._made: dict[tuple[int, tuple[int, ...]], Rows] = {}

    async def rerun(self, ids: Sequence[int], border: int, waiting: Waiting = nullcontext) -> Rows:
        """Rows at block `border`."""
        key = border, tuple(ids)
        if key not in self._made:

            def run(is_given_up: IsGivenUp) -> Rows:
                from node.recomputing import run_again

                engine = self._loaded()
                return run_again(engine, ids, [border], is_given_up=is_given_up).rows[border]

            made = await self._in_turn(run, waiting)
            if len(self._made) >= KEPT:
                self._made.clear()
            self._made[key] = made
        return self._made[key]

    async def rerun_rows(self, rows: Rows, span: Span, waiting: Waiting = nullcontext) -> Rows:
        """What these rows become in the blocks of `span`."""

        def run(is_given_up: IsGivenUp) -> Rows:
            from node.recomputing import run_rows

            engine = self._loaded()
            return run_rows(engine, rows, span.start, span.stop, is_given_up=is_given_up)

        return await self._in_turn(run, waiting)

    async def _in_turn(self, run: Callable[[IsGivenUp], Rows], waiting: Waiting) -> Rows:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        given_up = threading.Event()

        def work() -> Rows:
            loop.call_soon_threadsafe(begun.set)
            return run(given_up.is_set)

        made = loop.run_in_executor(self._thread, work)
        try:
            with waiting():
                await begun.wait()
            return await made
        finally:  # a thread cannot be cancelled: it is told, and looks
            given_up.set()
            made.cancel()

    def _loaded(self) -> "ShardEngine":
        from node.engine import load_shard

        if self._engine is None:
            profile = self._profile
            self._engine = load_shard(
                self._model.directory, None, dtype=profile.dtype, quantize=profile.quantization
            )
        return self._engine

"""A node that changes its span while it serves: it looks, asks, loads, says so, drains and swaps.

In: the table of announcements, and from the front door what the swarm wants of this node and how
another span is brought here (`Elsewhere`). Out: the same peer with another span. Sessions under way
end or are handed over as when a node leaves. While memory allows, the new span is loaded beside
the old one, which serves on; else after the drain. What fails leaves the span that was served, or
brings it back, and is tried again later and later. When to look and who may go: `moving_rules.py`.
"""

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from node.engine import ShardEngine
from node.moving_rules import Pace, Target, as_it_will_be, is_whole, movers, orphans
from node.serving import Model
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError
from protocol.identity import PeerId
from protocol.measured import State

log = logging.getLogger(__name__)

T = TypeVar("T")

RECENT_S = 3600.0
STUCK_S = 900.0
MOST_OF_TIME = 0.05  # that looking may take, however large the swarm is
ABANDON_S = 5.0  # that a thread is given to notice that nobody waits for it any more
FAILURES = (ManyhandsError, OSError, RuntimeError, MemoryError)  # of loading; torch's own included


class Elsewhere(Protocol):
    """What a node serves instead, as the front door knows it. All of it is called on a thread."""

    def choose(
        self,
        announcements: Sequence[Announcement],
        now: Target,
        now_ms: int,
        stuck: Collection[PeerId],
    ) -> Target | None:
        """What this node should serve instead of `now`; None: stay. Pure, but may take its time.

        Args:
            now_ms: the wall clock when this move was first thought of.
            stuck: who has been on the move for so long that nobody need wait for it.
        """

    def fetch(self, target: Target) -> bool:
        """Bring its weights to this machine; whether they can be loaded beside what is loaded.

        Raises:
            ManyhandsError: they cannot be had, or would not fit even alone.
        """

    def load(self, target: Target) -> ShardEngine:
        """Load it and prove it right.

        Raises:
            ManyhandsError, OSError, RuntimeError, MemoryError: it cannot be served.
        """

    def describe(self, target: Target, engine: ShardEngine) -> Model:
        """What goes with it; measures the engine, so nothing else should run."""

    def abandon(self) -> None:
        """Called on the loop: nobody waits any more, so whatever is under way should end."""

    def tell(self, line: str) -> None:
        """A line for the operator."""

    def arrived(self, target: Target) -> None:
        """Called on the loop: this is what is served now."""


class Movable(Protocol):
    """The node, as its mover needs it."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def target(self) -> Target:
        """What is served now, or was until a moment ago."""

    @property
    def state(self) -> State: ...

    def announcements(self) -> Sequence[Announcement]:
        """The live ones, its own among them."""

    def become(self, state: State) -> None:
        """Say so to all, and take new sessions or none."""

    async def end_serving(self) -> None:
        """Drain, stop, and hold on to nothing of it."""

    async def begin_serving(self, engine: ShardEngine, model: Model) -> None: ...


class Stayed(Exception):
    """A move came to nothing before anything was lost; says why."""


class Mover:
    """One node's; `run` it beside the node."""

    def __init__(
        self,
        node: Movable,
        elsewhere: Elsewhere,
        *,
        pace: Pace | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._node, self._elsewhere = node, elsewhere
        self._pace, self._rng = pace or Pace(), rng or random.Random()
        self._tried_at_s: deque[float] = deque()  # moves and failures of the last hour
        self._n_looks = 0
        self._moving_since_s: dict[PeerId, float] = {}
        self._decided_ms = 0
        self._looks_s = deque([0.0], maxlen=2)  # what the last ones took; the first one imports
        self.doing = ""
        self.moves = 0
        self.stayed = ""  # why the last attempt came to nothing

    def status(self) -> dict[str, Any]:
        return {"doing": self.doing, "moves": self.moves, "stayed": self.stayed}

    async def run(self) -> None:
        """Look and move until cancelled.

        Raises:
            ManyhandsError: the span was given up, and nothing can be loaded any more.
        """
        rest_s = 0.0
        while True:
            await asyncio.sleep(max(rest_s + self._look_s(), min(self._looks_s) / MOST_OF_TIME))
            rest_s = await self._look()

    def _look_s(self) -> float:
        whole = is_whole(self._node.announcements(), self._node.target.manifest)
        return self._pace.look_s(self._n_looks, self._rng, is_whole=whole)

    async def _look(self) -> float:
        """Move if there is reason to; how long to leave it at that."""
        if self._node.state is State.PAUSED:  # whoever uses the machine is not to notice a load
            return 0.0
        self._decided_ms, began_s = wall_ms(), time.monotonic()
        try:
            target = await self._choice(self._node.announcements())
        except Exception:  # a mistake of ours in a plan must not cost the sessions that run
            log.exception("no place could be chosen")
            target = None
        self._looks_s.append(time.monotonic() - began_s)
        self._n_looks += 1
        if target is None:
            return 0.0
        try:
            await self._move(target)
            self.stayed = ""
        except Stayed as reason:
            self.stayed = str(reason)
            self._elsewhere.tell(f"blocks {self._node.target.span} stay: {reason}")
        finally:
            self.doing = ""
        return self._rest_s()

    def _rest_s(self) -> float:
        self._n_looks, now_s = 0, time.monotonic()
        while self._tried_at_s and now_s - self._tried_at_s[0] > RECENT_S:
            self._tried_at_s.popleft()
        self._tried_at_s.append(now_s)
        return self._pace.pause_s(len(self._tried_at_s), self._rng)

    # --- one move ---------------------------------------------------------------------------------

    async def _move(self, target: Target) -> None:
        """
        Raises:
            Stayed: it does not move, and serves as before.
            ManyhandsError: it serves nothing any more.
        """
        node, before = self._node, self._node.target
        other = " of another model" if target.manifest != before.manifest else ""
        self._elsewhere.tell(f"blocks {target.span}{other} are needed more than {before.span}")
        engine = await self._brought(target)
        await self._check(target, node.announcements())
        await self._say_so(target)
        self._do(f"draining blocks {before.span}")
        await node.end_serving()
        try:
            loaded, model = await self._loaded(target, engine)
        except FAILURES as error:
            engine = None
            log.warning("a span could not be loaded", extra={"reason": str(error)})
            loaded, model = await self._loaded(before, None)
            await self._begin(loaded, model)
            raise Stayed(f"{target.span} could not be loaded: {error}") from error
        await self._begin(loaded, model)
        self.moves += 1

    async def _brought(self, target: Target) -> ShardEngine | None:
        """Its weights, and where there is room the engine, while the old span still serves."""
        try:
            self._do(f"fetching blocks {target.span}")
            if not await self._thread(partial(self._elsewhere.fetch, target)):
                return None
            self._do(f"loading blocks {target.span}")
            return await self._thread(partial(self._elsewhere.load, target))
        except FAILURES as error:
            log.warning("a span could not be loaded", extra={"reason": str(error)})
            raise Stayed(f"{target.span} cannot be had: {error}") from error

    async def _say_so(self, target: Target) -> None:
        """Announce the move, and go on only if nobody else's makes it wrong."""
        node = self._node
        gone = movers(node.announcements(), node.peer_id)
        self._do("asking whether any block would be left alone")
        node.become(State.MOVING)
        try:
            await asyncio.sleep(self._pace.settle_s)
            seen = as_it_will_be(node.announcements(), node.peer_id, gone)
            await self._check(target, seen)
        except Stayed:
            node.become(State.SERVING)
            raise

    async def _check(self, target: Target, announcements: Sequence[Announcement]) -> None:
        """
        Raises:
            Stayed: by this table the move is no longer right.
        """
        node = self._node
        alone = orphans(announcements, node.peer_id, node.target, target)
        if alone:
            blocks = ", ".join(map(str, alone))
            raise Stayed(f"nobody else would serve blocks {blocks} meanwhile")
        if await self._choice(announcements) != target:
            raise Stayed(f"{target.span} is no longer what the swarm needs most")

    async def _loaded(
        self, target: Target, engine: ShardEngine | None
    ) -> tuple[ShardEngine, Model]:
        if engine is None:
            self._do(f"loading blocks {target.span}")
            engine = await self._thread(partial(self._elsewhere.load, target))
        self._do(f"measuring blocks {target.span}")
        return engine, await self._thread(partial(self._elsewhere.describe, target, engine))

    async def _begin(self, engine: ShardEngine, model: Model) -> None:
        await self._node.begin_serving(engine, model)
        self._node.become(State.SERVING)
        self._elsewhere.tell(f"serving blocks {engine.span} of {model.name}")
        self._elsewhere.arrived(self._node.target)

    async def _choice(self, announcements: Sequence[Announcement]) -> Target | None:
        now, stuck = self._node.target, self._stuck(announcements)
        choose = partial(self._elsewhere.choose, announcements, now, self._decided_ms, stuck)
        target = await self._thread(choose)
        return None if target == now else target

    def _stuck(self, announcements: Sequence[Announcement]) -> frozenset[PeerId]:
        """Who has said for long that it moves, and still does."""
        now_s, since_s = time.monotonic(), self._moving_since_s
        moving = [one.peer_id for one in movers(announcements, self._node.peer_id)]
        self._moving_since_s = {peer: since_s.get(peer, now_s) for peer in moving}
        return frozenset(p for p, s in self._moving_since_s.items() if now_s - s > STUCK_S)

    def _do(self, what: str) -> None:
        self.doing = what
        log.info("moving", extra={"doing": what})

    async def _thread(self, call: Callable[[], T]) -> T:
        """`call` on a thread of its own, which a process that ends does not wait for."""
        done = _on_thread(call)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            self._elsewhere.abandon()
            await asyncio.wait((done,), timeout=ABANDON_S)
            if done.done():
                done.exception()  # nobody cares any more
            raise


def _on_thread(call: Callable[[], T]) -> "asyncio.Future[T]":
    """Unlike the loop's own threads, which it waits for in the end, however long they take."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # a T: there was no error

    def run() -> None:
        result, failure = None, None
        try:
            result = call()
        except BaseException as error:  # it is the caller's, who awaits it
            failure = error
        try:
            loop.call_soon_threadsafe(tell, result, failure)
        except RuntimeError:
            log.debug("a result came after the end")

    threading.Thread(target=run, name="moving", daemon=True).start()
    return done

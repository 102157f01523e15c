"""A node that gives way to its owner: it looks now and then, pauses, and comes back by itself.

In: the rules of `manners.py`, what sensors say, and what the owner says (`hold`, `release`). Out: a
paused node takes no sessions, asks the clients of those it has to go on elsewhere and serves them
until they do, shares no weights, moves nowhere, and announces why and until when. Nothing is cut
off: a session that finds no other host ends here.
"""

import asyncio
import logging
import time
from contextlib import suppress
from functools import reduce
from typing import Any, Protocol

from node.manners import Manners, Pause
from node.settings import NodeSettings
from protocol.errors import PeerBusy
from protocol.identity import PeerId
from protocol.measured import MAX_WHY_CHARS, State
from protocol.transport import CallHandler

log = logging.getLogger(__name__)

HAND_OVER_S = 60.0  # what clients count on when they choose how to go on elsewhere


class Pausable(Protocol):
    """The node, as it is told to give way."""

    def say_again(self) -> None:
        """Whether it takes sessions may have changed."""

    def ask_to_go(self, left_s: float | None) -> None:
        """Ask open sessions to go on elsewhere, and serve them until they do; None: they may
        stay."""


class Pausing:
    """One node's. Without wishes nothing is ever looked at."""

    def __init__(self, node: Pausable, settings: NodeSettings) -> None:
        self._node, self._settings = node, settings
        self._manners = Manners(settings.wishes)
        self._by_manners: Pause | None = None
        self.held: Pause | None = None  # by its owner
        self.pause: Pause | None = None  # by either
        self._told = asyncio.Event()

    def state(self, meant: State) -> State:
        """What a node is that would be this if it did not give way."""
        return State.PAUSED if self.pause is not None and meant is State.SERVING else meant

    def said(self) -> dict[str, Any]:
        """For an announcement."""
        if self.pause is None:
            return {}
        return {"paused": _short(self.pause.why), "back_ms": round((self.pause.back_s or 0) * 1000)}

    def status(self) -> dict[str, object]:
        pause = self.pause
        return {"paused": {"why": pause.why, "back_s": pause.back_s} if pause else None}

    @property
    def why(self) -> str:
        """Empty: it serves."""
        return self.pause.why if self.pause is not None else ""

    def refusal(self) -> PeerBusy:
        assert self.pause is not None
        return PeerBusy("", f"this node is paused: {self.pause.why}", hint="ask another one")

    def unless_paused(self, handler: CallHandler) -> CallHandler:
        """What a paused node does for nobody."""

        async def handle(peer_id: PeerId, request: bytes) -> bytes:
            if self.pause is not None:
                raise self.refusal()
            return await handler(peer_id, request)

        return handle

    def hold(self, pause: Pause) -> None:
        """Its owner wants it to pause now, whatever it was told before."""
        self.held = pause
        self._settle(is_told=True)

    def release(self) -> None:
        """Its owner lets it serve again, as far as its manners do."""
        self.held = None
        self._settle(is_told=True)

    async def run(self) -> None:
        """Look, and pause or come back, until cancelled."""
        wishes = self._settings.wishes
        while True:
            self._told.clear()
            if wishes:
                sensed = await asyncio.to_thread(self._settings.sense, wishes)
                now_s, steady_s = time.time(), time.monotonic()
                self._by_manners = self._manners.look(sensed, now_s=now_s, steady_s=steady_s)
            if self.held and self.held.back_s is not None and time.time() >= self.held.back_s:
                self.held = None
            self._settle()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_look_s()):
                    await self._told.wait()

    def _next_look_s(self) -> float | None:
        """None: nothing changes by itself."""
        looks_s = [self._settings.sense_every_s] if self._settings.wishes else []
        if self.held is not None and self.held.back_s is not None:
            looks_s.append(max(0.0, self.held.back_s - time.time()))
        return min(looks_s, default=None)

    def _settle(self, *, is_told: bool = False) -> None:
        """What both say together. is_told: by the owner, just now; else sensors change the reason
        so often that only beginnings and ends are announced at once."""
        if is_told:
            self._told.set()
        reasons = [pause for pause in (self.held, self._by_manners) if pause is not None]
        before, self.pause = self.pause, reduce(Pause.and_also, reasons) if reasons else None
        if before == self.pause:
            return
        is_new = (before is None) != (self.pause is None)
        if self.pause is None:
            log.warning("serving again")
        elif is_new:
            log.warning("paused", extra={"why": self.pause.why})
        if is_new or is_told:
            self._node.say_again()
        went = before is not None and before.hands_over
        goes = self.pause is not None and self.pause.hands_over
        if went != goes:
            self._node.ask_to_go(HAND_OVER_S if goes else None)


def _short(why: str) -> str:
    """As much of it as an announcement has room for; hours can have any number of ranges."""
    return why if len(why) <= MAX_WHY_CHARS else why[: MAX_WHY_CHARS - 1] + "…"

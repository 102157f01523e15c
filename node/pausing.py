"""A node that gives way to its owner: it looks now and then, pauses, and comes back by itself.

In: the rules of `manners.py`, and what sensors say. Out: a paused node takes no sessions, asks the
clients of those it has to go on elsewhere and serves them until they do, shares no weights, moves
nowhere, and announces why and until when. Nothing is cut off: a session that finds no other host
ends here.
"""

import asyncio
import logging
import time
from typing import Any, Protocol

from node.manners import Manners, Pause
from node.settings import NodeSettings
from protocol.errors import PeerBusy
from protocol.identity import PeerId
from protocol.measured import State
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
    """One node's; `begin` once it has tasks. Without wishes nothing is ever looked at."""

    def __init__(self, node: Pausable, settings: NodeSettings) -> None:
        self._node, self._settings = node, settings
        self._manners = Manners(settings.wishes)
        self.pause: Pause | None = None

    def state(self, meant: State) -> State:
        """What a node is that would be this if it did not give way."""
        return State.PAUSED if self.pause is not None and meant is State.SERVING else meant

    def said(self) -> dict[str, Any]:
        """For an announcement."""
        if self.pause is None:
            return {}
        return {"paused": self.pause.why, "back_ms": round((self.pause.back_s or 0) * 1000)}

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

    async def run(self) -> None:
        """Look, and pause or come back, until cancelled."""
        wishes = self._settings.wishes
        while wishes:
            sensed = await asyncio.to_thread(self._settings.sense, wishes)
            self._take(self._manners.look(sensed, now_s=time.time(), steady_s=time.monotonic()))
            await asyncio.sleep(self._settings.sense_every_s)

    def _take(self, pause: Pause | None) -> None:
        before, self.pause = self.pause, pause
        if (before is None) == (pause is None):
            return
        if pause is not None:
            log.warning("paused", extra={"why": pause.why})
        else:
            log.warning("serving again")
        self._node.say_again()
        self._node.ask_to_go(HAND_OVER_S if pause is not None else None)

"""Whether the swarm lets this node serve what it serves, asked again whenever that may change.

In: a membership, whose state grows and whose clock goes on; the node. Out: a node that is held
takes no sessions, ends those it has as when it leaves, shares no weights, and stays up to hear that
it may go on. A node of a swarm that has no members is never held.
"""

import asyncio
import logging
from typing import Protocol

from node.moving_rules import Target
from protocol.identity import PeerId
from protocol.measured import State
from protocol.membership.gate import Membership
from protocol.membership.governance import Judgement
from protocol.transport import CallHandler

log = logging.getLogger(__name__)


class Governed(Protocol):
    """The node, as it is told what it may do."""

    @property
    def target(self) -> Target:
        """What it serves, or was until a moment ago."""

    @property
    def called(self) -> str:
        """The name under which it announces that."""

    def say_again(self) -> None:
        """Whether it takes sessions may have changed."""

    async def drain(self) -> None:
        """End what runs, in the time that leaving takes."""


class Compliance:
    """One node's; `begin` once it has tasks."""

    def __init__(self, node: Governed, membership: Membership | None) -> None:
        self._node, self._membership = node, membership
        self._drain: asyncio.Task[None] | None = None
        self.judged = Judgement()

    def state(self, meant: State) -> State:
        """What a node is that would be this if it were not held."""
        is_held = bool(self.judged.refused) and meant is State.SERVING
        return State.DRAINING if is_held else meant

    def status(self) -> dict[str, object]:
        flags = [str(flag) for flag in self.judged.flags]
        return {"held": self.judged.refused, "advisories": flags}

    def unless_held(self, handler: CallHandler) -> CallHandler:
        """What a held node does for nobody."""

        async def handle(peer_id: PeerId, request: bytes) -> bytes:
            self.judged.require(self._node.called)
            return await handler(peer_id, request)

        return handle

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Look now, and from now on."""
        self._tasks = tasks
        if self._membership is not None:
            self._membership.watch(self.look)
        self.look()

    def look(self) -> None:
        """What it serves, the rules or the time have changed."""
        if self._membership is None:
            return
        judged = self._membership.judge(self._node.target.manifest, self._node.called)
        before, self.judged = self.judged, judged
        for flag in set(judged.flags) - set(before.flags):
            log.warning("of what is served here: %s", flag)
        if judged.refused == before.refused:
            return
        if self._drain is not None:
            self._drain.cancel()
        self._node.say_again()
        if judged.refused:
            log.warning("held by the swarm: %s", judged.refused)  # the operator's to read
            self._drain = self._tasks.create_task(self._node.drain(), name="held")
        else:
            log.warning("let go by the swarm")

"""What both sides of a transport ask before anything else happens, and what strangers get to hear.

In: who calls, its greeting, what it wants. Out: nothing, or the refusal. Where a gate keeps a
private swarm, every refusal of a stranger is the same one: whether it named another swarm or
version, showed a bad certificate or none, or asked for what does not exist.
"""

import asyncio
from typing import Protocol
from weakref import WeakSet

from protocol.errors import ManyhandsError, MembershipEnded, NotAMember, PeerBusy, PeerRefused
from protocol.guard import Guard, banned
from protocol.identity import PeerId
from protocol.transport.greeting import Greeting
from protocol.transport.interface import Counters, Gate

# A stranger's refusal leaves so long after its call came, whatever was found out about it.
REFUSAL_S = 0.05
SWEEP_S = 0.2  # after verdicts changed: those above the transport have a moment to say why
JOIN_HINT = "ask its people for an invite, then: manyhands swarm join mh://…"
AGAIN = "ask for a new invite, then: manyhands swarm join mh://…"


def to_strangers(listener: PeerId) -> NotAMember:
    """The one thing that a private swarm says to who is not of it."""
    return NotAMember(listener, "it does not talk to strangers", hint=JOIN_HINT)


class Swept(Protocol):
    """A listener or a connection."""

    def sweep(self) -> None:
        """End what may not go on."""


class Admission:
    """Of one transport: what it says of itself, and whom it hears."""

    def __init__(self, greeting: Greeting, gate: Gate | None, peer_id: PeerId) -> None:
        self.gate = gate
        self._greeting, self._peer_id = greeting, peer_id
        self._open: WeakSet[Swept] = WeakSet()
        self._loop: asyncio.AbstractEventLoop | None = None
        if gate is not None:
            gate.watch(self._verdicts_changed)

    def opened(self, each: Swept) -> None:
        """It is swept from now on, for as long as it lives."""
        self._loop = asyncio.get_running_loop()
        self._open.add(each)

    def _verdicts_changed(self) -> None:
        """In whatever thread it was that something was learned."""
        loop = self._loop
        if self._open and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(loop.call_later, SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        for each in tuple(self._open):
            each.sweep()

    @property
    def greeting(self) -> Greeting:
        """What to say now: our credential may have been renewed."""
        return self._greeting.showing(self.gate.credential if self.gate else b"")

    @property
    def is_private(self) -> bool:
        return self.gate is not None and self.gate.is_private

    def refusal(
        self,
        caller: PeerId,
        theirs: Greeting | None,
        method: str,
        counters: Counters,
        *,
        is_offered: bool,
        is_open: bool,
        is_starting: bool = False,
        n_streams: int = 0,
        guard: Guard | None = None,
    ) -> ManyhandsError | None:
        """Why `caller` may not have `method`; None: it may."""
        error = self._refusal(caller, theirs, method, is_open=is_open, n_streams=n_streams)
        if error is None and guard is not None:
            error = guard.refusal(caller, method, n_streams=n_streams, listener=self._peer_id)
            if is_open and error is not None and self.is_private:
                error = to_strangers(self._peer_id)
        if error is None and not is_offered and is_starting:
            error = PeerBusy(self._peer_id, "it is starting", hint="try again shortly")
        elif error is None and not is_offered:
            error = PeerRefused(
                self._peer_id, "it does not offer this", hint="update Manyhands there"
            )
        if error is not None:
            counters.refused += 1
        return error

    def _refusal(
        self, caller: PeerId, theirs: Greeting | None, method: str, *, is_open: bool, n_streams: int
    ) -> ManyhandsError | None:
        mismatch = self._greeting.refusal(theirs, caller=caller, listener=self._peer_id)
        if self.gate is None:
            return mismatch
        try:
            if theirs is None or theirs.swarm_id != self._greeting.swarm_id:
                raise NotAMember(caller, "it greets as no member of this swarm")
            if not is_open:
                self.gate.admit(caller, theirs.credential, method, n_streams=n_streams)
        except (NotAMember, MembershipEnded) as error:
            if self.gate.is_private:
                return to_strangers(self._peer_id)
            return mismatch or error
        except ManyhandsError as error:
            return mismatch or error
        if mismatch is not None and is_open and self.gate.is_private:
            return to_strangers(self._peer_id)
        return mismatch

    def ending(
        self, caller: PeerId, credential: bytes, method: str, guard: Guard | None
    ) -> MembershipEnded | None:
        """What `caller` hears as what it began ends; None: it may go on."""
        try:
            if guard is not None and (ban := guard.bans.of(caller)) is not None:
                raise banned(ban, self._peer_id)
            if self.gate is not None:
                self.gate.keep(caller, credential, method)
        except ManyhandsError as error:
            hint = error.hint or (AGAIN if isinstance(error, MembershipEnded) else "")
            return MembershipEnded(self._peer_id, f"it ended this: {error}", hint=hint)
        return None

    def distrust(self, listener: PeerId, theirs: Greeting, method: str) -> ManyhandsError | None:
        """Why we do not ask `listener` for `method`; None: we do."""
        ours = self._greeting
        mismatch = theirs.refusal(ours, caller=self._peer_id, listener=listener)
        if mismatch is not None or self.gate is None:
            return mismatch
        try:
            self.gate.trust(listener, theirs.credential, method)
        except ManyhandsError as error:
            return error
        return None

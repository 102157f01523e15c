"""What both sides of a transport ask before anything else happens, and what strangers get to hear.

In: who calls, its greeting, what it wants. Out: nothing, or the refusal. Where a gate keeps a
private swarm, every refusal of a stranger is the same one: whether it named another swarm or
version, showed a bad certificate or none, or asked for what does not exist.
"""

from protocol.errors import ManyhandsError, MembershipEnded, NotAMember, PeerRefused
from protocol.identity import PeerId
from protocol.transport.greeting import Greeting
from protocol.transport.interface import Counters, Gate

# A stranger's refusal leaves so long after its call came, whatever was found out about it.
REFUSAL_S = 0.05
JOIN_HINT = "ask its people for an invite, then: manyhands swarm join mh://…"


def to_strangers(listener: PeerId) -> NotAMember:
    """The one thing that a private swarm says to who is not of it."""
    return NotAMember(listener, "it does not talk to strangers", hint=JOIN_HINT)


class Admission:
    """Of one transport: what it says of itself, and whom it hears."""

    def __init__(self, greeting: Greeting, gate: Gate | None, peer_id: PeerId) -> None:
        self.gate = gate
        self._greeting, self._peer_id = greeting, peer_id

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
        n_streams: int = 0,
    ) -> ManyhandsError | None:
        """Why `caller` may not have `method`; None: it may."""
        error = self._refusal(caller, theirs, method, is_open=is_open, n_streams=n_streams)
        if error is None and not is_offered:
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

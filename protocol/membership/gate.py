"""One party's place in its swarm: what it shows to others, and its verdicts about them.

In: the swarm's state, our own certificate, the time. Out: the `Gate` that a transport asks before
anything is done for a peer, and word to whoever watches when verdicts may have changed. All else
about members is values in this package; here they meet a clock.
"""

import time
from collections.abc import Callable, Collection, Sequence
from weakref import WeakMethod

from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.errors import PeerBusy, PeerRefused
from protocol.identity import PeerId
from protocol.membership.governance import Judgement
from protocol.membership.roles import Role, Roles, answered_by, asked_of
from protocol.membership.rules import Channel
from protocol.membership.state import SwarmState
from protocol.rate_limits import Limit, RateLimit

_EVERYBODY = ""  # newcomers share one bucket
_MAX_KNOWN, KNOWN_S = 10_000, 600.0  # guests that are no newcomers


class Membership:
    """See `protocol.transport.Gate`."""

    def __init__(
        self,
        state: SwarmState,
        credential: bytes = b"",
        *,
        now_ms: Callable[[], int] = wall_ms,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self.credential = credential
        self._now_ms, self._now_s = now_ms, now_s
        self._watching: list[WeakMethod[Callable[[], None]]] = []
        self._known: dict[PeerId, float] = {}  # guests, by when they called last
        self._newcomers: tuple[int, RateLimit] | None = None

    @property
    def swarm_id(self) -> bytes:
        return self.state.swarm_id

    @property
    def is_private(self) -> bool:
        return self.state.policy.is_private

    def watch(self, changed: Callable[[], None]) -> None:
        """See `Gate`. `changed` is a method, called for as long as its object lives."""
        self._watching.append(WeakMethod(changed))

    def look_again(self) -> None:
        """Time has passed, or something was learned: let everybody who watches judge anew."""
        self._watching = [each for each in self._watching if each() is not None]
        for each in self._watching:
            if (changed := each()) is not None:
                changed()

    def merge(self, data: bytes) -> bool:
        """See `SwarmState.merge`; what was news has taken effect when this returns."""
        before = self.state.digest
        try:
            self.state.merge(data)
        finally:
            if is_news := self.state.digest != before:
                self.look_again()
        return is_news

    # --- the gate ---------------------------------------------------------------------------------

    def admit(self, caller: PeerId, credential: bytes, method: str, *, n_streams: int) -> None:
        self.keep(caller, credential, method)
        limits = self.state.policy.limits
        if not (limits.newcomers_per_min or limits.streams):
            return
        if self.state.is_guest(caller, credential, self._now_ms()):
            if limits.streams and n_streams >= limits.streams:
                reason = f"a guest may have {limits.streams} streams open, and you have"
                raise PeerBusy("", reason, hint="ask for an invite, or try again later")
            self._greet(caller, limits.newcomers_per_min)

    def keep(self, caller: PeerId, credential: bytes, method: str) -> None:
        self._require(caller, credential, asked_of(method), f"ask for {method}")

    def trust(self, listener: PeerId, credential: bytes, method: str) -> None:
        self._require(listener, credential, answered_by(method), f"answer {method}")

    def may(self, peer_id: PeerId, credential: bytes, role: Role) -> bool:
        """Whether it has this role."""
        try:
            return role in self.state.roles(peer_id, credential, self._now_ms())
        except PeerRefused:
            return False

    def groups_of(self, peer: Announcement) -> frozenset[str]:
        """The trust groups that the certificate in its announcement puts it in."""
        return self.state.groups(peer.peer_id, peer.membership, self._now_ms())

    # --- models -----------------------------------------------------------------------------------

    def judge(
        self,
        manifest: bytes,
        model: str = "",
        *,
        channels: Sequence[Channel] | None = None,
        also: Collection[str] = (),
    ) -> Judgement:
        """See `Governance.judge`."""
        now_ms = self._now_ms()
        return self.state.governance.judge(manifest, model, now_ms, channels, also=also)

    def _require(self, peer_id: PeerId, credential: bytes, wanted: Roles, what: str) -> None:
        held = self.state.roles(peer_id, credential, self._now_ms())
        if not held & wanted:
            names = ", ".join(sorted(held)) or "nothing"
            need = " or ".join(sorted(wanted))
            raise PeerRefused(
                "",
                f"{peer_id} may {names} in swarm {self.state.policy.name}, not {what}",
                hint=f"ask an admin for an invite with the role {need}",
            )

    def _greet(self, guest: PeerId, per_min: int) -> None:
        """Let a guest in that was here lately; of newcomers only so many a minute."""
        now_s = self._now_s()
        if per_min and now_s - self._known.get(guest, float("-inf")) > KNOWN_S:
            if self._newcomers is None or self._newcomers[0] != per_min:
                limit = Limit(per_s=per_min / 60, burst=max(per_min, 1))
                self._newcomers = (per_min, RateLimit(limit))
            if not self._newcomers[1].take(_EVERYBODY, 1.0, now_s):
                reason = f"more than {per_min} newcomers a minute"
                raise PeerBusy("", reason, hint="try again shortly, or ask for an invite")
        self._known.pop(guest, None)
        self._known[guest] = now_s
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]

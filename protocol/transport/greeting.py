"""The two facts that every call and stream carries before any handler runs.

In: the metadata of a call. Out: nothing, or the refusal: another protocol version, saying which
side is older, or another swarm. Both sides of a transport apply the same check.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from protocol.errors import ManyhandsError, PeerMisbehaved, PeerRefused, VersionMismatch
from protocol.identity import PeerId
from protocol.signing import SWARM_ID_BYTES

VERSION_KEY, SWARM_KEY = "manyhands-version", "manyhands-swarm"
_MAX_VERSION = 2**31


@dataclass(frozen=True, slots=True)
class Greeting:
    """The protocol a peer speaks and the swarm it belongs to."""

    version: int
    swarm_id: bytes

    def __post_init__(self) -> None:
        if not 0 < self.version < _MAX_VERSION or len(self.swarm_id) != SWARM_ID_BYTES:
            raise ValueError("a greeting has a version and a swarm id")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((VERSION_KEY, str(self.version)), (SWARM_KEY, self.swarm_id.hex()))

    @classmethod
    def read(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Self | None:
        """The greeting in a call's metadata; None when there is none that can be read."""
        found = {key: value for key, value in metadata if key in (VERSION_KEY, SWARM_KEY)}
        try:
            return cls(int(found[VERSION_KEY]), bytes.fromhex(str(found[SWARM_KEY])))
        except (KeyError, ValueError):
            return None

    def refusal(
        self, theirs: Self | None, *, caller: PeerId, listener: PeerId
    ) -> ManyhandsError | None:
        """Why the listener, who greets with `self`, will not talk to `caller`."""
        if theirs is None:
            return PeerMisbehaved(caller, "its call carries no greeting")
        if theirs.version != self.version:
            older = "caller" if theirs.version < self.version else "listener"
            reason = (
                f"the caller speaks protocol {theirs.version}, the listener {self.version}: "
                f"the {older} is older"
            )
            return VersionMismatch(listener, reason, hint="update Manyhands on the older side")
        if theirs.swarm_id != self.swarm_id:
            reason = (
                f"it belongs to swarm {self.swarm_id.hex()[:12]}…, "
                f"the caller to {theirs.swarm_id.hex()[:12]}…"
            )
            return PeerRefused(listener, reason, hint="join with an invite of that swarm")
        return None

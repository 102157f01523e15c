"""What every call and stream carries before any handler runs: version, swarm, and who vouches.

A version is what two peers must share to speak at all. What was added to one since has a name, a
*feature*: each side says which it knows, those it has never heard of are passed over, and whoever
needs one that the other side lacks refuses it by name (docs/protocol-versions.md).

In: the metadata of a call. Out: nothing, or the refusal: another protocol version, saying which
side is older, or another swarm. Both sides of a transport apply the same check; what a credential
is worth is for a `Gate` to say.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Self

from protocol.errors import ManyhandsError, PeerMisbehaved, PeerRefused, VersionMismatch
from protocol.identity import PeerId
from protocol.signing import SWARM_ID_BYTES

VERSION_KEY, SWARM_KEY = "manyhands-version", "manyhands-swarm"
CREDENTIAL_KEY, FEATURES_KEY = "manyhands-member-bin", "manyhands-features"
CONSTRAINTS = "constraints"  # it keeps its neighbours to what a client asks of them
DRAWS = (
    "draws"  # min_p, choice, min_tokens, stop ids, and of the extensions logprobs and logit bias
)
READINGS = "readings"  # of the extensions pooling and prompt_logprobs
DRAFTS = "drafts"  # a last hop guesses ahead
MODEL_DRAFTS = "model-drafts"  # it has a small model to guess with: said by nodes that do
GRAMMARS = "grammars"  # a last hop draws within a client's grammar
FEATURES = frozenset({CONSTRAINTS, DRAFTS, DRAWS, READINGS}).union(  # that this version knows
    [GRAMMARS] if find_spec("llguidance") else []  # some platforms have no wheel of it
)
_MAX_FEATURES, _FEATURE = 64, re.compile("[a-z][a-z0-9-]{0,31}")
_MAX_CREDENTIAL_BYTES = 4096
_MAX_VERSION = 2**31


@dataclass(frozen=True, slots=True)
class Greeting:
    """The protocol a peer speaks and the swarm it belongs to."""

    version: int
    swarm_id: bytes
    credential: bytes = b""  # a certificate of membership
    features: frozenset[str] = FEATURES

    def __post_init__(self) -> None:
        if not 0 < self.version < _MAX_VERSION or len(self.swarm_id) != SWARM_ID_BYTES:
            raise ValueError("a greeting has a version and a swarm id")
        if len(self.credential) > _MAX_CREDENTIAL_BYTES:
            raise ValueError("a credential is small")

    def showing(self, credential: bytes) -> Self:
        return replace(self, credential=credential) if credential != self.credential else self

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        told: list[tuple[str, str | bytes]] = [
            (VERSION_KEY, str(self.version)),
            (SWARM_KEY, self.swarm_id.hex()),
        ]
        if self.credential:
            told.append((CREDENTIAL_KEY, self.credential))
        if self.features:
            told.append((FEATURES_KEY, ",".join(sorted(self.features))))
        return tuple(told)

    @classmethod
    def read(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Self | None:
        """The greeting in a call's metadata; None when there is none that can be read."""
        keys = (VERSION_KEY, SWARM_KEY, CREDENTIAL_KEY, FEATURES_KEY)
        found = {key: value for key, value in metadata if key in keys}
        shown = found.get(CREDENTIAL_KEY, b"")
        try:
            swarm_id = bytes.fromhex(str(found[SWARM_KEY]))
            credential = shown if isinstance(shown, bytes) else b""
            features = _read_features(found.get(FEATURES_KEY, ""))
            return cls(int(found[VERSION_KEY]), swarm_id, credential, features)
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


def _read_features(told: str | bytes) -> frozenset[str]:
    """Those of well-formed names, also unknown ones; a peer from before features tells none."""
    names = told.split(",") if isinstance(told, str) else []
    return frozenset(name for name in names[:_MAX_FEATURES] if _FEATURE.fullmatch(name))

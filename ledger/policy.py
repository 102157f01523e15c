"""The policy of a swarm: the constants its members agree on, whose hash is the swarm's id.

Only the policy of the swarm `open` exists yet; it is compiled in, and its bytes live in
`protocol.signing`, because every signature names the swarm.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from ledger.errors import BadObject
from ledger.fields import SignedObject, Text, Uint
from protocol.signing import OPEN_POLICY_FIELDS


def _check_empty(value: Any) -> None:
    if value != ():
        raise BadObject("funding and witnesses come later: must be empty")


Empty = Annotated[tuple[()], _check_empty]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(SignedObject):
    TYPE: ClassVar[str] = "mh/policy/1"

    name: Text
    mode: Text
    assets: Empty
    issuers: Empty
    witnesses: Empty
    quorum_k: Uint
    epoch_s: Uint
    grace_epochs: Uint
    retain_epochs: Uint
    max_skew_ms: Uint
    audit_ppm: Uint
    holdback_epochs: Uint
    min_version: Uint

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    def epoch_of(self, time_ms: int) -> int:
        """The accounting epoch of a moment. Without witnesses the signers' clocks decide it."""
        return time_ms // (self.epoch_s * 1000)

    @classmethod
    def open_swarm(cls) -> Self:
        return cls.from_fields(OPEN_POLICY_FIELDS)


OPEN_POLICY = Policy.open_swarm()

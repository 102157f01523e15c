"""An advisory: a warning about a revision, or the order to stop it, for every node and client.

In: what it is about, how bad it is, why. Out: an envelope that a swarm's security keys sign one
after the other (`gathering.py`), and back. An advisory has an id; a later record of that id
replaces it, and so one is sharpened, softened or lifted. It is about a manifest's digest, which
names the very bytes, or about names of models, which are only what peers call them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from protocol.canonical import Field, NotCanonical, encode
from protocol.errors import IntegrityError
from protocol.membership.releases import DIGEST_BYTES, is_text
from protocol.membership.rules import is_pattern, matches
from protocol.signing import Envelope, SigningKey, seal

TYPE, VERSION = "mh/advisory/1", 1
MAX_ID_CHARS, MAX_REASON_CHARS = 40, 200


class Severity(StrEnum):
    LIFTED = "lifted"  # it counts no more
    FLAG = "flag"  # everybody is told
    STOP = "stop"  # nobody serves or uses it


_STRICTNESS = (Severity.LIFTED, Severity.FLAG, Severity.STOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisory:
    """See the module."""

    id: str
    severity: Severity
    reason: str
    stamp_ms: int
    expires_ms: int = 0  # 0: never
    manifest: bytes = b""  # a digest; else `models`
    models: str = ""  # names, in which * stands for anything

    def __post_init__(self) -> None:
        plain = self.id.isascii() and all(c.isalnum() or c in "._-" for c in self.id)
        if not plain or not 0 < len(self.id) <= MAX_ID_CHARS:
            raise IntegrityError("an advisory's id has 1 to 40 letters, digits and ._-")
        if bool(self.manifest) == bool(self.models):
            raise IntegrityError("an advisory is about a digest or about names")
        if len(self.manifest) not in (0, DIGEST_BYTES):
            raise IntegrityError(f"a digest has {DIGEST_BYTES} bytes")
        if self.models and not is_pattern(self.models):
            raise IntegrityError("names are written as llama-* or *")
        if not is_text(self.reason, MAX_REASON_CHARS):
            raise IntegrityError(f"a reason has 1 to {MAX_REASON_CHARS} printable characters")
        if self.stamp_ms < 0 or self.expires_ms < 0:
            raise IntegrityError("an advisory has times")

    @property
    def slot(self) -> tuple[str]:
        return (self.id,)

    @property
    def order(self) -> tuple[int, int, bytes]:
        """The latest counts; of two at one time the stricter one."""
        return self.stamp_ms, _STRICTNESS.index(self.severity), encode(self._fields())

    def is_about(self, manifest: bytes, names: Iterable[str]) -> bool:
        if self.manifest:
            return self.manifest == manifest
        return any(matches(name, self.models) for name in names)

    def holds(self, now_ms: int) -> bool:
        is_over = bool(self.expires_ms) and now_ms >= self.expires_ms
        return self.severity is not Severity.LIFTED and not is_over

    def __str__(self) -> str:
        return f"advisory {self.id} ({self.severity}): {self.reason}"

    def seal(self, swarm_id: bytes, *keys: SigningKey) -> Envelope:
        return seal(TYPE, swarm_id, self._fields(), *keys)

    def _fields(self) -> tuple[Field, ...]:
        return (
            VERSION,
            self.id,
            self.severity.value,
            self.reason,
            self.stamp_ms,
            self.expires_ms,
            self.manifest,
            self.models,
        )

    @classmethod
    def read(cls, fields: list[Any]) -> Self:
        """
        Raises:
            IntegrityError: these are not the fields of an advisory.
        """
        match fields:
            case [
                int() as version, str() as id, str() as severity, str() as reason,
                int() as stamp_ms, int() as expires_ms, bytes() as manifest, str() as models,
            ] if (
                bool not in {*map(type, (version, stamp_ms, expires_ms))}
                and version == VERSION
                and severity in [*Severity]
            ):  # fmt: skip
                return cls(
                    id=id,
                    severity=Severity(severity),
                    reason=reason,
                    stamp_ms=stamp_ms,
                    expires_ms=expires_ms,
                    manifest=manifest,
                    models=models,
                )
            case _:
                raise NotCanonical("an advisory has other fields")

"""A release: that a revision of a model may be served in this swarm, and in which channel.

In: a model's name and digest, a channel, times. Out: an envelope that releasers sign one after the
other (`gathering.py`), and back. A later record of the same revision and channel replaces it, be it
another release or a withdrawal. Several revisions may be out at once, so that a swarm can go from
one to the next without a gap; who asks by name gets the one that was released last.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from protocol.canonical import Field, NotCanonical, encode
from protocol.errors import IntegrityError
from protocol.membership.rules import Channel, read_channel
from protocol.signing import Envelope, SigningKey, seal

TYPE, VERSION = "mh/release/1", 1
DIGEST_BYTES = 32
MAX_NAME_CHARS, MAX_NOTES_CHARS = 100, 200


class Standing(StrEnum):
    RELEASED = "released"
    WITHDRAWN = "withdrawn"


_STRICTNESS = (Standing.RELEASED, Standing.WITHDRAWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """See the module."""

    model: str  # what peers call it
    manifest: bytes  # its digest
    channel: Channel
    standing: Standing = Standing.RELEASED
    stamp_ms: int
    begins_ms: int = 0
    expires_ms: int = 0  # 0: never
    notes: str = ""

    def __post_init__(self) -> None:
        if not is_text(self.model, MAX_NAME_CHARS) or len(self.manifest) != DIGEST_BYTES:
            raise IntegrityError("a release is of a model by name and digest")
        if self.notes and not is_text(self.notes, MAX_NOTES_CHARS):
            raise IntegrityError(f"notes have up to {MAX_NOTES_CHARS} printable characters")
        if min(self.stamp_ms, self.begins_ms, self.expires_ms) < 0:
            raise IntegrityError("a release has times")
        if self.expires_ms and self.expires_ms <= self.begins_ms:
            raise IntegrityError("a release begins before it ends")

    @property
    def slot(self) -> tuple[str, Channel, bytes]:
        return self.model, self.channel, self.manifest

    @property
    def order(self) -> tuple[int, int, bytes]:
        """The latest counts; of two at one time the stricter one."""
        return self.stamp_ms, _STRICTNESS.index(self.standing), self.payload()

    def holds(self, now_ms: int) -> bool:
        """Whether it lets the revision be served now, by a clock."""
        is_over = bool(self.expires_ms) and now_ms >= self.expires_ms
        return self.standing is Standing.RELEASED and self.begins_ms <= now_ms and not is_over

    def payload(self) -> bytes:
        return encode(self._fields())

    def seal(self, swarm_id: bytes, *keys: SigningKey) -> Envelope:
        return seal(TYPE, swarm_id, self._fields(), *keys)

    def _fields(self) -> tuple[Field, ...]:
        return (
            VERSION,
            self.model,
            self.manifest,
            self.channel.value,
            self.standing.value,
            self.stamp_ms,
            self.begins_ms,
            self.expires_ms,
            self.notes,
        )

    @classmethod
    def read(cls, fields: list[Any]) -> Self:
        """
        Raises:
            IntegrityError: these are not the fields of a release.
        """
        match fields:
            case [
                int() as version, str() as model, bytes() as manifest, channel, str() as standing,
                int() as stamp_ms, int() as begins_ms, int() as expires_ms, str() as notes,
            ] if (
                bool not in {*map(type, (version, stamp_ms, begins_ms, expires_ms))}
                and version == VERSION
                and standing in [*Standing]
            ):  # fmt: skip
                return cls(
                    model=model,
                    manifest=manifest,
                    channel=read_channel(channel),
                    standing=Standing(standing),
                    stamp_ms=stamp_ms,
                    begins_ms=begins_ms,
                    expires_ms=expires_ms,
                    notes=notes,
                )
            case _:
                raise NotCanonical("a release has other fields")


def is_text(text: str, max_chars: int) -> bool:
    """What may stand on a terminal, on one line."""
    return 0 < len(text) <= max_chars and text.isprintable()

"""The memory in which a node keeps what answers that are over can be audited by: the rows that it
sent on, for minutes, and fingerprints, for hours.

In: the memory there is, or what a node may take of it. Out: two bounds. A small machine keeps less:
its payers are told that others needed the room, which is held against nobody.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from node.share import Share

PART = 32  # of the memory one such part, up to what a machine of 10 GiB gives
MOST_ROWS, MOST_FINGERPRINTS = 256 << 20, 64 << 20


@dataclass(frozen=True, slots=True)
class AuditRoom:
    """In bytes, at most."""

    rows: int
    fingerprints: int

    @classmethod
    def within(cls, total_bytes: int) -> Self:
        part = total_bytes // PART
        return cls(min(MOST_ROWS, part * 4 // 5), min(MOST_FINGERPRINTS, part // 5))

    @property
    def n_bytes(self) -> int:
        return self.rows + self.fingerprints


def audit_room(device: str, share: "Share | None") -> AuditRoom:
    """share: of the memory that `device` computes in; a GPU's is not where this lies."""
    from node.engine.room import total_bytes

    return AuditRoom.within(total_bytes(None if device.startswith("cuda") else share))


def counted_bytes(device: str, share: "Share | None") -> int:
    """What of it lies in the memory that weights and sessions take, too."""
    return 0 if device.startswith("cuda") else audit_room(device, share).n_bytes

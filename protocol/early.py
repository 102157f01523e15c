"""What a predecessor sent before this hop heard of the epoch: it heard of it first.

In: frames and a question of the coming epoch. Out: all of them again, at the commit. What does not
fit is dropped, and the commit asks for it instead. The rules that use this are in `hop_session.py`.
"""

from dataclasses import dataclass

from protocol.frames import RowGroup

MAX_EARLY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class EarlyRows:
    """One group, as it came."""

    peer: str
    group: RowGroup
    row_bytes: int
    body: bytes | memoryview


class Early:
    """Of one session. `is_asked`: whether the predecessor shall hear where to go on."""

    __slots__ = ("_rows", "is_asked")

    def __init__(self) -> None:
        self._rows: list[EarlyRows] = []
        self.is_asked = False

    def hold(self, rows: EarlyRows) -> bool:
        """Keep them; False when there is no room, and they have to be sent again."""
        held = sum(len(early.body) for early in self._rows)
        if held + len(rows.body) > MAX_EARLY_BYTES:
            self.is_asked = True
            return False
        self._rows.append(rows)
        return True

    def release(self) -> list[EarlyRows]:
        rows, self._rows = self._rows, []
        return rows

    def clear(self) -> None:
        self._rows.clear()

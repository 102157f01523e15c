"""How much of a memory may be taken: so many bytes, or a part of all there is.

In: what an owner wrote, and the size of a memory. Out: bytes. The memory of a GPU is each GPU's.
"""

import re
from dataclasses import dataclass
from typing import Self

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True, slots=True)
class Share:
    """Either of the two is given."""

    n_bytes: int = 0
    part: float = 0.0

    def __post_init__(self) -> None:
        if (self.n_bytes > 0) == (0 < self.part <= 1):
            raise ValueError("a share is more than nothing, and 100 % at most")

    @classmethod
    def parse(cls, text: str) -> Self:
        """`80%`, `12GiB`; units are powers of 1024.

        Raises:
            ValueError: it is none.
        """
        written = text.strip().lower()
        if matched := _PART.fullmatch(written):
            return cls(part=float(matched[1]) / 100)
        if matched := _SIZE.fullmatch(written):
            return cls(n_bytes=int(float(matched[1]) * 2 ** _UNITS[matched[2]]))
        raise ValueError(f"{text[:40]!r} is no size and no part")

    def __str__(self) -> str:
        return f"{self.part * 100:g}%" if self.part else f"{self.n_bytes / 2**30:.1f} GiB"

    def of(self, total_bytes: int) -> int:
        return min(total_bytes, self.n_bytes or int(total_bytes * self.part))

"""What the C library's heap holds: what it handed out and did not get back, and gaps between."""

import ctypes
from dataclasses import dataclass
from typing import Self


class _Told(ctypes.Structure):
    """What mallinfo2(3) tells. uordblks, hblkhd: bytes in use, within heaps and beside."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


@dataclass(frozen=True, slots=True)
class Heap:
    """Of this process; of another C library than glibc nothing is known (0)."""

    in_use_bytes: int
    gap_bytes: int  # freed, and the process's still

    @classmethod
    def now(cls) -> Self:
        try:
            ask = ctypes.CDLL(None).mallinfo2
        except (AttributeError, OSError, TypeError):
            return cls(0, 0)
        ask.restype = _Told
        told = ask()
        return cls(told.uordblks + told.hblkhd, told.fordblks)

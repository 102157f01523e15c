"""The C library's heap: what was freed between things still used goes back to the system.

glibc alone gives back only what lies free at the heap's end (malloc_trim(3)).
"""

import ctypes


def trim_heap() -> None:
    """Milliseconds; where there is another C library, nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return

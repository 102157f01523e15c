"""The time of day, as signed things have it. What only measures how long, uses another clock."""

import time


def wall_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000

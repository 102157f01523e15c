"""Runs of bytes `(start, stop)` of a file: sorted, apart from each other, none empty."""

from collections.abc import Iterable

Range = tuple[int, int]
Ranges = tuple[Range, ...]


def merged(ranges: Iterable[Range]) -> Ranges:
    """The bytes of all of `ranges`."""
    result: list[Range] = []
    for start, stop in sorted(r for r in ranges if r[0] < r[1]):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return tuple(result)


def without(ranges: Ranges, gone: Range) -> Ranges:
    """`ranges` less the bytes of `gone`."""
    low, high = gone
    parts = [
        part
        for start, stop in ranges
        for part in ((start, min(stop, low)), (max(start, high), stop))
    ]
    return merged(parts)


def gaps(ranges: Ranges, wanted: Range) -> Ranges:
    """What of `wanted` is not in `ranges`."""
    left: Ranges = merged([wanted])
    for held in ranges:
        left = without(left, held)
    return left

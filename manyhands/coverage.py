"""How many hosts every block has: counted from spans, told as runs of blocks.

Pure. `status` counts what was announced with it, `up` the processes that answer.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from protocol.messages import Span

Run = tuple[int, int]  # blocks [start, stop)


def hosts_per_block(spans: Iterable[Span], n_blocks: int) -> list[int]:
    """For each of a model's blocks, how many of `spans` hold it."""
    n_hosts = [0] * n_blocks
    for span in spans:
        for block in range(span.start, min(span.stop, n_blocks)):
            n_hosts[block] += 1
    return n_hosts


def runs_where(holds: Callable[[int], bool], values: Sequence[int]) -> tuple[Run, ...]:
    """The longest runs of blocks whose value fits."""
    runs: list[Run] = []
    for block, value in enumerate(values):
        if not holds(value):
            continue
        if runs and runs[-1][1] == block:
            runs[-1] = (runs[-1][0], block + 1)
        else:
            runs.append((block, block + 1))
    return tuple(runs)


def stretches(values: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """(start, stop, value) of neighbouring blocks with one value, over all of them in order."""
    borders = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return tuple((start, stop, values[start]) for start, stop in pairwise(borders))


def spell(runs: Iterable[Run]) -> str:
    """`0:3, 5:6`, as people and options write them."""
    return ", ".join(f"{start}:{stop}" for start, stop in runs)

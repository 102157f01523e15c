"""The first phase of Parallax (2025; its source of 2026): pipelines, and who runs how much of one.

In: peers' capacities and speeds. Out: pipelines as lists of (peer, blocks). All pure.

1. How many pipelines, of which peers: for each number k of pipelines that capacity allows, the
   fewest stages s(k) that make them; the k with the largest k * k / s(k) wins: concurrency against
   hops. Exact by dynamic programming over open pipelines for few peers; for many, as its source
   does too, largest first, closing each pipeline with the smallest peer that fits.
2. Water-filling inside each: blocks in proportion to speed, none beyond its capacity.
"""

from collections.abc import Sequence
from functools import cache

EXACT_PEERS = 14
BISECTIONS = 40


def pipelines(capacities: Sequence[int], n_blocks: int) -> list[list[int]]:
    """Indices of the peers of each pipeline; who is in none stands by."""
    order = sorted(range(len(capacities)), key=lambda i: (-capacities[i], i))
    sizes = tuple(capacities[i] for i in order)
    build = _exact if len(sizes) <= EXACT_PEERS else _greedy
    best: list[list[int]] = []
    best_value = 0.0
    for k in range(1, sum(sizes) // n_blocks + 1):
        found = build(sizes, n_blocks, k)
        if found is None:
            continue
        value = k * k / sum(len(pipeline) for pipeline in found)
        if value > best_value:
            best, best_value = found, value
    return [[order[i] for i in pipeline] for pipeline in best]


def _exact(sizes: tuple[int, ...], n_blocks: int, k: int) -> list[list[int]] | None:
    """k pipelines with the fewest stages: each peer is skipped, extends a pipeline or opens one."""
    remaining = [sum(sizes[i:]) for i in range(len(sizes) + 1)]

    @cache
    def fewest(i: int, open_: tuple[int, ...], done: int) -> tuple[float, int]:
        """(stages, choice) from peer i on; choice -1 skips, j extends open j, len(open) opens."""
        if done == k:
            return 0, -1
        if i == len(sizes) or sum(open_) + (k - done - len(open_)) * n_blocks > remaining[i]:
            return float("inf"), -1
        best = (fewest(i + 1, open_, done)[0], -1)
        tried = set()
        for j, left in enumerate(open_):
            if left not in tried:
                tried.add(left)
                stages = 1 + fewest(i + 1, *_placed(open_, j, left - sizes[i], done))[0]
                best = min(best, (stages, j), key=lambda pair: pair[0])
        if done + len(open_) < k:
            j = len(open_)
            stages = 1 + fewest(i + 1, *_placed((*open_, 0), j, n_blocks - sizes[i], done))[0]
            best = min(best, (stages, j), key=lambda pair: pair[0])
        return best

    if fewest(0, (), 0)[0] == float("inf"):
        return None
    built: list[list[int]] = []
    running: list[tuple[int, list[int]]] = []  # (left, members), in the order of the state
    done = 0
    for i, size in enumerate(sizes):
        open_ = tuple(left for left, _ in running)
        choice = fewest(i, open_, done)[1]
        if done == k or choice < 0:
            continue
        if choice == len(running):
            running.append((n_blocks, []))
        left, members = running.pop(choice)
        members.append(i)
        if left - size <= 0:
            built.append(members)
            done += 1
        else:
            running.append((left - size, members))
            running.sort(key=lambda pair: pair[0])
    return built


def _placed(open_: tuple[int, ...], j: int, left: int, done: int) -> tuple[tuple[int, ...], int]:
    others = open_[:j] + open_[j + 1 :]
    return (others, done + 1) if left <= 0 else (tuple(sorted((*others, left))), done)


def _greedy(sizes: tuple[int, ...], n_blocks: int, k: int) -> list[list[int]] | None:
    free = list(range(len(sizes)))  # largest first
    built = []
    for _ in range(k):
        left, members = n_blocks, []
        while left > 0:
            if not free:
                return None
            closing = [i for i in free if sizes[i] >= left]
            pick = closing[-1] if closing else free[0]
            free.remove(pick)
            members.append(pick)
            left -= sizes[pick]
        built.append(members)
    return built


def water_fill(capacities: Sequence[int], speeds: Sequence[float], n_blocks: int) -> list[int]:
    """Blocks of each peer of one pipeline, in proportion to speed as far as memory allows.

    The level is found by bisection; what rounding down leaves goes to the largest remainders.
    """
    assert sum(capacities) >= n_blocks
    low, high = 0.0, max(c / f for c, f in zip(capacities, speeds, strict=True))
    for _ in range(BISECTIONS):
        level = (low + high) / 2
        filled = sum(min(c, level * f) for c, f in zip(capacities, speeds, strict=True))
        low, high = (level, high) if filled < n_blocks else (low, level)
    exact = [min(c, high * f) for c, f in zip(capacities, speeds, strict=True)]
    blocks = [int(value + 1e-6) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (blocks[i] - exact[i], i))
    while sum(blocks) < n_blocks:
        for i in by_remainder:
            if sum(blocks) < n_blocks and blocks[i] < capacities[i]:
                blocks[i] += 1
    return blocks

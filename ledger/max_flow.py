"""The most that flows from one vertex of a network to another: Dinic's algorithm, in integers.

In: edges with capacities. Out: a number, and the network with that much used up, so that what is
asked next gets what is left. Dinic 1970, "Algorithm for solution of a problem of maximum flow in
networks with power estimation"; by Ford and Fulkerson (1956) it is the capacity of the least cut.
What a swarm's placement asks of its hosts has a form of its own: see `scheduler/flow.py`.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from itertools import pairwise
from typing import Generic, TypeVar

V = TypeVar("V", bound=Hashable)


class Network(Generic[V]):
    """Directed; parallel edges add up."""

    def __init__(self) -> None:
        self._left: dict[V, dict[V, int]] = {}  # capacity that is not used, back edges included
        self._looks = 0

    def add(self, start: V, stop: V, capacity: int) -> None:
        """capacity: 0 or more."""
        out, back = self._left.setdefault(start, {}), self._left.setdefault(stop, {})
        out[stop] = out.get(stop, 0) + capacity
        back.setdefault(start, 0)

    def left(self, start: V, stop: V) -> int:
        """Capacity from the one straight to the other that is not used."""
        return self._left.get(start, {}).get(stop, 0)

    def push(self, source: V, sink: V, most: int, looks: int | None = None) -> int:
        """Use up as much as flows from `source` to `sink`, up to `most`; say how much that was.

        looks: once so many edges were looked at, no longer ways are tried, so that it may be less.
        """
        pushed, self._looks = 0, 0
        if source == sink or source not in self._left or sink not in self._left:
            return 0
        while pushed < most and not self._is_over(looks):
            if not (levels := self._levels(source, sink)):
                break
            edges = {vertex: iter(self._left[vertex]) for vertex in levels}
            while pushed < most and not self._is_over(looks):
                if not (path := self._path(source, sink, levels, edges)):
                    break
                steps = list(pairwise(path))
                amount = min(most - pushed, *(self._left[a][b] for a, b in steps))
                for a, b in steps:
                    self._left[a][b] -= amount
                    self._left[b][a] += amount
                pushed += amount
        return pushed

    def _is_over(self, looks: int | None) -> bool:
        return looks is not None and self._looks >= looks

    def _levels(self, source: V, sink: V) -> dict[V, int]:
        """How far each vertex is from the source; empty where the sink is out of reach."""
        levels, waiting = {source: 0}, deque([source])
        while waiting:
            vertex = waiting.popleft()
            self._looks += len(self._left[vertex])
            for other, left in self._left[vertex].items():
                if left and other not in levels:
                    levels[other] = levels[vertex] + 1
                    waiting.append(other)
        return levels if sink in levels else {}

    def _path(
        self, source: V, sink: V, levels: dict[V, int], edges: dict[V, Iterator[V]]
    ) -> list[V]:
        """One that goes a level further with each step. What led nowhere is not tried again."""
        path = [source]
        while path[-1] != sink:
            here = path[-1]
            for other in edges[here]:
                self._looks += 1
                if self._left[here][other] and levels.get(other) == levels[here] + 1:
                    path.append(other)
                    break
            else:
                path.pop()
                if not path:
                    return []
        return path

"""A log as files that anybody may fetch and keep: tiles of 256 hashes, bundles of 256 entries.

In: a tree by its nodes. Out: the tiles of a size, by path, and a tree again from tiles that were
fetched, so that a reader makes every proof itself. Implements C2SP tlog-tiles. Tiles are believed
only as far as the root they lead to: see `TileTree`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from ledger.errors import BadProof
from ledger.merkle import NodeAt, node_hash

HEIGHT = 8
WIDTH = 1 << HEIGHT
HASH_BYTES = 32
MAX_LEVEL = 63
MAX_ENTRY_BYTES = 65_535

_PATH = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)

Fetch = Callable[[str], bytes]
"""The bytes at a path of the log; raises when there are none."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Hashes `[index * 256, index * 256 + width)` of a level that is `level * 8` above the leaves.

    level: None for the bundle of entries that the tile of level 0 beside it holds the hashes of.
    """

    level: int | None
    index: int
    width: int = WIDTH

    def path(self) -> str:
        digits = f"{self.index:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        place = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        level = "entries" if self.level is None else self.level
        return f"tile/{level}/{place}" + (f".p/{self.width}" if self.width < WIDTH else "")

    @classmethod
    def parse(cls, path: str) -> Self:
        """Read a path in its one spelling.

        Raises:
            BadProof: it is not one of a tile or bundle.
        """
        if (match := _PATH.fullmatch(path)) is None or len(path) > 64:
            raise BadProof("this is no tile's path")
        level, groups, last, width = match.groups()
        index = int(groups.replace("x", "").replace("/", "") + last)
        tile = cls(
            None if level == "entries" else int(level), index, int(width) if width else WIDTH
        )
        if tile.path() != path or (tile.level or 0) > MAX_LEVEL:
            raise BadProof("this is no tile's path")
        return tile

    def width_at(self, size: int) -> int:
        """How many of its hashes a tree of this size has."""
        return min(WIDTH, max(0, (size >> HEIGHT * (self.level or 0)) - self.index * WIDTH))


def tiles_of(size: int, level: int | None = 0, start: int = 0) -> Iterator[Tile]:
    """The tiles of a level from entry (or hash) `start` on, the last one partial."""
    index = start >> HEIGHT
    while width := Tile(level, index).width_at(size):
        yield Tile(level, index, width)
        index += 1


def tile_bytes(tile: Tile, node_at: NodeAt) -> bytes:
    assert tile.level is not None
    level = tile.level * HEIGHT
    return b"".join(node_at(level, tile.index * WIDTH + i) for i in range(tile.width))


def bundle(entries: Sequence[bytes]) -> bytes:
    """Entries one after another, each with its length before it."""
    if any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise BadProof(f"an entry takes at most {MAX_ENTRY_BYTES} bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unbundle(data: bytes) -> list[bytes]:
    """Raises BadProof: the bytes are no bundle."""
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if stop > len(data) or at + 2 > len(data) or len(entries) == WIDTH:
            raise BadProof("a bundle of entries is cut short or too long")
        entries.append(data[at + 2 : stop])
        at = stop
    return entries


class TileTree:
    """The nodes of a tree of `size` leaves, from its tiles, each fetched once.

    A tile is checked for its length alone: compare `merkle.root(size, tree.node_at)` with the
    signed root before any node is believed.
    """

    def __init__(self, size: int, fetch: Fetch) -> None:
        self.size = size
        self._fetch = fetch
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._have: set[tuple[int, int]] = set()

    def node_at(self, level: int, index: int) -> bytes:
        if (index + 1) << level > self.size:
            raise BadProof(f"a tree of {self.size} has no node {level}/{index}")
        rows = level % HEIGHT  # above the hashes that the tile is made of
        tile = Tile(level // HEIGHT, index << rows >> HEIGHT)
        if (tile.level or 0, tile.index) not in self._have:
            self._load(tile)
        return self._node(level, index, level - rows)

    def _node(self, level: int, index: int, bottom: int) -> bytes:
        if (known := self._nodes.get((level, index))) is None:
            assert level > bottom
            known = node_hash(
                self._node(level - 1, 2 * index, bottom),
                self._node(level - 1, 2 * index + 1, bottom),
            )
            self._nodes[level, index] = known
        return known

    def _load(self, tile: Tile) -> None:
        level = tile.level or 0
        whole = Tile(level, tile.index, tile.width_at(self.size))
        data = self._fetch(whole.path())
        if len(data) != whole.width * HASH_BYTES:
            raise BadProof(f"{whole.path()} has {len(data)} bytes, not {whole.width * HASH_BYTES}")
        for i in range(whole.width):
            place = (level * HEIGHT, tile.index * WIDTH + i)
            self._nodes[place] = data[i * HASH_BYTES : (i + 1) * HASH_BYTES]
        self._have.add((level, tile.index))

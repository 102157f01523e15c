"""A "model" whose every block's output is a hash over all that its KV cache holds.

So one row that is wrong, missing or doubled anywhere changes every later token. Each block keeps
its own inputs, as real ones keep keys and values: those of a part of a span can change hands.
"""

import hashlib
from collections.abc import Sequence

from protocol.codec import ids_to_bytes
from protocol.messages import Span

ROW_BYTES = 8
ID_BYTES = 4


def digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"|".join(parts), digest_size=ROW_BYTES).digest()


class HashSpan:
    """A span whose output row depends on every input row before it, as attention does."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.caches: dict[int, list[bytes]] = {block: [] for block in range(span.start, span.stop)}

    @property
    def length(self) -> int:
        return len(self.caches[self.span.start])

    def run(self, start: int, rows: Sequence[bytes]) -> list[bytes]:
        assert start <= self.length, "a row would be missing from the cache"
        for cache in self.caches.values():
            del cache[start:]
        out = []
        for row in rows:
            hidden = row
            for block, cache in self.caches.items():
                cache.append(hidden)
                hidden = digest(bytes([block]), *cache)
            out.append(hidden)
        return out

    def take_over(self, other: "HashSpan", start: int, stop: int) -> None:
        """What `other` holds of our blocks for positions `[start, stop)`."""
        assert start == self.length
        assert stop <= other.length
        for block, cache in self.caches.items():
            cache += other.caches[block][start:stop]


def draw(hidden: bytes, position: int) -> int:
    return int.from_bytes(digest(hidden, position.to_bytes(4)), "big") % 1000


def undisturbed(prompt: Sequence[int], spans: Sequence[Span], max_tokens: int) -> list[int]:
    """The reference: the same model, unsplit in time, one hop after the other."""
    hops, ids = [HashSpan(span) for span in spans], list(prompt)
    fed = 0
    while len(ids) < len(prompt) + max_tokens:
        rows = [ids_to_bytes([i]) for i in ids[fed:]]
        for hop in hops:
            rows = hop.run(fed, rows)
        fed = len(ids)
        ids.append(draw(rows[-1], len(ids)))
    return ids

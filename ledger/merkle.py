"""The Merkle tree over log entries, as RFC 9162 section 2.1 defines it (the tree of RFC 6962).

In: entries, as bytes. Out: a root, and proofs that an entry is in a tree or that one tree extends
another. Complete subtrees never change, so each is hashed once and found again by (level, index);
where they are kept is left to the caller. No storage and no signatures here: see `log.py` and
`checkpoint.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from ledger.errors import BadProof

LEAF, NODE = b"\x00", b"\x01"  # domain separation, section 2.1.1
EMPTY_ROOT = sha256(b"").digest()
HASH_BYTES = 32

NodeAt = Callable[[int, int], bytes]
"""The hash of the complete subtree over leaves [index << level, (index + 1) << level)."""


def leaf_hash(entry: bytes) -> bytes:
    return sha256(LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(NODE + left + right).digest()


def appended(size: int, leaf: bytes, node_at: NodeAt) -> Iterator[tuple[int, int, bytes]]:
    """The complete subtrees, as (level, index, hash), that leaf number `size` brings into being."""
    level, index, hash_ = 0, size, leaf
    yield level, index, hash_
    while index & 1:
        hash_ = node_hash(node_at(level, index - 1), hash_)
        level, index = level + 1, index >> 1
        yield level, index, hash_


def root(size: int, node_at: NodeAt) -> bytes:
    """The root over the first `size` leaves."""
    return _range_root(0, size, node_at) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node_at: NodeAt) -> list[bytes]:
    """The hashes that lead from leaf `index` to the root over `size` leaves (section 2.1.3.1)."""
    if not 0 <= index < size:
        raise BadProof(f"entry {index} is not in a tree of {size}")
    return _path_within(index, 0, size, node_at)


def root_before(index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root over the leaves before `index`, which its inclusion path has the hashes of.

    path: it was seen to lead from that leaf to the root over `size` leaves.
    """
    lefts, above = [], list(path)
    for _, _, middle in _splits(index, size):
        if index >= middle:
            lefts.append(above[-1])
        above.pop()
    if not lefts:
        return EMPTY_ROOT
    hash_ = lefts.pop()
    while lefts:
        hash_ = node_hash(lefts.pop(), hash_)
    return hash_


def earlier_path(
    earlier: int, index: int, size: int, leaf: bytes, path: Sequence[bytes], node_at: NodeAt
) -> list[bytes]:
    """The inclusion path of an earlier leaf of a tree of which the beginning is known alone.

    leaf, path: of leaf `index`, seen to lead to the root. node_at: of the leaves before `index`.
    """
    for depth, (start, stop, middle) in enumerate(_splits(index, size)):
        if earlier < middle <= index:
            n_below = len(path) - depth - 1
            beside = _reached(leaf, index - middle, stop - middle, path[:n_below])
            within = _path_within(earlier, start, middle, node_at)
            return [*within, beside, *path[n_below + 1 :]]
    if earlier != index:
        raise BadProof(f"entry {earlier} is not before entry {index}")
    return list(path)


def parts_at(
    node_at: NodeAt, size: int, other_at: NodeAt, other_size: int, height: int
) -> int | None:
    """The first leaf that two trees have and do not have alike; None: all that both have are one.

    height: nodes are compared at levels this far apart, from the top down, so that of a large tree
    few are asked for.
    """
    both, index = min(size, other_size), 0
    level = both.bit_length() // height * height
    while level >= 0:
        number = index >> level
        while number < both >> level and node_at(level, number) == other_at(level, number):
            number += 1
        index = number << level
        level -= height
    return index if index < both else None


def consistency_proof(old: int, new: int, node_at: NodeAt) -> list[bytes]:
    """The hashes that show the tree of `new` leaves to extend that of `old` (section 2.1.4.1)."""
    if not 0 < old <= new:
        raise BadProof(f"a tree of {new} does not extend one of {old}")
    path: list[bytes] = []
    start, stop, whole = 0, new, True  # `whole`: the old tree is known to the verifier by its root
    while old != stop:
        middle = start + _split(stop - start)
        if old <= middle:
            path.append(_range_root(middle, stop, node_at))
            stop = middle
        else:
            path.append(_range_root(start, middle, node_at))
            start, whole = middle, False
    if not whole:
        path.append(_range_root(start, stop, node_at))
    return path[::-1]


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes
) -> None:
    """Section 2.1.3.2.

    Raises:
        BadProof: the path does not lead from this leaf, at this place, to this root.
    """
    if _reached(leaf, index, size, path) != expected:
        raise BadProof("the inclusion proof does not lead to the root")


def _reached(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root over `size` leaves that this path leads to from leaf `index`."""
    _check_hashes(leaf, *path)
    if not 0 <= index < size:
        raise BadProof(f"entry {index} is not in a tree of {size}")
    position, last, reached = index, size - 1, leaf
    for sibling in path:
        if not last:
            raise BadProof("the inclusion proof is too long")
        if position & 1 or position == last:
            reached = node_hash(sibling, reached)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            reached = node_hash(reached, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise BadProof("the inclusion proof does not lead to the root")
    return reached


def verify_consistency(
    old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Section 2.1.4.2.

    Raises:
        BadProof: the path does not show the new tree to extend the old one.
    """
    _check_hashes(*path)
    if not 0 < old <= new:
        raise BadProof(f"a tree of {new} does not extend one of {old}")
    if old == new:
        if path or old_root != new_root:
            raise BadProof("two trees of one size differ")
        return
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise BadProof("the consistency proof is too short")
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_reached = new_reached = hashes[0]
    for sibling in hashes[1:]:
        if not last:
            raise BadProof("the consistency proof is too long")
        if position & 1 or position == last:
            old_reached = node_hash(sibling, old_reached)
            new_reached = node_hash(sibling, new_reached)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new_reached = node_hash(new_reached, sibling)
        position, last = position >> 1, last >> 1
    if last or old_reached != old_root or new_reached != new_root:
        raise BadProof("the consistency proof does not lead to both roots")


def _check_hashes(*hashes: bytes) -> None:
    """A node is hashed from two hashes put together: were their lengths free, so were the cut."""
    if any(len(each) != HASH_BYTES for each in hashes):
        raise BadProof(f"a proof is made of hashes of {HASH_BYTES} bytes")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _splits(index: int, size: int) -> Iterator[tuple[int, int, int]]:
    """The ranges that hold leaf `index`, from the whole tree down, each with where it is split."""
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        yield start, stop, middle
        start, stop = (start, middle) if index < middle else (middle, stop)


def _path_within(index: int, start: int, stop: int, node_at: NodeAt) -> list[bytes]:
    """From a leaf to the root over leaves [start, stop), a range that `_split` gave."""
    path: list[bytes] = []
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(_range_root(middle, stop, node_at))
            stop = middle
        else:
            path.append(_range_root(start, middle, node_at))
            start = middle
    return path[::-1]


def _range_root(start: int, stop: int, node_at: NodeAt) -> bytes:
    """The root over leaves [start, stop); ranges come from `_split`, so `start` is aligned."""
    size = stop - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node_at(level, start >> level)
    middle = start + _split(size)
    return node_hash(_range_root(start, middle, node_at), _range_root(middle, stop, node_at))

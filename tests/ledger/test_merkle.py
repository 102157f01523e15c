"""The tree against the recursion the RFC writes down, for every size up to 130."""

from hashlib import sha256
from itertools import pairwise

import pytest

from ledger.errors import BadProof
from ledger.merkle import (
    EMPTY_ROOT,
    appended,
    consistency_proof,
    earlier_path,
    inclusion_proof,
    leaf_hash,
    node_hash,
    parts_at,
    root,
    root_before,
    verify_consistency,
    verify_inclusion,
)

N = 130
LEAVES = [leaf_hash(b"entry %d" % i) for i in range(N)]


def reference_root(leaves):
    """RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(reference_root(leaves[:k]), reference_root(leaves[k:]))


def grow(leaves):
    nodes = {}
    for size, leaf in enumerate(leaves):
        for level, index, hash_ in appended(size, leaf, lambda lv, ix: nodes[lv, ix]):
            nodes[level, index] = hash_
    return nodes


NODES = grow(LEAVES)
ROOTS = [reference_root(LEAVES[:n]) for n in range(N + 1)]


def node_at(level, index):
    return NODES[level, index]


def test_the_empty_tree_and_a_known_leaf_have_the_roots_of_the_rfc():
    assert root(0, node_at) == EMPTY_ROOT
    assert leaf_hash(b"").hex() == (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )


@pytest.mark.parametrize("size", range(N + 1))
def test_the_grown_tree_has_the_root_of_the_recursion(size):
    assert root(size, node_at) == ROOTS[size]


def test_an_append_touches_complete_subtrees_only_once():
    assert len(NODES) == sum(N >> level for level in range(8))


@pytest.mark.parametrize("size", range(1, N + 1))
def test_every_entry_proves_its_place_and_no_other(size):
    for index in range(size):
        path = inclusion_proof(index, size, node_at)

        verify_inclusion(LEAVES[index], index, size, path, ROOTS[size])

        wrong = [
            (LEAVES[index], index + 1, size, path),
            (LEAVES[index], index - 1, size, path),
            (LEAVES[index - 1] if size > 1 else leaf_hash(b"?"), index, size, path),
            (LEAVES[index], index, size, [*path, path[-1] if path else LEAVES[0]]),
            (LEAVES[index], index, size, path[:-1] if path else [LEAVES[0]]),
        ]
        for forged in wrong:
            with pytest.raises(BadProof):
                verify_inclusion(*forged, ROOTS[size])
        with pytest.raises(BadProof):
            verify_inclusion(LEAVES[index], index, size, path, ROOTS[size - 1])


@pytest.mark.parametrize("new", range(1, N + 1, 3))
def test_every_tree_proves_which_trees_it_extends(new):
    for old in range(1, new + 1):
        path = consistency_proof(old, new, node_at)

        verify_consistency(old, new, path, ROOTS[old], ROOTS[new])

        forged = leaf_hash(b"forged")
        for old_root, new_root in ((forged, ROOTS[new]), (ROOTS[old], forged)):
            with pytest.raises(BadProof):
                verify_consistency(old, new, path, old_root, new_root)
        for longer_or_shorter in (path[:-1], [*path, forged]):
            if longer_or_shorter != path:
                with pytest.raises(BadProof):
                    verify_consistency(old, new, longer_or_shorter, ROOTS[old], ROOTS[new])


def test_a_wrong_size_is_refused():
    path = inclusion_proof(3, 7, node_at)

    for size in (0, 3, 4, 64):  # 8 gives the same path: it is the checkpoint that ties size to root
        with pytest.raises(BadProof):
            verify_inclusion(LEAVES[3], 3, size, path, ROOTS[7])
    for bad in ((7, 7), (-1, 7)):
        with pytest.raises(BadProof):
            inclusion_proof(*bad, node_at)
    for bad in ((0, 7), (8, 7)):
        with pytest.raises(BadProof):
            consistency_proof(*bad, node_at)


@pytest.mark.slow
def test_15_roots_and_proofs_are_the_recursions_up_to_300():
    leaves = [leaf_hash(b"entry %d" % i) for i in range(300)]
    nodes = grow(leaves)

    def at(level, index):
        return nodes[level, index]

    for size in range(1, 301):
        expected = reference_root(leaves[:size])
        assert root(size, at) == expected
        for index in range(size):
            path = inclusion_proof(index, size, at)
            verify_inclusion(leaves[index], index, size, path, expected)
            for wrong in (path[:-1], [*path, leaves[0]]):
                if wrong != path:
                    with pytest.raises(BadProof):
                        verify_inclusion(leaves[index], index, size, wrong, expected)
            with pytest.raises(BadProof):
                verify_inclusion(leaves[index - 1], index, size, path, leaf_hash(b"forged"))


@pytest.mark.slow
def test_16_consistency_proofs_hold_for_all_sizes_up_to_300():
    leaves = [leaf_hash(b"entry %d" % i) for i in range(300)]
    nodes, forged = grow(leaves), leaf_hash(b"forged")

    def at(level, index):
        return nodes[level, index]

    roots = [root(size, at) for size in range(301)]
    for new in range(1, 301):
        for old in range(1, new + 1):
            path = consistency_proof(old, new, at)
            verify_consistency(old, new, path, roots[old], roots[new])
            for lie in ((forged, roots[new]), (roots[old], forged)):
                with pytest.raises(BadProof):
                    verify_consistency(old, new, path, *lie)


@pytest.mark.parametrize("moved", [1, 16, -1])
def test_a_proof_of_hashes_that_were_cut_elsewhere_is_refused(moved):
    index, size = 4, 8
    sibling, *rest = inclusion_proof(index, size, node_at)
    both = LEAVES[index] + sibling
    leaf, other = both[: 32 + moved], both[32 + moved :]
    with pytest.raises(BadProof):
        verify_inclusion(leaf, index, size, [other, *rest], ROOTS[size])
    path = consistency_proof(6, 9, node_at)
    verify_consistency(6, 9, path, ROOTS[6], ROOTS[9])
    for place, (one, next_) in enumerate(pairwise(path)):
        both = one + next_
        changed = [*path[:place], both[: 32 + moved], both[32 + moved :], *path[place + 2 :]]
        with pytest.raises(BadProof):
            verify_consistency(6, 9, changed, ROOTS[6], ROOTS[9])


@pytest.mark.parametrize("size", [1, 2, 5, 31, 64, 65, 130])
def test_a_leafs_path_tells_the_root_before_it_and_with_the_beginning_the_path_of_earlier_ones(
    size,
):
    for index in range(size):
        path = inclusion_proof(index, size, node_at)
        assert root_before(index, size, path) == ROOTS[index]

        def beginning(level, number, index=index):
            assert (number + 1) << level <= index
            return NODES[level, number]

        for earlier in {0, index // 2, max(0, index - 1), index}:
            found = earlier_path(earlier, index, size, LEAVES[index], path, beginning)
            assert found == inclusion_proof(earlier, size, node_at)


@pytest.mark.parametrize("height", [1, 3, 8])
def test_two_trees_are_compared_from_the_top_down(height):
    for place in (0, 1, 7, 63, 64, 100, 129):
        other = grow([*LEAVES[:place], *(leaf_hash(b"other %d" % i) for i in range(N - place))])
        asked = []

        def other_at(level, number, other=other, asked=asked):
            asked.append((level, number))
            return other[level, number]

        assert parts_at(node_at, N, other_at, N, height) == place
        assert len(asked) <= 2 * max(N.bit_length() / height, 1) * 2**height
        assert parts_at(node_at, place, other_at, N, height) is None
    assert parts_at(node_at, 100, node_at, 130, height) is None

"""A log as tiles: paths, widths, bundles, and the same proofs from tiles as from the log itself."""

from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import BadProof
from ledger.merkle import (
    appended,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from ledger.tiles import Tile, TileTree, bundle, tile_bytes, tiles_of, unbundle

N = 70_000
NODES: dict[tuple[int, int], bytes] = {}


def node_at(level, index):
    return NODES[level, index]


@cache
def entries():
    made = [b"entry %d" % i for i in range(N)]
    for size, entry in enumerate(made):
        for level, index, hash_ in appended(size, leaf_hash(entry), node_at):
            NODES[level, index] = hash_
    return made


def fetch_at(size):
    """A server of this log at one size, which has no other partial tiles."""
    entries()

    def fetch(path):
        tile = Tile.parse(path)
        assert tile.width == tile.width_at(size), path
        return tile_bytes(tile, node_at)

    return fetch


def test_an_index_is_spelled_in_groups_of_three():
    assert Tile(0, 1_234_067).path() == "tile/0/x001/x234/067"
    assert Tile(None, 5, 12).path() == "tile/entries/005.p/12"
    assert Tile(63, 1000).path() == "tile/63/x001/000"


@given(st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 10**12), st.integers(1, 256))
def test_a_path_reads_as_the_tile_it_was_made_of(level, index, width):
    tile = Tile(level, index, width)

    assert Tile.parse(tile.path()) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/64/000",
        "tile/00/000",
        "tile/0/0",
        "tile/0/000/001",
        "tile/0/x000/001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/entry/000",
        "tile/0/../000",
        "/tile/0/000",
        "tile/0/" + "x001/" * 30 + "000",
        "tile/0/٠٠٠",
    ],
)
def test_another_spelling_of_a_path_is_refused(path):
    with pytest.raises(BadProof):
        Tile.parse(path)


def test_the_standards_example_has_the_tiles_it_says():
    """C2SP tlog-tiles: 70,000 entries are 273 full tiles and one of 112, then 1 + 17, then 1."""
    widths = {level: [tile.width for tile in tiles_of(70_000, level)] for level in range(4)}

    assert widths == {0: [256] * 273 + [112], 1: [256, 17], 2: [1], 3: []}
    assert [tile.width for tile in tiles_of(256, 1)] == [1]
    assert [tile.path() for tile in tiles_of(300, None, start=256)] == ["tile/entries/001.p/44"]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 1000, 65_536, 65_537, 70_000])
def test_17_proofs_from_fetched_tiles_are_the_logs_own(size):
    tree = TileTree(size, fetch_at(size))

    assert root(size, tree.node_at) == root(size, node_at)
    for index in {0, 1, size // 3, size - 1} & set(range(size)):
        path = inclusion_proof(index, size, tree.node_at)
        assert path == inclusion_proof(index, size, node_at)
        verify_inclusion(leaf_hash(entries()[index]), index, size, path, root(size, node_at))
    for old in {1, size // 2 + 1, size}:
        path = consistency_proof(old, size, tree.node_at)
        assert path == consistency_proof(old, size, node_at)
        verify_consistency(old, size, path, root(old, node_at), root(size, node_at))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3000), st.data())
def test_17_any_proof_of_any_size_comes_out_alike(size, data):
    tree = TileTree(size, fetch_at(size))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))

    assert inclusion_proof(index, size, tree.node_at) == inclusion_proof(index, size, node_at)
    assert consistency_proof(old, size, tree.node_at) == consistency_proof(old, size, node_at)


def test_a_tile_that_was_tampered_with_leads_to_another_root():
    fetch = fetch_at(1000)
    for forged in ("tile/0/001", "tile/0/003.p/232", "tile/1/000.p/3"):

        def lie(path, forged=forged):
            data = fetch(path)
            return sha256(data[:32]).digest() + data[32:] if path == forged else data

        tree = TileTree(1000, lie)
        proofs = [inclusion_proof(index, 1000, tree.node_at) for index in (0, 300, 999)]
        honest = [inclusion_proof(index, 1000, node_at) for index in (0, 300, 999)]
        assert root(1000, tree.node_at) != root(1000, node_at) or proofs != honest


def test_a_tile_of_another_length_is_refused():
    for data in (b"", bytes(31), bytes(256 * 32 + 1)):
        with pytest.raises(BadProof):
            TileTree(256, lambda path, data=data: data).node_at(0, 0)
    with pytest.raises(BadProof):
        TileTree(256, fetch_at(256)).node_at(0, 256)


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_a_bundle_reads_as_it_was_made(made):
    assert unbundle(bundle(made)) == made


def test_a_bundle_that_is_cut_or_too_long_is_refused():
    whole = bundle([b"one", b"two"])
    for cut in range(1, len(whole)):
        if cut != len(bundle([b"one"])):
            with pytest.raises(BadProof):
                unbundle(whole[:cut])
    with pytest.raises(BadProof):
        unbundle(bundle([b""]) * 257)
    with pytest.raises(BadProof):
        bundle([bytes(65_536)])

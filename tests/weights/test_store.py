"""What is kept of a model while it arrives in pieces, and what is believed of it later."""

import errno
import json
import multiprocessing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.weights.ranges import gaps, merged, without
from manyhands.weights.store import Store, require_disk, room_for
from node.engine import load_shard
from protocol.describing import make_manifest
from protocol.errors import ConfigError, IntegrityError, OutOfMemory
from protocol.manifest import Manifest
from protocol.messages import Span
from protocol.pieces import Piece, cut_pieces
from tests.checkpoints import write_checkpoint

RUNS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), max_shard_size="200KB")


@pytest.fixture(scope="module")
def manifest(model: Path) -> Manifest:
    return make_manifest(model)


@pytest.fixture
def store(manifest: Manifest, tmp_path: Path) -> Store:
    return Store.at(tmp_path / "store", manifest)


def blocks(manifest: Manifest, *numbers: int) -> tuple[Piece, ...]:
    names = [n for n in manifest.tensors if any(f"layers.{i}." in n for i in numbers)]
    return cut_pieces(manifest, names, piece_bytes=20_000)


def fill(store: Store, model: Path, pieces: tuple[Piece, ...]) -> None:
    with store.held(), store.writing() as writer:
        for piece in pieces:
            writer.write(
                piece.file, piece.start, (model / piece.file).read_bytes()[piece.start : piece.stop]
            )
            writer.keep(piece.file, piece.start, piece.stop)
            store.hashes.update(store.found(piece))


def bytes_of(runs: object) -> set[int]:
    return {i for start, stop in runs for i in range(start, stop)}  # type: ignore[attr-defined]


@given(runs=RUNS, more=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_runs_of_bytes_are_sets_of_bytes(
    runs: list[tuple[int, int]], more: tuple[int, int]
) -> None:
    whole = merged(runs)

    assert bytes_of(whole) == bytes_of(runs)
    assert all(a[1] < b[0] for a, b in pairwise(whole))
    assert bytes_of(without(whole, more)) == bytes_of(whole) - bytes_of([more])
    assert bytes_of(gaps(whole, more)) == bytes_of([more]) - bytes_of(whole)


def test_pieces_are_the_headers_and_every_wanted_tensor_once(manifest: Manifest) -> None:
    pieces = blocks(manifest, 2, 3)

    named = [name for piece in pieces for name in piece.tensors]
    assert sorted(named) == sorted(n for n in manifest.tensors if ".2." in n or ".3." in n)
    for piece in pieces:
        if piece.is_header:
            assert not piece.tensors
            continue
        entries = [manifest.tensors[name].entry for name in piece.tensors]
        assert (piece.start, piece.stop) == (entries[0].start, entries[-1].stop)
        assert all(a.stop == b.start for a, b in pairwise(entries))
    assert {p.file for p in pieces if p.is_header} == {p.file for p in pieces}


def test_a_span_alone_loads_from_files_with_holes(
    model: Path, manifest: Manifest, store: Store
) -> None:
    store.keep_small(
        {f.name: (model / f.name).read_bytes() for f in manifest.files if not f.is_weights}
    )
    fill(store, model, blocks(manifest, 2, 3))

    engine = load_shard(store.place, Span(2, 4), dtype="float32")

    assert engine.span == Span(2, 4)
    file = next(iter(store.ranges))
    assert (store.place / file).stat().st_size == (model / file).stat().st_size


def test_a_later_run_knows_what_an_earlier_one_kept(
    model: Path, manifest: Manifest, store: Store
) -> None:
    pieces = blocks(manifest, 1)
    fill(store, model, pieces[:2])

    again = Store.at(store.place, manifest)

    assert [bool(again.missing(piece)) for piece in pieces[:3]] == [False, False, True]
    assert again.known.tensors[pieces[1].tensors[0]] == manifest.tensors[pieces[1].tensors[0]]
    with pytest.raises(IntegrityError, match="is not in"):
        again.require(pieces)
    (store.place / "fetched.json").write_text("{}")
    assert Store.at(store.place, manifest).missing(pieces[0])


def test_a_tensor_that_changed_since_is_named_forgotten_and_fetched_again(
    model: Path, manifest: Manifest, store: Store
) -> None:
    pieces = blocks(manifest, 1)
    fill(store, model, pieces)
    victim = pieces[-1]
    path = store.place / victim.file
    data = bytearray(path.read_bytes())
    data[victim.stop - 1] ^= 1
    path.write_bytes(data)

    with pytest.raises(IntegrityError, match=f"tensor {victim.tensors[-1]}"), store.held():
        pass

    with store.held():
        assert store.missing(victim)
        store.require(pieces[:-1])
    fill(store, model, (victim,))
    store.require(pieces)


def test_only_what_was_checked_is_shared(model: Path, manifest: Manifest, store: Store) -> None:
    pieces = blocks(manifest, 1)
    fill(store, model, pieces[:2])
    with store.held(), store.writing() as writer:
        writer.write(pieces[2].file, pieces[2].start, b"?")
        writer.keep(pieces[2].file, pieces[2].start, pieces[2].start + 1)

    path, ranges = store.shared()[pieces[1].file]

    assert path.read_bytes()[pieces[1].start : pieces[1].stop]
    assert gaps(ranges, (pieces[1].start, pieces[1].stop)) == ()
    assert gaps(ranges, (pieces[2].start, pieces[2].start + 1))


def _keep_one(place: Path, manifest: bytes, model: Path, number: int) -> None:
    made = Manifest.from_json(manifest)
    fill(Store.at(place, made), model, blocks(made, number))


def test_two_processes_that_fetch_at_once_lose_nothing(
    model: Path, manifest: Manifest, store: Store
) -> None:
    # From a server of its own: a fork of this process would take over locks that its threads hold.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    given = (store.place, manifest.to_json(), model)
    processes = [context.Process(target=_keep_one, args=(*given, i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4

    store.reload()
    store.require(blocks(manifest, 0, 1, 2, 3))
    assert store.known.tensors == {  # what others said of the rest is not repeated
        name: place if name in store.hashes else replace(place, sha256=b"")
        for name, place in manifest.tensors.items()
    }


def test_a_full_disk_says_what_is_needed_and_what_is_free(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"3\.00 GiB are to be fetched.* 1\.00 GiB free"):
        require_disk(tmp_path / "not" / "yet", 3 * 2**30, lambda place: 2**30)
    with (
        pytest.raises(OutOfMemory, match=r"the disk of .* is full"),
        room_for(tmp_path, 5 << 20),
        open("/dev/full", "wb", buffering=0) as disk,
    ):
        disk.write(b"x")
    with pytest.raises(ConfigError, match="cannot be written"), room_for(tmp_path, 1):
        raise OSError(errno.EROFS, "read-only")
    with pytest.raises(OSError, match="broken"), room_for(tmp_path, 1):
        raise OSError(errno.EIO, "broken")


def test_the_record_holds_nothing_but_what_its_manifest_names(store: Store) -> None:
    store.save()

    record = json.loads((store.place / "fetched.json").read_text())
    assert set(record) == {"schema", "ranges", "hashes", "sources", "seen"}

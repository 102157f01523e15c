"""A manifest: the same files make the same fingerprint, and nothing else does."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.config_limits import MAX_BLOCKS, MAX_COUNT, MAX_SIZE, check_config
from protocol.describing import make_manifest
from protocol.errors import BadModel, IntegrityError
from protocol.file_hashes import hash_tensors
from protocol.manifest import FileEntry, Manifest
from protocol.tensor_table import TensorEntry
from tests.checkpoints import write_checkpoint

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_checkpoint(tmp_path_factory.mktemp("model"), max_shard_size="200KB")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "README.md").write_text("not part of the model")
    return directory


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def test_a_manifest_describes_the_model(model: Path) -> None:
    manifest = make_manifest(model, name="wanderer", licence="MIT")

    assert (manifest.name, manifest.licence) == ("wanderer", "MIT")
    assert manifest.architecture == "LlamaForCausalLM"
    assert (manifest.n_blocks, manifest.hidden_size) == (6, 64)
    assert (manifest.vocab_size, manifest.max_positions) == (320, 256)
    names = [file.name for file in manifest.files]
    assert names == sorted(names)
    assert "README.md" not in names
    assert [file.name for file in manifest.small_files()] == [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
    ]


def test_every_tensor_can_be_found_by_its_place(model: Path) -> None:
    from safetensors.torch import load_file

    manifest = make_manifest(model)

    for file in {place.file for place in manifest.tensors.values()}:
        for name, tensor in load_file(model / file).items():
            place = manifest.tensors[name]
            data = (model / place.file).read_bytes()[place.entry.start : place.entry.stop]
            assert (place.file, data) == (file, tensor.numpy().tobytes())
            assert place.entry.shape == tuple(tensor.shape)


def test_equal_files_have_one_fingerprint_whatever_the_directory_is_called(
    model: Path, copy: Path
) -> None:
    first = make_manifest(model, name="one", licence="MIT")
    second = make_manifest(copy, name="two", licence="Apache-2.0")

    assert len(first.digest) == 32
    assert first.digest == second.digest
    assert first.canonical() == second.canonical()


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "generation_config.json"])
def test_one_other_byte_makes_another_fingerprint(model: Path, copy: Path, file: str) -> None:
    with (copy / file).open("ab") as changed:
        changed.write(b"\n")

    assert make_manifest(copy).digest != make_manifest(model).digest


def test_a_manifest_survives_its_journey(model: Path) -> None:
    manifest = make_manifest(model, name="wanderer")

    arrived = Manifest.from_json(manifest.to_json())

    assert arrived == manifest
    assert arrived.digest == manifest.digest


def test_files_are_hashed_once_until_they_change(copy: Path, tmp_path: Path) -> None:
    cache, phases = tmp_path / "cache", []

    def report(file: str, fraction: float) -> None:
        phases.append(file)

    first = make_manifest(copy, cache=cache, progress=report)
    assert {file.name for file in first.files} == set(phases)
    phases.clear()
    assert make_manifest(copy, cache=cache, progress=report) == first
    assert phases == []

    (copy / "tokenizer.json").write_text("{ }")
    assert make_manifest(copy, cache=cache, progress=report).digest != first.digest
    assert set(phases) == {"tokenizer.json"}

    for note in cache.iterdir():
        note.write_text("scribbled over")
    assert make_manifest(copy, cache=cache).file("tokenizer.json").n_bytes == 3


def test_tensors_are_hashed_with_the_files_and_stay_outside_the_fingerprint(
    model: Path, tmp_path: Path
) -> None:
    manifest = make_manifest(model, cache=tmp_path)

    for place in manifest.tensors.values():
        data = (model / place.file).read_bytes()[place.entry.start : place.entry.stop]
        assert place.sha256 == sha256(data).digest()
    bare = replace(
        manifest,
        tensors={n: replace(p, sha256=b"") for n, p in manifest.tensors.items()},
        licence="MIT",
        revision="main",
    )
    assert bare.digest == manifest.digest
    known = {name: place.sha256 for name, place in manifest.tensors.items()}
    assert Manifest.from_json(bare.to_json()).with_hashes(known).tensors == manifest.tensors


@settings(max_examples=30)
@given(data=st.data())
def test_tensors_hash_alike_however_the_reading_is_cut(data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=200))
    bounds = st.integers(0, len(content))
    spans = data.draw(st.lists(st.tuples(bounds, bounds).map(sorted), max_size=6))
    table = {str(i): TensorEntry("U8", (b - a,), a, b) for i, (a, b) in enumerate(spans)}
    chunk = data.draw(st.integers(1, 64))

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file"
        path.write_bytes(content)
        found = hash_tensors(path, table, chunk_bytes=chunk)

    assert found.sha256 == sha256(content).digest()
    for name, entry in table.items():
        assert found.tensors[name] == sha256(content[entry.start : entry.stop]).digest()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_directory_that_says_what_it_holds_must_hold_it(copy: Path) -> None:
    stated = make_manifest(copy, licence="MIT", revision="abc")
    (copy / "manifest.json").write_bytes(stated.to_json())
    assert make_manifest(copy) == replace(stated, name=copy.name)

    name, place = next((n, p) for n, p in stated.tensors.items() if "layers.3" in n)
    flip(copy / place.file, place.entry.start)
    with pytest.raises(BadModel, match=f"tensor {name} in {place.file} is damaged"):
        make_manifest(copy)
    flip(copy / place.file, place.entry.start)
    (copy / "generation_config.json").unlink()
    with pytest.raises(BadModel, match=r"generation_config.json is missing"):
        make_manifest(copy)


def test_a_manifest_that_gives_a_sound_tensor_another_hash_is_found_out(copy: Path) -> None:
    stated = make_manifest(copy)
    name = next(iter(stated.tensors))
    (copy / "manifest.json").write_bytes(stated.with_hashes({name: bytes(32)}).to_json())

    with pytest.raises(BadModel, match=f"gives tensor {name} a hash it has not"):
        make_manifest(copy)

    (copy / "manifest.json").write_text('{"some": "web app"}')
    assert make_manifest(copy).digest == stated.digest


def test_a_file_of_the_hubs_cache_is_what_it_is_called(copy: Path, tmp_path: Path) -> None:
    digest = sha256((copy / "tokenizer.json").read_bytes()).hexdigest()
    (copy / "tokenizer.json").rename(tmp_path / digest)
    (copy / "tokenizer.json").symlink_to(tmp_path / digest)
    make_manifest(copy)

    (tmp_path / digest).write_text("[]")
    with pytest.raises(BadModel, match=r"tokenizer.json is damaged"):
        make_manifest(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pkl"])
def test_pickled_weights_are_refused_by_name(copy: Path, name: str) -> None:
    for path in (*copy.glob("*.safetensors"), copy / INDEX):
        path.unlink()
    (copy / name).write_bytes(b"whatever its author wrote")

    with pytest.raises(BadModel, match="pickle"):
        make_manifest(copy)


def test_a_file_is_checked_against_its_entry(copy: Path) -> None:
    manifest = make_manifest(copy)
    manifest.check_file(copy, "config.json")
    text = (copy / "config.json").read_bytes()

    (copy / "config.json").write_bytes(text.replace(b"64", b"65", 1))
    with pytest.raises(IntegrityError, match="not the file the manifest describes"):
        manifest.check_file(copy, "config.json")
    (copy / "config.json").unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        manifest.check_file(copy, "config.json")
    with pytest.raises(KeyError):
        manifest.check_file(copy, "README.md")


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b", "a\0b", "a" * 201, "é"],
)
def test_names_that_leave_the_directory_are_refused(name: str) -> None:
    with pytest.raises(BadModel, match="no plain name"):
        FileEntry(name, 1, bytes(32))


def change(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.update(fields)


@pytest.mark.parametrize(
    "damage",
    [
        change(schema="manyhands/manifest/v3"),
        change(n_blocks=7),
        change(n_blocks=0, digest=None),
        change(n_blocks=MAX_BLOCKS + 1, digest=None),
        change(hidden_size=MAX_SIZE + 1, digest=None),
        change(n_blocks="many"),
        change(files=[]),
        change(files=[{"name": "../x", "n_bytes": 1, "sha256": "00" * 32}]),
        change(tensors={"a": ["config.json", "F32", [2], 0, 9]}),
        change(tensors={"a": ["config.json", "F32", [10**9], 0, 4 * 10**9]}),
        change(tensors={"a": ["elsewhere", "F32", [1], 0, 4]}),
        lambda manifest: next(iter(manifest["tensors"].values())).__setitem__(5, "00"),
        lambda manifest: next(iter(manifest["tensors"].values())).append("00" * 32),
        change(tensors=3),
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest["files"].reverse(),
        lambda manifest: manifest["files"][0].update(sha256="00"),
    ],
)
def test_a_damaged_manifest_is_refused(
    model: Path, damage: Callable[[dict[str, Any]], object]
) -> None:
    fields = json.loads(make_manifest(model).to_json())
    damage(fields)

    with pytest.raises(BadModel):
        Manifest.from_json(json.dumps(fields).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(BadModel):
        Manifest.from_json(data)


def test_a_directory_that_is_not_whole_makes_no_manifest(copy: Path, tmp_path: Path) -> None:
    files = json.loads((copy / INDEX).read_text())["weight_map"]
    (copy / next(iter(files.values()))).unlink()

    with pytest.raises(BadModel, match="cannot be read"):
        make_manifest(copy)
    with pytest.raises(BadModel, match="no model directory"):
        make_manifest(tmp_path / "nowhere")
    (copy / INDEX).write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(BadModel, match="no plain name"):
        make_manifest(copy)
    (copy / "config.json").write_text("{}")
    with pytest.raises(BadModel):
        make_manifest(copy)


@pytest.mark.parametrize(
    "absurd",
    [
        {"num_hidden_layers": 10**9},
        {"n_layer": float("inf")},
        {"num_hidden_layers": float("nan")},
        {"text_config": {"inner": {"num_hidden_layers": MAX_BLOCKS + 1}}},
        {"vocab_size": MAX_SIZE + 1},
        {"hidden_size": 10**30},
        {"num_experts": MAX_COUNT + 1},
        {"n_routed_experts": 10**9},
        {"num_attention_heads": 10**9},
        {"head_dim": 10**9},
    ],
)
def test_numbers_that_no_model_has_are_refused_before_anything_is_built(
    absurd: dict[str, Any],
) -> None:
    with pytest.raises(BadModel, match="no model has more than") as caught:
        check_config({"num_hidden_layers": 6, **absurd}, "here")
    assert "fetch" in caught.value.hint


def test_the_largest_models_are_within_the_limits() -> None:
    big = {"num_hidden_layers": 126, "hidden_size": 18432, "vocab_size": 262_208}
    check_config(
        big
        | {"max_position_embeddings": 10_485_760, "rope_theta": 1e8, "n_routed_experts": 512}
        | {"tie_word_embeddings": True, "pad_token_id": None, "num_layers": None},
        "here",
    )


def test_more_blocks_than_the_weights_hold_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))

    with pytest.raises(BadModel, match=r"says 7 blocks, the weights hold 6"):
        make_manifest(copy)


def test_a_damaged_directory_says_what_mends_it(copy: Path) -> None:
    index = json.loads((copy / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "../../../../etc/passwd"
    (copy / INDEX).write_text(json.dumps(index))
    with pytest.raises(BadModel, match="no plain name") as caught:
        make_manifest(copy)
    assert "fetch" in caught.value.hint

    (copy / "config.json").write_text("{")
    with pytest.raises(BadModel, match="not JSON") as caught:
        make_manifest(copy)
    assert "fetch the checkpoint again" in caught.value.hint

    (copy / "config.json").unlink()
    with pytest.raises(BadModel, match="no readable config") as caught:
        make_manifest(copy)
    assert "directory that holds config.json" in caught.value.hint

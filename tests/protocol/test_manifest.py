"""A manifest: the same files make the same fingerprint, and nothing else does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import BadModel, IntegrityError
from protocol.manifest import FileEntry, Manifest, make_manifest
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
        change(schema="manyhands/manifest/v2"),
        change(n_blocks=7),
        change(n_blocks=0, digest=None),
        change(n_blocks="many"),
        change(files=[]),
        change(files=[{"name": "../x", "n_bytes": 1, "sha256": "00" * 32}]),
        change(tensors={"a": ["config.json", "F32", [2], 0, 9]}),
        change(tensors={"a": ["config.json", "F32", [10**9], 0, 4 * 10**9]}),
        change(tensors={"a": ["elsewhere", "F32", [1], 0, 4]}),
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

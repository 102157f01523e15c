"""A hub that cuts, stalls, lies or refuses: a span arrives whole and checked, or one error says
why. All of it against a server on loopback that speaks the hub's protocol."""

import json
import shutil
from collections import deque
from pathlib import Path

import pytest

from manyhands.weights.download import Download, needed_ranges
from manyhands.weights.hub import Hub
from manyhands.weights.published import describe_published
from manyhands.weights.store import Store
from protocol.describing import make_manifest
from protocol.errors import BadModel, HubRefused, HubUnreachable, IntegrityError, NoSuchModel
from protocol.manifest import Manifest
from protocol.pieces import cut_pieces
from tests.checkpoints import write_checkpoint
from tests.hub_server import Fault, HubServer, hub_server
from tests.local_swarm import add_byte_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = write_checkpoint(tmp_path_factory.mktemp("model"), max_shard_size="400KB")
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return add_byte_tokenizer(directory)


@pytest.fixture(scope="module")
def manifest(model):
    return make_manifest(model)


@pytest.fixture
def server(model, monkeypatch):
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with hub_server(model) as running:
        yield running


@pytest.fixture
def hub(server):
    return Hub(server.name, stall_s=0.3, endpoint=server.url)


@pytest.fixture
def store(manifest, tmp_path):
    return Store.at(tmp_path / "store", manifest)


def block(manifest, *numbers):
    return [n for n in manifest.tensors if any(f"layers.{i}." in n for i in numbers)]


def fetch(hub: Hub, store: Store, wanted: list[str], **settings: object) -> list[str]:
    said: list[str] = []
    with store.held():
        Download(
            hub=hub,
            store=store,
            wanted=wanted,
            say=said.append,
            backoff_s=(0.01, 0.05),
            **settings,  # type: ignore[arg-type]
        ).run()
    store.require(cut_pieces(store.manifest, wanted))
    return said


def assert_same(store: Store, model: Path, wanted: list[str]) -> None:
    for name in wanted:
        place = store.manifest.tensors[name]
        data = (store.place / place.file).read_bytes()[place.entry.start : place.entry.stop]
        assert data == (model / place.file).read_bytes()[place.entry.start : place.entry.stop]


def partly(store: Store, wanted: list[str]) -> str:
    """A file of which some runs are needed, and not all of it."""
    needs = needed_ranges(store, wanted)
    return next(f for f, runs in needs.items() if runs != ((0, store.manifest.file(f).n_bytes),))


# What is published.


def test_the_digest_follows_from_what_the_hub_says_without_any_weights(hub, server, manifest):
    described, small = describe_published(hub, hub.look())

    assert described.digest == manifest.digest
    assert (described.licence, described.revision) == ("apache-2.0", server.commit)
    assert set(small) == {file.name for file in manifest.files if not file.is_weights}
    assert not any(place.sha256 for place in described.tensors.values())
    for file in manifest.files:
        if file.is_weights:
            assert server.sent[file.name] <= 2**17


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "llama3.3"}, "llama3.3"),
        ({"license": "other", "license_name": "deepseek"}, "deepseek"),
        ({"license": "other"}, "other"),
        ({}, ""),
    ],
)
def test_the_hub_says_the_licence(hub, server, card, licence):
    server.card = card

    assert hub.look().licence == licence


def test_weights_that_the_hub_states_no_hash_for_are_read_to_hash_them(hub, server, manifest):
    server.plain = {file.name for file in manifest.files if file.is_weights}

    assert describe_published(hub, hub.look())[0].digest == manifest.digest


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"name": "org/other"}, HubRefused, "no model org/model, or hides it"),
        ({"token": "secret"}, HubRefused, "no model org/model, or hides it"),
        ({"token": "secret", "gated": True}, HubRefused, "lets in who accepted its terms"),
    ],
)
def test_who_is_not_let_in_is_told_what_to_do(server, change, kind, words):
    hub = Hub("org/model", stall_s=0.3, endpoint=server.url)
    for name, value in change.items():
        setattr(server, name, value)

    with pytest.raises(kind, match=words) as caught:
        describe_published(hub, hub.look())

    assert "hf auth login" in caught.value.hint


def test_a_name_that_the_hub_does_not_know_is_a_wrong_question(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")

    with pytest.raises(NoSuchModel, match="has no model org/nothing") as caught:
        Hub("org/nothing", stall_s=0.3, endpoint=server.url).look()

    assert caught.value.exit_code == 2
    assert "check the name" in caught.value.hint


def test_a_token_opens_what_is_closed(server, hub, monkeypatch, manifest):
    server.token, server.gated = "secret", True
    monkeypatch.setenv("HF_TOKEN", "secret")

    assert describe_published(hub, hub.look())[0].digest == manifest.digest


def test_a_revision_that_is_not_there_is_named(server):
    with pytest.raises(BadModel, match="has no revision v2"):
        Hub(server.name, "v2", stall_s=0.3, endpoint=server.url).look()


def test_nobody_at_the_other_end_is_said_in_seconds():
    with pytest.raises(HubUnreachable, match="cannot be fetched"):
        Hub("org/model", stall_s=0.3, endpoint="http://127.0.0.1:9").look()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["pytorch_model.bin"], "pickle"),
        ([], "has no model.safetensors"),
        (["weights.gguf"], "GGUF"),
    ],
)
def test_a_model_without_safetensors_is_refused(tmp_path, model, files, words):
    shutil.copy(model / "config.json", tmp_path)
    for file in files:
        (tmp_path / file).write_bytes(b"x")

    with hub_server(tmp_path) as server:
        hub = Hub(server.name, stall_s=0.3, endpoint=server.url)
        with pytest.raises(BadModel) as caught:
            describe_published(hub, hub.look())

    assert words in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("place", ["../evil.safetensors", "a/b.safetensors", "/etc/passwd"])
def test_an_index_that_leads_out_of_its_directory_is_refused(tmp_path, model, place):
    shutil.copy(model / "config.json", tmp_path)
    index = {"weight_map": {"a": place}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    with hub_server(tmp_path, siblings=[place]) as server:
        hub = Hub(server.name, stall_s=0.3, endpoint=server.url)
        with pytest.raises(BadModel, match="no plain name"):
            describe_published(hub, hub.look())


# Fetching a span.


def test_only_what_the_span_needs_is_fetched_and_whole_files_where_that_is_most(
    hub, server, store, model, manifest
):
    wanted = [n for n, place in manifest.tensors.items() if "-00002-" in place.file]
    wanted += block(manifest, 0)

    fetch(hub, store, wanted)

    assert_same(store, model, wanted)
    needs = needed_ranges(store, wanted)
    for file in manifest.files:
        if file.is_weights:
            needed = sum(b - a for a, b in needs.get(file.name, ()))
            assert server.sent[file.name] == needed
    total = sum(file.n_bytes for file in manifest.files if file.is_weights)
    assert sum(server.sent.values()) < 0.7 * total
    assert set(store.sources.values()) == {"file", "hub"}
    server.asked.clear()
    fetch(hub, store, wanted)
    assert server.asked == []


FAULTS = {
    "cut": [Fault(cut=1000), Fault(cut=0), Fault(cut=70_000)],
    "stall": [Fault(stall=5000)],
    "passing": [Fault(status=503), Fault(status=429), Fault(status=500)],
    "no ranges": [Fault(whole=True)],
    "no ranges after a cut": [Fault(cut=3000), Fault(whole=True, cut=9000), Fault(whole=True)],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_a_transfer_that_stumbles_goes_on_where_it_stopped(
    hub, server, store, model, manifest, faults
):
    wanted = block(manifest, 1)
    file = partly(store, wanted)
    server.faults[file] = deque(faults)

    fetch(hub, store, wanted)

    assert_same(store, model, wanted)
    assert not server.faults[file]


def test_what_was_fetched_before_a_cut_is_not_fetched_again(hub, server, store, model, manifest):
    wanted = block(manifest, 1)
    file = partly(store, wanted)
    server.faults[file] = deque([Fault(), Fault(cut=100), *[Fault(status=503)] * 5])

    with pytest.raises(HubUnreachable, match="after 100 bytes"):
        fetch(hub, store, wanted)
    sent = dict(server.sent)
    again = Store.at(store.place, manifest)
    fetch(hub, again, wanted)

    assert_same(again, model, wanted)
    needed = sum(b - a for a, b in needed_ranges(again, wanted)[file])
    assert server.sent[file] == needed
    assert sent[file] < needed


def test_a_hub_that_stalls_for_good_is_given_up(hub, server, store, manifest):
    wanted = block(manifest, 1)
    server.faults[partly(store, wanted)] = deque([Fault(stall=0)] * 9)

    with pytest.raises(HubUnreachable, match=r"no byte for 0\.3 s, 3 times"):
        fetch(hub, store, wanted, tries=3)


def test_wrong_bytes_in_a_whole_file_are_fetched_once_more(hub, server, store, model, manifest):
    wanted = list(manifest.tensors)
    file = manifest.tensors[wanted[0]].file
    server.faults[file] = deque([Fault(flip=5000)])

    said = fetch(hub, store, wanted)

    assert_same(store, model, wanted)
    assert said == [f"{file} is not as it should be: fetching it again"]


def test_wrong_bytes_twice_are_an_error_that_names_the_file(hub, server, store, manifest):
    wanted = list(manifest.tensors)
    file = manifest.tensors[wanted[0]].file
    server.faults[file] = deque([Fault(flip=5000)] * 9)

    with pytest.raises(IntegrityError, match=f"{file} came from org/model on the hub, twice"):
        fetch(hub, store, wanted)

    assert Store.at(store.place, manifest).ranges[file] == ()


def test_wrong_bytes_in_a_range_are_found_out_where_peers_vouch(
    hub, server, store, model, manifest
):
    wanted = block(manifest, 1)
    file = partly(store, wanted)
    stated = {name: manifest.tensors[name].sha256 for name in wanted}
    name = next(n for n in wanted if manifest.tensors[n].file == file)
    server.faults[file] = deque([Fault(), Fault(flip=manifest.tensors[name].entry.start)])

    said = fetch(hub, store, wanted, stated=stated)

    assert said == [f"tensor {name} is not as it should be: fetching it again"]
    assert_same(store, model, wanted)
    assert {store.sources[n] for n in wanted if manifest.tensors[n].file == file} == {"peers"}


def test_peers_that_lie_about_a_hash_lose_against_the_whole_file(
    hub, server, store, model, manifest
):
    wanted = block(manifest, 1)
    file = partly(store, wanted)
    stated = {name: bytes(32) for name in wanted if manifest.tensors[name].file == file}

    fetch(hub, store, wanted, stated=stated)

    assert_same(store, model, wanted)
    assert {store.sources[name] for name in stated} == {"file"}
    assert all(store.hashes[name] == manifest.tensors[name].sha256 for name in stated)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(status=416), IntegrityError, "shorter on the hub"),
        (Fault(status=404), BadModel, "the hub lacks"),
        (Fault(status=403), HubRefused, "accepted its terms"),
        (Fault(another=True), IntegrityError, "another range"),
        (Fault(status=400), HubUnreachable, "answers 400"),
    ],
)
def test_an_answer_that_no_second_try_mends_ends_at_once(
    hub, server, store, manifest, fault, kind, words
):
    wanted = block(manifest, 1)
    server.faults[partly(store, wanted)].append(fault)

    with pytest.raises(kind, match=words) as caught:
        fetch(hub, store, wanted)

    assert caught.value.hint
    assert len(server.asked) <= 2


def test_a_file_that_was_replaced_meanwhile_is_not_mixed_with_its_heir(
    server, tmp_path, model, manifest
):
    wanted = block(manifest, 1)
    server.directory = Path(shutil.copytree(model, tmp_path / "copy"))
    hub = Hub(server.name, stall_s=0.3, endpoint=server.url)
    store = Store.at(tmp_path / "store", manifest)
    file = partly(store, wanted)
    server.faults[file] = deque([Fault(), Fault(cut=1000), Fault(status=503)])
    said: list[str] = []

    def replace(line: str) -> None:
        said.append(line)
        data = bytearray((model / file).read_bytes())
        (server.directory / file).write_bytes(data + b"more")

    with store.held(), pytest.raises(IntegrityError, match="bytes on the hub"):
        Download(hub=hub, store=store, wanted=wanted, say=replace, backoff_s=(0.01, 0.02)).run()

    assert said


def test_the_server_of_these_tests_is_a_hub_to_the_hubs_own_library(
    server: HubServer, tmp_path: Path, manifest: Manifest
) -> None:
    from huggingface_hub import hf_hub_download

    for file in manifest.files:
        copy = hf_hub_download(server.name, file.name, endpoint=server.url, cache_dir=tmp_path)

    assert make_manifest(Path(copy).parent).digest == manifest.digest

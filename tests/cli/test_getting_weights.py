"""A node that has nothing gets what its span needs: from a hub, from peers, or an error that says
what to do. Real processes; the hub is a server on loopback."""

import json
import shutil
import signal
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import pytest

from manyhands.fetching import bring_weights, missing_bytes
from manyhands.home import Home
from manyhands.licences import read_licence, require_accepted
from manyhands.models import BUILT_IN, Model, find_model
from manyhands.party import open_party
from manyhands.progress import Transfer
from manyhands.weights.store import Store
from node.engine import span_tensors
from node.engine.ends import ends_tensors, load_ends
from protocol.describing import make_manifest
from protocol.errors import HubUnreachable, LicenceNotAccepted
from protocol.messages import Span
from tests.cli.command import assert_explained, manyhands
from tests.hub_server import Fault, hub_server
from tests.swarm.processes import start, swarm

NAME = "org/model"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    copy = tmp_path_factory.mktemp("models") / "my-own-model"
    shutil.copytree(BUILT_IN, copy, ignore=shutil.ignore_patterns("manifest.json", "*.md"))
    return copy


@pytest.fixture
def hub(model):
    with hub_server(model) as running:
        yield running


@pytest.fixture
def env(tmp_path, hub):
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "MANYHANDS_HOME": str(tmp_path / "home"),
    }


@pytest.fixture
def inside(env, monkeypatch):
    """The same environment for this very process, which has read its own already."""
    from huggingface_hub import constants

    usual, ours = constants.ENDPOINT, env["HF_ENDPOINT"]
    urls = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(usual, ours)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", urls)
    monkeypatch.setattr(constants, "ENDPOINT", ours)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path(env["HF_HOME"]) / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", env["XDG_CACHE_HOME"])
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def plan(inside, here, env):
    def planned(*arguments):
        ended = here("plan", *arguments, "--json", "--home", env["MANYHANDS_HOME"])
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    return planned


@contextmanager
def started(env, *arguments):
    """A `serve` process in an environment of its own; gone on the way out."""
    options = ("--listen", "127.0.0.1:0", "--threads", 1)
    process = start("serve", *arguments, *options, environ=env)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


@contextmanager
def serving(env, *arguments):
    """The same, once it is ready, with what it said then."""
    with started(env, *arguments) as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield json.loads(line)


# From a hub.


def test_a_plan_for_a_model_on_the_hub_reads_headers_alone(plan, hub, model):
    told = plan(NAME, "--span", "2:5")

    whole = make_manifest(model)
    assert told["manifest"] == whole.digest.hex()
    assert (told["licence"], told["revision"]) == ("apache-2.0", hub.commit)
    assert told["fits"]
    assert told["weights_bytes"] < told["fetch_bytes"] < 1.1 * told["weights_bytes"]
    assert hub.sent["model.safetensors"] <= 2**17


@pytest.mark.swarm
def test_a_node_serves_a_span_that_it_fetched_from_the_hub_and_needs_it_no_more(
    env, inside, hub, model, tmp_path
):
    with serving(env, NAME, "--span", "2:5") as ready:
        assert ready["span"] == [2, 5]
    sent = hub.sent["model.safetensors"]
    assert 2**17 < sent < 0.6 * (model / "model.safetensors").stat().st_size

    inside()
    found = find_model(NAME)
    me = open_party(Home.at(tmp_path), "client")
    for span in (Span(2, 5), Span(3, 4)):
        bring_weights(found, span_tensors(found.directory, span, found.manifest.tensors),
                      party=me)  # fmt: skip
    with pytest.raises(HubUnreachable, match="are not here") as caught:
        bring_weights(found, found.manifest.tensors, party=me)

    assert "--join" in caught.value.hint
    assert hub.sent["model.safetensors"] == sent


def test_a_model_that_is_whole_in_the_hubs_own_cache_is_used_from_there(plan, env, hub, model):
    from huggingface_hub import hf_hub_download

    for file in make_manifest(model).files:
        cache = Path(env["HF_HOME"]) / "hub"
        hf_hub_download(NAME, file.name, endpoint=hub.url, cache_dir=cache)
    hub.asked.clear()

    told = plan(NAME, "--span", "2:5")

    assert told["fetch_bytes"] == 0
    assert told["revision"] == hub.commit
    assert hub.asked == []


def test_a_gated_model_says_how_to_log_in(plan, here, env, hub, monkeypatch):
    hub.gated, hub.token = True, "secret"
    monkeypatch.delenv("HF_TOKEN", raising=False)

    refused = here("plan", NAME, "--home", env["MANYHANDS_HOME"])

    assert_explained(refused, 6, "accepted its terms", "hf auth login")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert plan(NAME)["fits"]


def test_another_revision_is_another_model(plan, hub, here, env):
    assert plan(f"{NAME}@{hub.commit}")["revision"] == hub.commit

    ended = here("plan", f"{NAME}@v2", "--home", env["MANYHANDS_HOME"])

    assert_explained(ended, 8, "has no revision v2")


@pytest.mark.slow
@pytest.mark.swarm
def test_ctrl_c_while_fetching_keeps_what_came(env, plan, hub):
    hub.faults["model.safetensors"] = deque([Fault(), Fault(stall=3_000_000)])
    with started(env, NAME, "--span", "0:8") as process:
        deadline = time.monotonic() + 60
        while hub.sent["model.safetensors"] < 3_000_000 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in err
    assert "goes on there" in err
    told = plan(NAME)
    assert told["fetch_bytes"] < 4_500_000


def test_who_holds_the_ends_fetches_the_ends_alone(inside, hub, model, tmp_path):
    found = find_model(NAME)

    tensors = ends_tensors(found.directory, found.manifest.tensors)
    bring_weights(found, tensors, party=open_party(Home.at(tmp_path), "client"))

    assert tensors == {"model.embed_tokens.weight", "model.norm.weight"}
    assert hub.sent["model.safetensors"] < 2**17 + 900_000
    assert load_ends(found.directory, "float32").n_blocks == 8


# From peers.


@pytest.mark.swarm
def test_a_third_node_that_has_nothing_gets_its_span_from_peers_and_serves(
    tmp_path_factory, model, env, inside, hub
):
    own = env | {"HF_HUB_OFFLINE": "1"}
    ask = ("generate", "my-own-model", "--prompt", "Once", "--max-tokens", 8, "--json", "--join")
    with swarm(tmp_path_factory.mktemp("swarm"), str(model), ["0:4", "4:8"]) as nodes:
        join = [f"--join={node.address}" for node in nodes]
        options = ("--span", "4:8", *join, "--dtype", "float32")
        with serving(own, "my-own-model", *options) as ready:
            assert ready["span"] == [4, 8]
            nodes[1].end()
            asked = manyhands(*ask, ready["addresses"][0], **own)
        assert asked.code == 0, asked.err
        peers = [hop["peer"] for hop in json.loads(asked.out)["route"]]
        assert peers == [nodes[0].peer, ready["peer"]]
        sent = hub.sent["model.safetensors"]
        found = find_model(NAME)
        second = [name for name in found.manifest.tensors if "layers.1." in name]
        me = open_party(Home.at(tmp_path_factory.mktemp("me")), "client")
        bring_weights(found, second, party=me, join=[nodes[0].address])
        assert hub.sent["model.safetensors"] > sent  # from the hub, and a peer vouches
        sent = hub.sent["model.safetensors"]
        hub.faults["model.safetensors"].append(Fault(status=400))
        third = [name for name in found.manifest.tensors if "layers.2." in name]
        bring_weights(found, third, party=me, join=[nodes[0].address])
        assert hub.sent["model.safetensors"] == sent  # from a peer, for the hub would not

    manifest = make_manifest(model)
    cache = Path(env["XDG_CACHE_HOME"]) / "manyhands" / "models"
    store = Store.at(cache / manifest.digest.hex(), manifest)
    assert set(store.sources.values()) == {"peers"}
    skipped = [f"layers.{i}." for i in (0, 3)]
    assert set(store.hashes) == {
        name for name in manifest.tensors if not any(part in name for part in skipped)
    }


# Licences.


def carded(tmp_path, licence):
    directory = tmp_path / "carded"
    shutil.copytree(BUILT_IN, directory, ignore=shutil.ignore_patterns("manifest.json", "*.md"))
    (directory / "README.md").write_text(f"---\ntags: [a]\n{licence}\n---\n# Model\n")
    return directory


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("license: mit", "mit"),
        ('license: "apache-2.0"', "apache-2.0"),
        ("license: other\nlicense_name: llama3.1", "llama3.1"),
        ("language: en", ""),
    ],
)
def test_a_model_card_states_the_licence(tmp_path, text, licence):
    assert read_licence(carded(tmp_path, text)) == licence


def test_a_licence_file_is_second_best(tmp_path):
    assert read_licence(tmp_path) == ""
    (tmp_path / "LICENSE").write_text("   Apache License\n Version 2.0")
    assert read_licence(tmp_path) == "apache-2.0"
    (tmp_path / "LICENSE").write_text("You may not.")
    assert read_licence(tmp_path) == "other"


def test_terms_of_its_own_are_accepted_once_for_a_model(tmp_path):
    home = Home.at(tmp_path / "home")
    manifest = make_manifest(BUILT_IN, licence="llama3.1")

    with pytest.raises(LicenceNotAccepted, match=r"llama3\.1") as caught:
        require_accepted(home, manifest, accepts=False)
    assert "--accept-licence" in caught.value.hint
    require_accepted(home, manifest, accepts=True)
    require_accepted(home, manifest, accepts=False)
    with pytest.raises(LicenceNotAccepted):
        require_accepted(home, make_manifest(BUILT_IN, licence="gemma"), accepts=False)
    require_accepted(home, make_manifest(BUILT_IN, licence="MIT"), accepts=False)


def test_serve_refuses_a_model_whose_terms_nobody_accepted(tmp_path):
    directory = carded(tmp_path, "license: llama3")

    ended = manyhands("serve", directory, "--home", tmp_path / "home", "--listen", "127.0.0.1:0")

    assert_explained(ended, 3, "llama3", "--accept-licence")


# Plans and progress.


def test_a_plan_that_does_not_fit_ends_with_code_7_and_says_what_would(tmp_path, here):
    ended = here("plan", "tiny", "--home", tmp_path, "--kv-cache", "900TiB", "--json")

    assert ended.code == 7
    assert json.loads(ended.out)["fits"] is False
    assert "would fit" in ended.err


@pytest.mark.slow
def test_serve_says_its_plan_before_it_loads_and_refuses_early(tmp_path):
    ended = manyhands(
        *("serve", "tiny", "--home", tmp_path, "--listen", "127.0.0.1:0"),
        *("--span", "0:4", "--kv-cache", "900TiB"),
    )

    assert_explained(ended, 7, "blocks 0:4 of tiny", "positions")


def test_a_directory_lacks_nothing():
    assert missing_bytes(find_model("tiny"), ["model.norm.weight"]) == 0
    assert isinstance(find_model("tiny"), Model)


def test_progress_says_how_much_how_fast_and_how_long():
    now, told = [100.0], []
    transfer = Transfer("x", 3 * 2**30, clock=lambda: now[0], tell=told.append)

    for _ in range(3):
        now[0] += 8
        transfer(2**30)

    assert told == [
        "x: 2.0 GiB of 3.0 GiB, 128 MiB/s, 8 s left",
        "x: 3.0 GiB of 3.0 GiB, 128 MiB/s",
    ]

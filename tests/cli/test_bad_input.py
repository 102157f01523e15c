"""Bad input at the front door: the documented code, what is wrong, and what mends it."""

import fcntl
import json
import os
import shutil
import socket

import pytest

from ledger.log import Ledger
from manyhands.home import Home
from manyhands.models import BUILT_IN
from manyhands.running import Running, recorded
from protocol.identity import load_or_create_identity
from protocol.signing import OPEN_SWARM_ID
from tests.cli.command import assert_explained, manyhands

PEER = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWMSrDsLWgLuz4ojGYuVMRJauJvZ2d5guKgrYedvuNdkdY"


def generate(tmp_path, *arguments, run=manyhands, **more):
    return run("generate", "tiny", "--home", tmp_path / "home", "--join", PEER, *arguments, **more)


def serve(tmp_path, model="tiny", *arguments):
    home = ("--home", tmp_path / "home", "--listen", "127.0.0.1:0")
    return manyhands("serve", model, *home, *arguments)


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(
        BUILT_IN, tmp_path / "model", ignore=shutil.ignore_patterns("manifest.json")
    )


# Prompts and what is asked for.


@pytest.mark.parametrize("n", [0, -5])
def test_max_tokens_is_at_least_one(tmp_path, here, n):
    ended = generate(tmp_path, "--prompt", "x", "--max-tokens", n, run=here)

    assert_explained(ended, 2, "--max-tokens")


def test_a_prompt_that_is_not_utf8_is_refused_from_the_command_line_and_from_stdin(tmp_path):
    from_flag = generate(tmp_path, "--prompt", os.fsdecode(b"caf\xe9"))
    from_stdin = generate(tmp_path, stdin=b"caf\xe9")

    assert_explained(from_flag, 2, "not UTF-8")
    assert_explained(from_stdin, 2, "not UTF-8", "byte 3")


@pytest.mark.parametrize("ids", ["1,two", "", "1,999999", "-1"])
def test_prompt_ids_are_ids_of_the_vocabulary(tmp_path, here, ids):
    ended = generate(tmp_path, f"--prompt-ids={ids}", run=here)

    assert ended.code == 2
    assert "error: " in ended.err
    assert "Traceback" not in ended.err


def test_an_empty_prompt_has_no_tokens(tmp_path):
    ended = generate(tmp_path, stdin=b"")

    assert ended.code == 2
    assert "no tokens" in ended.err


def test_a_prompt_longer_than_the_context_is_refused_and_never_cut(tmp_path, here):
    context = json.loads((BUILT_IN / "config.json").read_text())["max_position_embeddings"]

    too_long = generate(tmp_path, "--prompt-ids", ",".join(["5"] * context), run=here)
    no_room = generate(tmp_path, "--prompt-ids", "5,6", "--max-tokens", context, run=here)

    assert_explained(too_long, 2, f"context is {context} tokens", f"has {context}")
    assert_explained(no_room, 2, f"--max-tokens {context - 2}")


@pytest.mark.parametrize("flag", ["--temperature=-1", "--top-p=0", "--top-k=-2", "--seed=-1"])
def test_sampling_has_bounds(tmp_path, here, flag):
    ended = generate(tmp_path, "--prompt", "x", flag, run=here)

    assert ended.code == 2
    assert flag[2:].split("=")[0].replace("-", "_") in ended.err


def test_two_prompts_are_one_too_many(tmp_path, here):
    ended = generate(tmp_path, "--prompt", "x", "--prompt-ids", "1", run=here)

    assert ended.code == 2
    assert "exclude" in ended.err


def test_with_jsonl_the_last_line_says_what_failed(tmp_path):
    ended = generate(tmp_path, "--prompt", "x", "--max-tokens", 0, "--jsonl")

    assert ended.code == 2
    assert json.loads(ended.out.splitlines()[-1])["event"] == "error"
    assert json.loads(ended.out)["code"] == "usage"


# Peers.


@pytest.mark.parametrize("timeout_s", [2, 5])
def test_nobody_at_the_join_address_ends_with_code_4_whatever_the_timeout(tmp_path, timeout_s):
    ended = generate(tmp_path, "--prompt", "x", "--timeout", timeout_s)

    assert_explained(ended, 4, PEER[-52:], "check the --join addresses")


def test_no_join_and_no_swarm_here_ends_with_code_4(tmp_path):
    ended = manyhands("generate", "tiny", "--prompt", "x", "--home", tmp_path)

    assert_explained(ended, 4, "no swarm runs", "manyhands up")
    assert_explained(manyhands("status", "--home", tmp_path), 4, "manyhands up")


# Models.


def test_a_model_that_is_not_there_ends_with_code_2(tmp_path):
    assert_explained(serve(tmp_path, tmp_path / "nothing"), 2, "no model directory")


def test_a_damaged_tensor_is_named_where_a_manifest_tells(tmp_path, model):
    shutil.copy(BUILT_IN / "manifest.json", model)
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)

    assert_explained(serve(tmp_path, model), 8, "tensor model.norm.weight", "manifest.json")


def test_a_hub_name_that_cannot_be_fetched_says_how_to_fetch_it(tmp_path):
    ended = manyhands("serve", "nobody/nothing", "--home", tmp_path, HF_HUB_OFFLINE="1")

    assert_explained(ended, 4, "nobody/nothing", "hf download")


def test_a_truncated_weights_file_ends_with_code_8(tmp_path, model):
    weights = model / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)

    assert_explained(serve(tmp_path, model), 8, "model.safetensors")


def test_a_corrupt_weights_header_ends_with_code_8(tmp_path, model):
    (model / "model.safetensors").write_bytes(b"\xff" * 4096)

    assert_explained(serve(tmp_path, model), 8, "model.safetensors")


def test_an_architecture_nobody_here_can_serve_ends_with_code_8(tmp_path, model):
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config))

    assert_explained(serve(tmp_path, model), 8, "MambaForCausalLM")


def test_a_span_outside_the_model_ends_with_code_2(tmp_path):
    assert_explained(serve(tmp_path, "tiny", "--span", "4:9"), 2, "0:8")


def test_a_port_in_use_is_said_before_anything_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home = ("--home", tmp_path / "home", "--listen", f"127.0.0.1:{port}")
        ended = manyhands("serve", "tiny", *home)

    assert_explained(ended, 3, f"port {port}", "in use", "127.0.0.1:0")


def test_memory_for_no_session_is_said_before_anything_is_loaded(tmp_path):
    for size in ("0", "1K"):
        ended = serve(tmp_path, "tiny", "--kv-cache", size)

        assert_explained(ended, 3, "holds no session", "--kv-cache")
        assert "torch" not in ended.err


def test_an_adapter_that_is_not_there_is_said_before_anything_is_loaded(tmp_path):
    ended = serve(tmp_path, "tiny", "--adapter", f"x={tmp_path}/nothing")

    assert_explained(ended, 8, "adapter_config.json")
    assert "torch" not in ended.err


# Homes and ledgers.


def test_a_home_that_cannot_be_written_ends_with_code_3(tmp_path):
    (tmp_path / "home").write_text("a file, not a directory")

    assert_explained(serve(tmp_path), 3, "--home DIR")


def test_a_key_that_others_can_read_ends_with_code_3(tmp_path):
    load_or_create_identity(tmp_path / "home" / "node" / "identity.key")
    (tmp_path / "home" / "node" / "identity.key").chmod(0o644)

    assert_explained(serve(tmp_path), 3, "others can read", "chmod 600")


def test_a_second_node_on_one_home_names_the_first(tmp_path):
    lock = tmp_path / "home" / "node" / "lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("4711\n")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        assert_explained(serve(tmp_path), 3, "pid 4711", "--home DIR")


def test_a_truncated_ledger_ends_with_code_8(tmp_path):
    node = tmp_path / "home" / "node"
    identity = load_or_create_identity(node / "identity.key")
    Ledger.open(node, identity.key, OPEN_SWARM_ID).close()
    os.truncate(node / "ledger.sqlite", 5000)

    assert_explained(serve(tmp_path), 8, "ledger.sqlite")


def test_a_ledger_of_another_identity_ends_with_code_3(tmp_path):
    node = tmp_path / "home" / "node"
    identity = load_or_create_identity(node / "identity.key")
    Ledger.open(node, identity.key, OPEN_SWARM_ID).close()
    (node / "identity.key").unlink()

    assert_explained(serve(tmp_path), 3, "another identity", "identity.key")


def test_homes_are_private_and_identity_shows_who_they_are(tmp_path):
    before = manyhands("identity", "--home", tmp_path / "home")
    generate(tmp_path, "--prompt", "x", "--timeout", 0.5)
    after = manyhands("identity", "--home", tmp_path / "home", "--json")

    assert_explained(before, 3, "no key")
    shown = json.loads(after.out)
    assert shown["schema"] == "manyhands/identity/v1"
    assert shown["client"]["peer"].startswith("12D3KooW")
    home = tmp_path / "home"
    assert [home.stat().st_mode & 0o777, (home / "client").stat().st_mode & 0o777] == [0o700] * 2
    assert (home / "client" / "identity.key").stat().st_mode & 0o777 == 0o600


def test_a_gpu_that_is_required_and_not_here_ends_before_anything_is_loaded(tmp_path):
    ended = manyhands(
        "serve", "tiny", "--home", tmp_path / "home", "--require-gpu", "--device", "cpu"
    )

    assert ended.code == 3
    assert "there is no GPU here that torch can use" in ended.err or "CPUs only" in ended.err


def test_two_swarms_on_one_home_would_start_each_others_nodes(tmp_path):
    mine = Running(command="up", pid=os.getpid(), model="tiny", addresses=())
    with recorded(Home.at(tmp_path), mine):
        ended = manyhands("up", "--home", tmp_path, "--port", 0)

    assert_explained(ended, 3, f"as pid {os.getpid()}")

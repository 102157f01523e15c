"""A client with nothing but an address and a model's name; a swarm in another process serves it."""

import json
import shutil
import signal

import pytest

from manyhands.models import BUILT_IN
from tests.cli.command import assert_explained, manyhands
from tests.swarm.processes import start, swarm

pytestmark = pytest.mark.swarm


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    copy = tmp_path_factory.mktemp("models") / "my-own-model"
    shutil.copytree(BUILT_IN, copy)
    with swarm(tmp_path_factory.mktemp("swarm"), str(copy), ["0:8"]) as running:
        yield running


def asking(nodes, home, model):
    join = f"--join={nodes[0].address}"
    prompt = ("--prompt", "Once upon a time", "--max-tokens", "8", "--ignore-eos")
    return ("generate", model, *prompt, join, "--home", home, "--json")


def test_a_name_that_peers_announce_is_enough(nodes, tmp_path):
    cache = tmp_path / "cache"

    by_name = manyhands(
        *asking(nodes, tmp_path / "home", "my-own-model"), XDG_CACHE_HOME=str(cache)
    )

    assert by_name.code == 0, by_name.err
    assert len(json.loads(by_name.out)["token_ids"]) == 8
    assert not list(cache.rglob("*.safetensors"))


def test_a_damaged_copy_in_the_cache_is_fetched_again(nodes, tmp_path):
    asked, env = asking(nodes, tmp_path / "home", "my-own-model"), {"XDG_CACHE_HOME": str(tmp_path)}
    first = json.loads(manyhands(*asked, **env).out)["token_ids"]
    kept = next(tmp_path.rglob("tokenizer.json"))
    kept.write_bytes(kept.read_bytes().replace(b"a", b"b", 1))

    again = manyhands(*asked, **env)

    assert again.code == 0, again.err
    assert json.loads(again.out)["token_ids"] == first


def test_what_the_same_home_asked_before_is_not_run_again_unless_it_was_to_be_forgotten(
    nodes, tmp_path
):
    ids = ",".join(str(3 + i) for i in range(60))
    asked = ("generate", "my-own-model", "--prompt-ids", ids, "--max-tokens", 4, "--ignore-eos")
    where = (f"--join={nodes[0].address}", "--home", tmp_path / "home", "--json")

    answers = [json.loads(manyhands(*asked, *where, *more).out) for more in (["--forget"], [], [])]

    assert [answer["usage"]["cached_tokens"] for answer in answers] == [0, 0, 59]
    assert len({str(answer["token_ids"]) for answer in answers}) == 1


def test_two_signals_at_once_lose_no_receipt(nodes, tmp_path):
    home = tmp_path / "home"
    long = [str(a) for a in asking(nodes, home, "my-own-model")]
    long[long.index("--max-tokens") + 1] = "200"
    asked = start(*[a if a != "--json" else "--jsonl" for a in long])
    assert asked.stdout is not None
    for line in asked.stdout:
        if json.loads(line)["event"] == "token":
            asked.send_signal(signal.SIGINT)
            asked.send_signal(signal.SIGINT)
            break
    asked.wait(timeout=30)
    manyhands(*asking(nodes, home, "my-own-model"))  # closes what the first one left open

    told = json.loads(manyhands("ledger", "balance", "--home", home, "--json").out)

    assert [book["entries"] for book in told["ledgers"] if book["role"] == "client"] == [2]


def test_a_name_that_nobody_serves_lists_what_is_served(nodes, tmp_path):
    ended = manyhands(*asking(nodes, tmp_path / "home", "no-such-model"))

    assert_explained(ended, 2, "no-such-model", "my-own-model")

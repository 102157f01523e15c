"""`manyhands gateway`: where it listens, who may ask, and its keys on disk."""

import json

import pytest

from tests.cli.command import assert_explained


def test_a_wide_bind_without_keys_is_refused(here, tmp_path):
    refused = here("gateway", "tiny", "--host", "0.0.0.0", "--port", 0, "--home", tmp_path)

    assert_explained(refused, 3, "manyhands gateway key new")


def test_keys_are_shown_once_listed_by_name_and_taken_back(here, tmp_path):
    def key(*arguments):
        return here("gateway", "key", *arguments, "--home", tmp_path)

    made = key("new", "--name", "laptop")
    listed = json.loads(key("list", "--json").out)
    twice = key("new", "--name", "laptop")
    revoked = key("revoke", "laptop")
    again = key("revoke", "laptop")

    text = made.out.strip()
    assert text.startswith("mh-")
    assert [each["name"] for each in listed["keys"]] == ["laptop"]
    assert text not in json.dumps(listed)
    assert not any(text in path.read_text() for path in tmp_path.rglob("*.json"))
    assert revoked.code == 0
    assert_explained(twice, 2, "--name")
    assert_explained(again, 2, "laptop")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("gateway", "MODEL"),
        ("gateway tiny --alias =x", "NAME=MODEL"),
        ("gateway tiny --alias chat=nothing --join ADDR", "nothing"),
        ("gateway tiny tiny --join ADDR", "same name"),
        ("gateway key new --name \x07", "printable"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_listens(here, tmp_path, line, word):
    peer = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDHood3YCBb2qWb2nsHy5AptLn9WbQ6kFnyCSZG3i3c49"

    ended = here(*line.replace("ADDR", peer).split(" "), "--home", tmp_path)

    assert_explained(ended, 2, word)


def test_a_key_has_the_limits_it_was_given_and_then_others(here, tmp_path):
    def key(*arguments):
        return here("gateway", "key", *arguments, "--home", tmp_path)

    key("new", "--name", "desk", "--model", "tiny", "--budget", 500, "--region", "eu")
    first = json.loads(key("list", "--json").out)["keys"][0]
    key("limit", "desk", "--requests-per-minute", 60, "--data-class", "internal")
    second = json.loads(key("list", "--json").out)["keys"][0]
    shown = key("list").out

    assert first["limits"] == {
        "models": ["tiny"],
        "budget_ncr": 500,
        "budget_per": "day",
        "regions": ["eu"],
    }
    assert first["spent"]["today"] == {"ncr": 0, "tokens": 0, "answers": 0}
    assert second["limits"] == {"requests_per_minute": 60, "data_class": "internal"}
    assert "60 requests/min; data internal" in shown


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (["--tls-cert", "cert.pem"], 2, "--tls-key"),
        (["--tls-cert", "/none", "--tls-key", "/none"], 3, "/none"),
        (["--allow-origin", "*"], 2, "https://app.example"),
    ],
)
def test_how_it_cannot_listen_is_said_at_once(here, tmp_path, flags, code, word):
    assert_explained(here("gateway", "tiny", *flags, "--home", tmp_path), code, word)


def test_names_are_pointed_elsewhere_shown_and_forgotten(here, tmp_path):
    def alias(*arguments):
        return here("gateway", "alias", *arguments, "--home", tmp_path)

    first = alias("default=tiny", "chat=tiny@01234567")
    told = json.loads(alias("--remove", "chat", "--json").out)
    shown = alias()
    unknown = alias("--remove", "chat")

    assert first.code == 0
    assert told == {"schema": "manyhands/gateway-aliases/v1", "aliases": {"default": "tiny"}}
    assert shown.out == "default  tiny\n"
    assert_explained(unknown, 2, "default")
    assert_explained(alias("=tiny"), 2, "NAME=MODEL")


def test_a_policy_with_a_mistake_ends_it_before_anything_listens(here, tmp_path):
    (tmp_path / "policy.toml").write_text("[classes.restricted]\nregions = ['eu']\n")
    peer = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDHood3YCBb2qWb2nsHy5AptLn9WbQ6kFnyCSZG3i3c49"
    flags = ["--policy", tmp_path / "policy.toml", "--join", peer]

    refused = here("gateway", "tiny", *flags, "--home", tmp_path)

    assert_explained(refused, 3, "no trust group")


@pytest.mark.parametrize("model", ["nothing", "tiny"])
def test_up_takes_a_policy_and_says_what_is_wrong_with_it_before_a_node_starts(
    here, tmp_path, model
):
    rules = f'[auto]\nmodel = "{model}"\nupstreams = ["gone"]\n'
    (tmp_path / "policy.toml").write_text(rules)

    ended = here("up", "--policy", tmp_path / "policy.toml", "--home", tmp_path / "home")

    assert_explained(ended, 3, "gone")
    assert not (tmp_path / "home" / "swarm").exists()


def test_explain_says_when_nobody_is_there_to_ask(here, tmp_path):
    (tmp_path / "asked.json").write_text('{"model": "tiny", "prompt": "a"}')

    alone = here("gateway", "explain", tmp_path / "asked.json", "--url", "http://127.0.0.1:9")
    broken = here("gateway", "explain", __file__)

    assert_explained(alone, 4, "--url")
    assert_explained(broken, 2, "JSON")

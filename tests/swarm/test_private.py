"""A private swarm by its commands, in real processes: created, joined, used, and left by one."""

import json
import signal
from pathlib import Path

import pytest

from manyhands.home import Home, open_identity
from tests.cli.command import Ended, assert_explained, manyhands
from tests.swarm.processes import start

pytestmark = pytest.mark.swarm
MODEL = "tiny"


def swarm(home: Path, *arguments: object) -> Ended:
    return manyhands("swarm", *arguments, "--home", home)


def test_a_swarm_is_founded_and_known_by_its_name(tmp_path):
    made = json.loads(swarm(tmp_path, "create", "den", "--private", "--default", "--json").out)
    listed = json.loads(swarm(tmp_path, "list", "--json").out)["swarms"]

    assert [(one["name"], one["id"]) for one in listed] == [("den", made["id"])]
    assert all(listed[0][what] for what in ("is_private", "is_default", "is_founder"))
    place = Home(tmp_path / "swarms" / "den")
    assert open_identity(place.node).peer_id == made["node"]
    assert (place.root / "membership" / "founder.key").stat().st_mode & 0o077 == 0
    assert_explained(swarm(tmp_path, "create", "den"), 2, "den already")
    assert_explained(swarm(tmp_path, "create", "../den"), 2, "not a name")
    assert_explained(swarm(tmp_path, "leave", "den"), 2, "founded")
    assert_explained(swarm(tmp_path, "join", "mh://nonsense"), 2, "cannot be read")
    assert_explained(swarm(tmp_path, "invite"), 3, "no admin's node is known")
    lost = manyhands("status", "--home", tmp_path, "--swarm", "lair")
    assert_explained(lost, 2, "belongs to no swarm 'lair'")


def serve(home: Path, span: str) -> tuple[object, dict[str, object]]:
    process = start(
        *("serve", MODEL, "--span", span, "--swarm", "den", "--home", home),
        *("--listen", "127.0.0.1:0", "--kv-cache", "64MiB", "--threads", 1, "--drain", 2),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr and process.stderr.read()
    return process, json.loads(line)


@pytest.mark.slow
def test_who_is_invited_serves_and_is_served_until_it_is_revoked(tmp_path):
    founder, friend, stranger = (tmp_path / name for name in ("founder", "friend", "stranger"))
    running = []
    try:
        swarm(founder, "create", "den", "--private")
        process, ready = serve(founder, "0:4")
        running.append(process)
        invite = swarm(founder, "invite", "--swarm", "den").out.strip()
        joined = json.loads(swarm(friend, "join", invite, "--json").out)
        assert joined["roles"] == {"node": ["provide", "use"], "client": ["observe", "use"]}
        assert_explained(swarm(stranger, "join", invite), 6, "worth nothing")
        process, _ = serve(friend, "4:8")  # whom to join, its home knows
        running.append(process)

        def generate(home: Path, *more: object) -> Ended:
            asked = ("--prompt", "Once", "--max-tokens", 6, "--json", "--wait=30")
            return manyhands("generate", MODEL, *asked, "--home", home, *more, timeout_s=90)

        for home in (founder, friend):
            answered = generate(home, "--swarm", "den")
            assert answered.code == 0, answered.err
            assert json.loads(answered.out)["usage"]["completion_tokens"] == 6
        outside = generate(stranger, "--join", ready["addresses"][0])  # type: ignore[index]
        assert_explained(outside, 6, "does not talk to strangers")

        client = joined["peers"]["client"]
        told = json.loads(swarm(founder, "revoke", client, "--swarm", "den", "--json").out)
        assert len(told["told"]) == 2
        assert_explained(generate(friend, "--swarm", "den"), 6)  # by the nodes, or its own home
        rows = json.loads(swarm(founder, "members", "--swarm", "den", "--json").out)["members"]
        standing = {row["peer"]: row["standing"] for row in rows}
        assert standing[client] == "revoked"
        assert standing[joined["peers"]["node"]] == "member"
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]
        for process in running:
            process.wait(timeout=60)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_up_runs_in_a_private_swarm(tmp_path):
    swarm(tmp_path, "create", "den", "--private", "--default")
    process = start("up", "--nodes", 2, "--port", 0, "--home", tmp_path)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"
        asked = ("--prompt", "Once", "--max-tokens", 4, "--json")
        answered = manyhands("generate", MODEL, *asked, "--home", tmp_path, timeout_s=90)
        assert answered.code == 0, answered.err
        open_one = manyhands("status", "--home", tmp_path, "--swarm", "open")
        assert_explained(open_one, 4, "no swarm runs")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)

"""Credit in an organisation's swarm, by commands and real nodes: granted, spent, told to all."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.spend_books import SpendBooks
from ledger.swarms import policy_at, swarm_of
from manyhands.home import Home, open_identity
from tests.cli.command import Ended, assert_explained, manyhands
from tests.swarm.processes import start

pytestmark = [pytest.mark.swarm, pytest.mark.slow]


def serve(home: Path, span: str) -> tuple[object, dict[str, object]]:
    process = start(
        *("serve", "tiny", "--span", span, "--home", home, "--listen", "127.0.0.1:0"),
        *("--kv-cache", "64MiB", "--threads", 1, "--drain", 2, "--price-per-mtl", 500_000_000),
    )
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return process, json.loads(line)


def ledger(home: Path, *line: object) -> Ended:
    return manyhands("ledger", *line, "--home", home, timeout_s=90)


def generate(home: Path) -> Ended:
    asked = ("--prompt", "Once", "--max-tokens", 6, "--json", "--wait=30")
    return manyhands("generate", "tiny", *asked, "--home", home, timeout_s=90)


def books_of(home: Path, role: str = "node") -> object:
    place = home / "swarms" / "org"
    with SpendBooks.open(place / role, swarm_of(place)[0], policy_at(place).quorum()) as books:
        return books.books()


def logs(home: Path, role: str) -> dict[str, int]:
    told = json.loads(ledger(home, "sync", "status", "--json").out)["roles"]
    known = next(one["logs"] for one in told if one["role"] == role)
    return {log["peer"]: log["entries"] for log in known}


def shared(home: Path) -> object:
    """What of a node's books all have alike: what tabs claim, each payee knows of its own."""
    books = books_of(home)
    allotted = {oid: replace(made, claimed=0) for oid, made in books.allotted.items()}
    return replace(books, allotted=allotted)


def test_what_is_granted_is_spent_and_every_node_knows_one_that_joins_late_too(tmp_path):
    founder, friend, late = (tmp_path / name for name in ("founder", "friend", "late"))
    running = []
    try:
        manyhands("swarm", "create", "org", "--private", "--default", "--funding", "granted",
                  "--home", founder)  # fmt: skip
        running.append(serve(founder, "0:4")[0])
        invite = manyhands("swarm", "invite", "--uses", 2, "--home", founder).out.strip()
        for home in (friend, late):
            manyhands("swarm", "join", invite, "--default", "--home", home)
        running.append(serve(friend, "4:8")[0])
        place = Home(friend / "swarms" / "org")
        client = open_identity(place.client).peer_id

        assert_explained(generate(friend), 6, f"ledger grant {client}")
        granted = ledger(founder, "grant", client, "0.5", "--json")
        assert granted.code == 0, granted.err
        answered = generate(friend)
        assert answered.code == 0, answered.err
        running.append(serve(late, "0:8")[0])
        synced = ledger(late, "sync")
        assert synced.code == 0, synced.err

        known = logs(late, "client")
        assert known[client] == 2  # an allotment for each of two hops
        asset = policy_at(place.root).assets[0]
        held = books_of(late, "client").allotted.values()
        left = books_of(late, "client").available[open_identity(place.client).public_key, asset]
        assert left + sum(made.amount for made in held) == 500_000_000
        by_hand = ledger(friend, "allot", open_identity(place.node).peer_id, "1000ncr", "--json")
        assert by_hand.code == 0, by_hand.err
        assert json.loads(by_hand.out)["entry"] == 2
        given = json.loads(by_hand.out)["id"]
        released = ledger(friend, "release", given[:12])
        assert released.code == 0, released.err
        own = ledger(founder, "sync", "--role", "node")  # its own node is the one witness
        assert own.code == 0, own.err

        shutil.copytree(place.client, tmp_path / "copy")
        assert ledger(friend, "allot", open_identity(place.node).peer_id, "1ncr").code == 0
        shutil.rmtree(place.client)
        (tmp_path / "copy").rename(place.client)
        put_back = ledger(friend, "allot", open_identity(place.node).peer_id, "2ncr")
        assert_explained(put_back, 8, "a witness signed 4 entries")
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(timeout=60)
    assert shared(founder) == shared(friend) == shared(late)


def test_what_a_node_earned_its_clients_spend_once_it_is_moved_to_them(tmp_path):
    home = tmp_path / "home"
    manyhands("swarm", "create", "org", "--private", "--default", "--funding", "granted",
              "--home", home)  # fmt: skip
    node = serve(home, "0:8")[0]
    try:
        place = Home(home / "swarms" / "org")
        assert_explained(ledger(home, "transfer"), 6, "has 0 credits")
        earner = open_identity(place.node).peer_id
        assert ledger(home, "grant", earner, "0.5").code == 0  # as if a client had settled
        assert_explained(ledger(home, "transfer", "0.6"), 6, "has 0.5 credits")

        moved = ledger(home, "transfer", "0.2", "--json")
        assert moved.code == 0, moved.err
        assert json.loads(moved.out)["available_ncr"] == 200_000_000
        rest = ledger(home, "transfer", "--json")
        assert json.loads(rest.out)["moved_ncr"] == 300_000_000
        answered = generate(home)
        assert answered.code == 0, answered.err
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(timeout=60)
    verified = manyhands("ledger", "verify", "--home", place.root)
    assert verified.code == 0, verified.err

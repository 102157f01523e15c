"""Whole epochs in real processes, a minute each, with kills: nothing is lost, nothing is twice."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger.swarms import policy_at
from manyhands.local import free_ports
from protocol.clock import wall_ms
from tests.cli.command import Ended, manyhands, until_answered
from tests.swarm.processes import start

pytestmark = [pytest.mark.swarm, pytest.mark.slow]

PRICE = 1_000_000_000
GRANTED = 5_000_000_000 // 2
EPOCH_S = 60


class Lab:
    """A founder and a friend, each with a node of half the model, and the friend's client."""

    def __init__(self, directory: Path) -> None:
        self.founder, self.friend = directory / "founder", directory / "friend"
        self.running: dict[Path, subprocess.Popen[str]] = {}
        self.peers: dict[Path, str] = {}
        self.ports = dict(zip((self.founder, self.friend), free_ports(2), strict=True))
        self.spans: dict[Path, str] = {self.founder: "0:4", self.friend: "4:8"}

    def serve(self, home: Path) -> None:
        process = start(
            *("serve", "tiny", "--span", self.spans[home], "--swarm", "lab", "--home", home),
            *(
                "--listen",
                f"127.0.0.1:{self.ports[home]}",
                "--kv-cache",
                "64MiB",
                "--threads",
                1,
                "--drain",
                2,
            ),
            *("--price-per-mtl", PRICE),
        )
        self.running[home] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        self.peers[home] = json.loads(line)["peer"]

    def kill(self, home: Path) -> None:
        process = self.running.pop(home)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)

    def run(self, home: Path, *line: object, **env: str) -> Ended:
        return manyhands(*line, "--home", home, "--swarm", "lab", timeout_s=180, **env)

    def told(self, home: Path, *line: object) -> Any:
        ended = until_answered(lambda: self.run(home, *line, "--json"))
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    def generate(self, home: Path, **env: str) -> int:
        """What it cost."""
        asked = ("--prompt", "Once", "--max-tokens", 4, "--ignore-eos", "--json", "--wait", 60)
        ended = self.run(home, "generate", "tiny", *asked, **env)
        assert ended.code == 0, ended.err
        return int(json.loads(ended.out)["cost_ncr"])

    def place(self, home: Path) -> Path:
        return home / "swarms" / "lab"

    def ledger(self, home: Path, *line: object) -> Any:
        """A command that reads this home alone."""
        ended = manyhands("ledger", *line, "--home", self.place(home), "--json", timeout_s=180)
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    def statement(self, home: Path, role: str) -> Any:
        self.told(home, "ledger", "sync", "--role", role)
        (book,) = self.ledger(home, "statement", "--role", role)["ledgers"]
        return book

    def available(self, home: Path, role: str) -> int:
        """Of credit, as this home's party knows."""
        self.told(home, "ledger", "sync", "--role", role)
        (credit,) = self.ledger(home, "balance", "--role", role)["credit"]
        return int(credit["available_ncr"])

    def until_epoch(self, epoch: int) -> None:
        policy = policy_at(self.place(self.founder))
        assert policy.epoch_s == EPOCH_S
        left_s = epoch * policy.epoch_s - wall_ms() / 1000
        if left_s > 0:
            time.sleep(left_s + 1)  # epochs end by the clock of real witnesses

    @property
    def epoch(self) -> int:
        return policy_at(self.place(self.founder)).epoch_of(wall_ms())


@contextmanager
def lab(directory: Path) -> Iterator[Lab]:
    built = Lab(directory)
    paces = ("--epoch", "1m", "--grace", 1, "--retain", 0, "--holdback", 0)
    try:
        made = manyhands(
            "swarm", "create", "lab", "--funding", "granted", *paces, "--home", built.founder
        )
        assert made.code == 0, made.err
        built.serve(built.founder)
        invite = built.run(built.founder, "swarm", "invite").out.strip()
        joined = manyhands("swarm", "join", invite, "--home", built.friend, "--json")
        assert joined.code == 0, joined.err
        built.serve(built.friend)
        payer = json.loads(joined.out)["peers"]["client"]
        built.told(built.founder, "ledger", "grant", payer, "2.5")
        yield built
    finally:
        for process in built.running.values():
            process.send_signal(signal.SIGTERM)
        for process in built.running.values():
            process.wait(timeout=60)


def within(holds: Callable[[], bool], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it did not come to be so"
        time.sleep(2)  # `holds` asks processes, which set no event here


def assert_sound(built: Lab) -> None:
    for home in (built.founder, built.friend):
        checked = manyhands("ledger", "verify", "--home", built.place(home), timeout_s=180)
        assert checked.code == 0, checked.err


def test_19_an_epoch_is_settled_deposited_spent_and_pruned_and_kills_change_nothing(tmp_path):
    with lab(tmp_path) as built:
        friend, founder = built.friend, built.founder
        homes = (founder, friend)
        cost = sum(built.generate(friend, MANYHANDS_SETTLE="off") for _ in range(2))
        used = built.epoch
        tab = built.statement(friend, "node")["tabs"][0]
        off = tab["amount_ncr"] // 2
        built.told(friend, "ledger", "credit", tab["receipt"], f"{off}ncr", "--reason", "too slow")
        cost -= off

        built.until_epoch(used + 1)
        for wait_s in (1.0, 1.6, 2.4):  # on its way, at a node's, between two of them
            settling = start("ledger", "settle", "--home", friend, "--swarm", "lab", "--json")
            time.sleep(wait_s)
            settling.kill()
            settling.communicate()
        built.kill(founder)
        built.serve(founder)
        within(lambda: not built.run(friend, "ledger", "settle").code, 60)
        assert built.told(friend, "ledger", "settle")["settled"] == []

        within(lambda: sum(built.available(home, "node") for home in homes) == cost, 90)
        built.kill(founder)
        built.serve(founder)
        assert sum(built.available(home, "node") for home in homes) == cost
        statement = built.statement(friend, "client")
        assert {tab["state"] for tab in statement["tabs"]} == {"settled"}
        assert sorted(tab["credit_ncr"] for tab in statement["tabs"]) == [0, 0, 0, off]
        assert_sound(built)

        earned = built.available(friend, "node")
        peer = built.peers[founder]
        built.told(friend, "ledger", "allot", peer, f"{earned}ncr", "--role", "node")
        assert built.available(friend, "node") == 0

        built.until_epoch(used + 2)
        built.told(friend, "ledger", "sync", "--role", "client")
        pruned = built.ledger(friend, "prune", "--role", "client")["ledgers"]
        assert [(book["erased"], book["kept"]) for book in pruned] == [(4, {})]
        after = built.statement(friend, "client")
        assert after["head"]["root"] == statement["head"]["root"]
        assert [tab["amount_ncr"] for tab in after["tabs"]] == [
            tab["amount_ncr"] for tab in statement["tabs"]
        ]
        assert_sound(built)
        assert built.available(friend, "client") >= GRANTED - 8 * cost


def test_46_nodes_collect_from_who_never_comes_and_settle_with_who_uses_them_again(tmp_path):
    with lab(tmp_path) as built:
        friend, founder = built.friend, built.founder
        homes = (founder, friend)
        cost = built.generate(friend, MANYHANDS_SETTLE="off")
        used = built.epoch
        built.until_epoch(used + 1)
        built.kill(founder)
        built.serve(founder)

        built.until_epoch(used + 2)
        within(lambda: sum(built.available(home, "node") for home in homes) == cost, 150)
        built.kill(friend)
        built.serve(friend)

        again = built.generate(friend, MANYHANDS_SETTLE="off")
        built.until_epoch(built.epoch + 1)
        last = built.generate(friend)  # and settles what came before, by the way
        assert last
        assert built.told(friend, "ledger", "settle")["settled"] == []
        within(lambda: sum(built.available(home, "node") for home in homes) == cost + again, 90)
        assert_sound(built)

"""`ledger transfer` that is killed midway, and run again, moves what it was asked for, once; and
`ledger hand-over`, to an owner whose key is elsewhere.
"""

import json
import signal
import subprocess
import sys

import pytest

from manyhands.home import Home, open_identity
from tests.cli.command import assert_explained, manyhands
from tests.swarm.test_credit import ledger, serve

pytestmark = [pytest.mark.swarm, pytest.mark.slow]

# Ends as SIGKILL would: the allotment is logged, signed and told; or it is logged alone; or the
# deposit is logged, and no witness was asked.
DIES = """
import os, sys
import manyhands.crediting.transfer as transfer
from ledger.spend_log import SpendLog
from manyhands.__main__ import main

logged, at = SpendLog.append, sys.argv.pop(1)

def append(self, *envelopes):
    note = logged(self, *envelopes)
    if at in {each.type for each in envelopes}:
        os._exit(9)
    return note

SpendLog.append = append
if at == "take":
    allot = transfer.allot
    async def told(*args):
        await allot(*args)
        os._exit(9)
    transfer.allot = told
main()
"""


def kill(home, at, *line, command="transfer"):
    argv = [sys.executable, "-c", DIES, at, "ledger", command, *line, "--home", str(home)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=90).returncode


def test_a_transfer_that_was_killed_is_finished_first_and_moves_no_more_than_it_was_asked(tmp_path):
    home = tmp_path / "home"
    manyhands("swarm", "create", "org", "--default", "--funding", "granted", "--home", home)
    node = serve(home, "0:8")[0]
    try:
        place = Home(home / "swarms" / "org")
        earner = open_identity(place.node).peer_id
        assert ledger(home, "grant", earner, "1").code == 0
        there_are = 0
        for at in ("mh/allot/1", "take", "mh/deposit/1"):
            assert kill(home, at, "0.2") == 9

            again = ledger(home, "transfer", "0.2", "--json")

            there_are += 200_000_000
            assert again.code == 0, again.err
            told = json.loads(again.out)
            assert (told["moved_ncr"], told["available_ncr"]) == (200_000_000, there_are), at

        line = [sys.executable, "-m", "manyhands", "ledger", "transfer", "0.1", "--home", str(home)]
        both = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        assert [each.communicate(timeout=90)[1][-300:] for each in both if each.wait()] == []
        assert kill(home, "mh/deposit/1") == 9

        rest = ledger(home, "transfer", "--json")
        assert rest.code == 0, rest.err
        assert json.loads(rest.out)["moved_ncr"] == 200_000_000
        assert json.loads(rest.out)["available_ncr"] == 1_000_000_000
        assert_explained(ledger(home, "transfer"), 6, "has 0 credits")
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(timeout=60)


def test_what_is_handed_over_the_nodes_key_can_have_no_more_and_its_owner_takes_in_later(tmp_path):
    home, owner = tmp_path / "home", tmp_path / "owner"
    manyhands("swarm", "create", "org", "--private", "--default", "--funding", "granted",
              "--home", home)  # fmt: skip
    node = serve(home, "0:8")[0]
    try:
        invite = manyhands("swarm", "invite", "--home", home).out.strip()
        manyhands("swarm", "join", invite, "--default", "--home", owner)
        earner = open_identity(Home(home / "swarms" / "org").node).peer_id
        to = open_identity(Home(owner / "swarms" / "org").client).peer_id
        assert_explained(ledger(home, "hand-over", to), 6, "has 0 credits")
        assert ledger(home, "grant", earner, "0.5").code == 0  # as if a client had settled

        assert kill(home, "mh/allot/1", to, "0.2", command="hand-over") == 9
        first = ledger(home, "hand-over", to, "0.2", "--json")
        assert first.code == 0, first.err
        all_of_it = ledger(home, "hand-over", to, "--json")
        lines = [line for each in (first, all_of_it) for line in json.loads(each.out)["lines"]]
        sums = [json.loads(each.out)["set_aside_ncr"] for each in (first, all_of_it)]
        assert sums == [200_000_000, 500_000_000]
        again = ledger(home, "hand-over", to, "--again", "--json")
        assert again.code == 0, again.err
        assert json.loads(again.out)["set_aside_ncr"] == 500_000_000
        assert_explained(ledger(home, "hand-over", to, "1", "--again"), 2, "--again")
        assert_explained(ledger(home, "hand-over", to, "--asset", to), 2, "issues no credit here")
        assert_explained(ledger(home, "transfer"), 6, "has 0 credits")
        assert_explained(ledger(home, "accept", lines[0]), 2, "it is for")
        assert_explained(ledger(owner, "accept", lines[0][:-9]), 2, "no line of a")

        assert kill(owner, "mh/deposit/1", lines[0], command="accept") == 9
        taken = [ledger(owner, "accept", line, "--json") for line in (*lines, *lines)]
        assert [each.code for each in taken] == [0] * 4, [each.err for each in taken]
        sums = [json.loads(each.out)["taken_ncr"] for each in taken]
        assert sums == [200_000_000, 300_000_000, 0, 0]
        assert json.loads(taken[-1].out)["available_ncr"] == 500_000_000

        assert ledger(home, "grant", earner, "0.1").code == 0
        nodes = open_identity(Home(owner / "swarms" / "org").node).peer_id
        printed = ledger(home, "hand-over", nodes).out.split()  # to a node's key, which is as good
        assert printed[:3] == ["manyhands", "ledger", "accept"]
        assert_explained(ledger(owner, "accept", lines[0], printed[3]), 2, "several accounts")
        accepted = ledger(owner, "accept", printed[3], "--json")
        assert accepted.code == 0, accepted.err
        told = json.loads(accepted.out)
        assert (told["peer"], told["taken_ncr"]) == (nodes, 100_000_000)
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(timeout=60)
    for each in (home, owner):
        verified = manyhands("ledger", "verify", "--home", each / "swarms" / "org")
        assert verified.code == 0, verified.err

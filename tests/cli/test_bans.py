"""`manyhands peers unban`, and how bans are shown."""

import json
from pathlib import Path

import pytest

from manyhands.home import Home
from manyhands.tables import show_peers
from node.barring import read_bans, write_bans
from protocol.bans import Ban
from protocol.clock import wall_ms
from tests.announcing import peer_of
from tests.cli.command import assert_explained, manyhands


def banned(home: Path) -> Home:
    place = Home.at(home)
    place.node.mkdir(exist_ok=True)
    until_ms = wall_ms() + 600_000
    write_bans(place.bans, [Ban(peer_id=peer_of(1), why="it sends junk", until_ms=until_ms)])
    return place


def test_a_ban_is_lifted_once(tmp_path):
    place = banned(tmp_path)

    lifted = manyhands("peers", "unban", peer_of(1), "--json", "--home", str(tmp_path))
    again = manyhands("peers", "unban", peer_of(1), "--json", "--home", str(tmp_path))

    assert json.loads(lifted.out)["was_banned"] is True
    assert json.loads(again.out)["was_banned"] is False
    assert read_bans(place.bans) == ()


@pytest.mark.parametrize("written", ["…{}", "{}", "12D3KooW…{}"])
def test_a_banned_peer_may_be_named_by_how_tables_end_it(tmp_path, written):
    place = banned(tmp_path)

    lifted = manyhands("peers", "unban", written.format(peer_of(1)[-6:]), "--home", str(tmp_path))

    assert lifted.out == f"{peer_of(1)} is heard again\n"
    assert read_bans(place.bans) == ()


def test_an_end_that_is_nobodys_is_no_peer_id(tmp_path):
    place = banned(tmp_path)

    ended = manyhands("peers", "unban", "…zzzzzz", "--home", str(tmp_path))

    assert_explained(ended, 2, "not a peer id")
    assert len(read_bans(place.bans)) == 1


def test_bans_are_shown_with_their_reason(tmp_path, capsys):
    place = banned(tmp_path)
    (ban,) = read_bans(place.bans)

    show_peers([], [{"peer": ban.peer_id, "why": ban.why, "until_ms": ban.until_ms, "number": 1}])

    said = " ".join(capsys.readouterr().out.split())
    assert "banned here for 10 more minutes: it sends junk" in said
    assert f"to hear one again: manyhands peers unban …{peer_of(1)[-6:]}" in said

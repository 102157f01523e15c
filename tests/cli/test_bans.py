"""`manyhands peers unban`, and how bans are shown."""

import json
from pathlib import Path

from manyhands.home import Home
from manyhands.tables import show_peers
from node.barring import read_bans, write_bans
from protocol.bans import Ban
from protocol.clock import wall_ms
from tests.announcing import peer_of
from tests.cli.command import manyhands


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


def test_bans_are_shown_with_their_reason(tmp_path, capsys):
    place = banned(tmp_path)
    (ban,) = read_bans(place.bans)

    show_peers([], [{"peer": ban.peer_id, "why": ban.why, "until_ms": ban.until_ms, "number": 1}])

    said = " ".join(capsys.readouterr().out.split())
    assert "banned here for 10 more minutes: it sends junk" in said

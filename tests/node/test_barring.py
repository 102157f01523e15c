"""Bans on disk: over restarts, lifted from outside, and files that are none."""

from pathlib import Path

import pytest

from node.barring import Barring, read_bans, write_bans
from protocol.bans import OFFENCES, Bans
from tests.announcing import NOW_MS, peer_of

BAD = peer_of(1)


def banning(path: Path) -> tuple[Bans, Barring]:
    bans = Bans(lambda: NOW_MS)
    return bans, Barring(bans, path)


def ban(bans: Bans) -> None:
    for _ in range(int(OFFENCES.burst) + 1):
        bans.offend(BAD, "junk")


def test_a_ban_holds_after_a_restart(tmp_path: Path):
    bans, barring = banning(tmp_path / "bans.json")
    ban(bans)
    barring.look()

    later, _ = banning(tmp_path / "bans.json")

    assert later.now() == bans.now()
    assert len(later.now()) == 1


def test_what_is_taken_out_of_the_file_is_lifted_from_the_running_node(tmp_path: Path):
    path = tmp_path / "bans.json"
    bans, barring = banning(path)
    ban(bans)
    barring.look()
    barring.look()
    assert bans.of(BAD) is not None

    write_bans(path, [])
    barring.look()

    assert bans.of(BAD) is None
    assert read_bans(path) == ()


def test_a_ban_between_two_looks_is_not_lifted_for_being_new(tmp_path: Path):
    bans, barring = banning(tmp_path / "bans.json")
    barring.look()
    ban(bans)
    barring.look()
    barring.look()

    assert [each.peer_id for each in read_bans(tmp_path / "bans.json")] == [BAD]


@pytest.mark.parametrize(
    "junk",
    [b"", b"[]", b'{"bans": 5}', b'{"bans": [{"peer": "x"}]}', b"\xff" * 9, b"[" * 90_000,
     b'{"bans": [{"peer": "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp", "why": "",'
     b' "until_ms": 1e999, "number": 1}]}'],
)  # fmt: skip
def test_a_damaged_file_costs_bans_and_nothing_else(tmp_path: Path, junk: bytes):
    path = tmp_path / "bans.json"
    path.write_bytes(junk)

    bans, barring = banning(path)
    ban(bans)
    barring.look()

    assert [each.peer_id for each in read_bans(path)] == [BAD]

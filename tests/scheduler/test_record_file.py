"""What a client saw of its peers outlives it, and whatever lies in the file does no harm."""

import json

import pytest

from protocol.errors import PeerError
from scheduler.blame import Leg, Ride
from scheduler.peer_record import PeerRecords
from scheduler.record_file import kept_records, read_records, write_records
from tests.announcing import announce, peer_of

NOW = 1_000_000.0


def ride(n, at_s=NOW):
    return Ride(at_s, 64, 16.5, 0.5, (Leg(peer_of(n), 8, 1.0, 1.0),))


def test_the_next_client_of_a_home_believes_what_this_one_saw(tmp_path):
    path = tmp_path / "peers.json"
    with kept_records(path) as records:
        records.note_ride(ride(1))
        records.note_failure(peer_of(2), PeerError(peer_of(2), "it failed"), NOW, None)

    with kept_records(path) as records:
        assert records.believed([announce(1)], NOW)[peer_of(1)] == pytest.approx(2.0, rel=0.1)
        assert records.risk_ms([announce(2)], NOW)[peer_of(2)] > 5
    assert path.stat().st_mode & 0o777 == 0o600


def test_clients_that_run_side_by_side_keep_what_each_of_them_saw(tmp_path):
    path = tmp_path / "peers.json"
    one, other = read_records(path), read_records(path)
    one.note_ride(ride(1))
    other.note_ride(ride(2))

    write_records(path, one)
    write_records(path, other)

    assert {leg.peer for known in read_records(path).rides for leg in known.legs} == {
        peer_of(1),
        peer_of(2),
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff{",
        b"[]",
        b"{}",
        b'{"schema": "another"}',
        json.dumps({"schema": "manyhands/peer-record/v1", "rides": [{}], "standings": {}}).encode(),
        json.dumps(
            {"schema": "manyhands/peer-record/v1", "rides": [], "standings": {"p": [1, 2]}}
        ).encode(),
        b'{"schema": "manyhands/peer-record/v1", "rides": [{"at_s": NaN, "n_tokens": 1, '
        b'"token_ms": 1, "besides_ms": 0, "legs": [["p", 1, 1, 1]]}], "standings": {}}',
        b'{"schema": "manyhands/peer-record/v1", "rides": [], '
        b'"standings": {"p": [NaN, 1, 1, 1, null]}}',
        b'{"schema": "manyhands/peer-record/v1", "rides": [], '
        b'"standings": {"p": [1, 1, 1, 1, 1e999]}}',
        b'{"schema": "manyhands/peer-record/v1", "rides": [{"at_s": 1, "n_tokens": 1e999, '
        b'"token_ms": 1, "besides_ms": 0, "legs": []}], "standings": {}}',
        b"[" * 100_000,
        b" " * (5 << 20),
    ],
)
def test_a_file_of_nonsense_is_as_good_as_none(tmp_path, content):
    path = tmp_path / "peers.json"
    path.write_bytes(content)

    records = read_records(path)

    assert not records.rides
    assert not records.standings


def test_a_home_that_cannot_be_written_costs_the_memory_alone(tmp_path):
    records = PeerRecords()
    records.note_ride(ride(1))

    write_records(tmp_path / "no such directory" / "peers.json", records)

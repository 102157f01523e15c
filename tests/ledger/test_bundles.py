"""A bundle convinces a stranger, or says exactly what is wrong with it."""

import io
import json
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger
from ledger.bundle_check import check_bundle
from ledger.bundles import ABOUT, CHECKPOINT, NAMES, POLICY, RECEIPTS, STATEMENT, write_bundle
from ledger.cli import ledger as ledger_commands
from ledger.errors import BadBundle, IncompleteBundle
from ledger.lines import peer_name
from ledger.policy import OPEN_POLICY
from ledger.reader import LedgerReader
from ledger.statements import Choice
from protocol.canonical import encode
from protocol.errors import ConfigError, ManyhandsError, UsageError
from protocol.identity import load_or_create_identity
from tests.ledger.parties import CLIENT, NOW_MS, PROVIDER, STRANGER, SWARM, closed_receipt

DAY_MS = 86_400_000
OPEN = encode(OPEN_POLICY.to_fields())


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A ledger of four receipts with two providers."""
    place = tmp_path_factory.mktemp("log")
    with Ledger.open(place, CLIENT, SWARM) as ledger:
        ledger.append_all([closed_receipt(8 + i, nonce=bytes([i]) * 16) for i in range(3)])
        other = load_or_create_identity(place / "other.key").key
        ledger.append(closed_receipt(20, provider=other, nonce=b"o" * 16))
    return place


@pytest.fixture(scope="module")
def whole(log, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "ledger.zip"
    with LedgerReader.read(log) as reader:
        write_bundle(path, reader, OPEN)
    return path.read_bytes()


def files_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def zipped(files, **how):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how.pop("compression", zipfile.ZIP_DEFLATED)) as bundle:
        for name, data in files.items() if isinstance(files, dict) else files:
            bundle.writestr(name, data)
    return buffer.getvalue()


def checked(directory, data):
    path = directory / "given.zip"
    path.write_bytes(data)
    return check_bundle(path)


def test_a_bundle_of_a_whole_log_proves_every_receipt_and_that_there_are_no_more(whole, tmp_path):
    proven = checked(tmp_path, whole)

    assert proven.account == CLIENT.public_key
    assert (proven.swarm_id, proven.swarm) == (SWARM, "open")
    assert proven.is_whole
    assert [line.index for line in proven.statement.lines] == [0, 1, 2, 3]
    assert proven.statement.within.spent > 0


def test_a_bundle_of_a_choice_says_that_it_is_one(log, tmp_path):
    with LedgerReader.read(log) as reader:
        choice = Choice(peer=peer_name(PROVIDER.public_key), first=NOW_MS // DAY_MS - 1)
        write_bundle(tmp_path / "some.zip", reader, OPEN, choice)

    proven = check_bundle(tmp_path / "some.zip")

    assert not proven.is_whole
    assert [line.index for line in proven.statement.lines] == [0, 1, 2]
    assert proven.head.size == 4


def test_what_stood_before_a_choice_is_not_told_by_its_bundle(log, tmp_path):
    choice = Choice(peer=peer_name(PROVIDER.public_key), first=NOW_MS // DAY_MS - 1)
    with LedgerReader.read(log) as reader:
        write_bundle(tmp_path / "some.zip", reader, OPEN, choice)
    files = files_of((tmp_path / "some.zip").read_bytes())
    told, about = json.loads(files[STATEMENT]), json.loads(files[ABOUT])

    assert told["period"] == about["chosen"] == choice.to_json()
    assert (told["opening_ncr"], told["closing_ncr"]) == (None, None)
    other = about["chosen"] | {"peer": peer_name(STRANGER.public_key)}
    for wrong in (
        changed(files, STATEMENT, opening_ncr=0, closing_ncr=told["net_ncr"]),
        changed(files, STATEMENT, closing_ncr=told["net_ncr"]),
        changed(files, STATEMENT, period=Choice().to_json()),
        changed(changed(files, STATEMENT, period=other), ABOUT, chosen=other),
        changed(files, ABOUT, chosen=None),
    ):
        with pytest.raises((BadBundle, IncompleteBundle)):
            checked(tmp_path, zipped(wrong))


class Busy(LedgerReader):
    """A log to which another process appends whenever somebody reads a receipt."""

    def _body(self, index):
        with Ledger.open(self.directory, CLIENT, SWARM) as ledger:
            nonce = len(ledger).to_bytes(16, "little")
            ledger.append(closed_receipt(8, nonce=nonce))
        return super()._body(index)


def test_a_bundle_of_a_log_that_grows_meanwhile_is_of_the_log_as_it_was(tmp_path):
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger:
        ledger.append_all([closed_receipt(8 + i, nonce=bytes([i]) * 16) for i in range(3)])
    with LedgerReader.read(tmp_path) as reader:
        busy = Busy(tmp_path, reader._store, reader.account, reader.swarm_id)
        write_bundle(tmp_path / "out.zip", busy, OPEN)
        assert len(busy) == 6

    proven = check_bundle(tmp_path / "out.zip")

    assert (proven.head.size, proven.is_whole) == (3, True)


def test_only_what_is_chosen_is_proven(log, tmp_path):
    read = []

    class Seen(LedgerReader):
        def _body(self, index):
            read.append(index)
            return super()._body(index)

    with LedgerReader.read(log) as reader:
        seen = Seen(log, reader._store, reader.account, reader.swarm_id)
        write_bundle(tmp_path / "out.zip", seen, OPEN, Choice(peer=peer_name(PROVIDER.public_key)))

    assert sorted(read) == [0, 1, 2]


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
@pytest.mark.parametrize("kind", ["bundle", "csv"])
def test_an_export_is_its_owners_alone_and_follows_no_link(tmp_path, kind):
    node = load_or_create_identity(tmp_path / "node" / "identity.key")
    with Ledger.open(tmp_path / "node", node.key, SWARM) as ledger:
        ledger.append(closed_receipt(provider=node.key))
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("of somebody")
    for link in (out, tmp_path / "out.new"):
        link.symlink_to(victim)

    run("export", kind, "--home", tmp_path, "--out", out)

    assert victim.read_text() == "of somebody"
    assert stat.S_IMODE(out.lstat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"node", "out", "out.new", "victim"}
    assert run("export", "csv", "--home", tmp_path, "--out", "/dev/null").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_two_bundles_of_one_log_are_the_same_bytes(log, whole, tmp_path):
    with LedgerReader.read(log) as reader:
        write_bundle(tmp_path / "again.zip", reader, OPEN)

    assert (tmp_path / "again.zip").read_bytes() == whole


def test_an_empty_log_makes_no_bundle(tmp_path):
    with Ledger.open(tmp_path, CLIENT, SWARM) as ledger, pytest.raises(UsageError):
        write_bundle(tmp_path / "none.zip", ledger, OPEN)


def changed(files, name, **fields):
    return files | {name: json.dumps(json.loads(files[name]) | fields).encode()}


def test_each_file_is_bound_to_the_others(whole, tmp_path):
    files = files_of(whole)
    statement = json.loads(files[STATEMENT])
    cheaper = [row | {"amount_ncr": 0} for row in statement["tabs"]]
    noted = [row | {"note": "paid in full"} for row in statement["tabs"]]
    rows = files[RECEIPTS].splitlines(keepends=True)
    row = json.loads(rows[0])
    wrong = {
        "other owner": changed(files, ABOUT, peer=peer_name(PROVIDER.public_key)),
        "other swarm": changed(files, ABOUT, swarm="00" * 32),
        "other schema": changed(files, ABOUT, schema="manyhands/else/v1"),
        "other size": changed(files, ABOUT, size=5),
        "fewer entries": changed(files, ABOUT, entries=3),
        "no number": changed(files, ABOUT, entries="4"),
        "other policy": files | {POLICY: b"\x81\x01"},
        "no policy": files | {POLICY: b""},
        "other total": changed(files, STATEMENT, spent_ncr=statement["spent_ncr"] - 1),
        "other line": changed(files, STATEMENT, tabs=cheaper),
        "a line less": changed(files, STATEMENT, tabs=statement["tabs"][1:]),
        "other opening": changed(files, STATEMENT, opening_ncr=10**15, closing_ncr=10**15),
        "other closing": changed(files, STATEMENT, closing_ncr=0),
        "no opening": changed(files, STATEMENT, opening_ncr=None),
        "other period": changed(
            files, STATEMENT, period=statement["period"] | {"to": "2020-01-01"}
        ),
        "a note": changed(files, STATEMENT, note="paid in full"),
        "a line's note": changed(files, STATEMENT, tabs=noted),
        "not an integer": changed(files, STATEMENT, n_tabs=float(statement["n_tabs"])),
        "a choice of none": changed(files, ABOUT, chosen={"from": "2001-01-01"}),
        "no date": changed(files, ABOUT, chosen=statement["period"] | {"from": 5}),
        "deep statement": files | {STATEMENT: b'{"period":' + b"[" * 900 + b"]" * 900 + b"}"},
        "no lines": changed(files, STATEMENT, tabs=[1, 2, 3, 4]),
        "other order": files | {RECEIPTS: b"".join(reversed(rows))},
        "one twice": files | {RECEIPTS: rows[0] + rows[0] + rows[2] + rows[3]},
        "other place": files | {RECEIPTS: _line(row | {"entry": 1}) + b"".join(rows[1:])},
        "no place": files | {RECEIPTS: _line(row | {"entry": 0.0}) + b"".join(rows[1:])},
        "other salt": files | {RECEIPTS: _line(row | {"salt": "00" * 32}) + b"".join(rows[1:])},
        "no path": files | {RECEIPTS: _line(row | {"path": 5}) + b"".join(rows[1:])},
        "not JSON": files | {RECEIPTS: b"]\n" + b"".join(rows[1:])},
        "deep JSON": files | {RECEIPTS: b"[" * 100_000 + b"\n"},
        "not an object": files | {ABOUT: b"[]"},
        "no note": files | {CHECKPOINT: b"\xff"},
    }
    for what, files_given in wrong.items():
        with pytest.raises(BadBundle):
            print(what, checked(tmp_path, zipped(files_given)))


def _line(view):
    return json.dumps(view).encode() + b"\n"


def test_what_is_missing_is_said_and_is_another_thing_than_what_is_wrong(whole, tmp_path):
    files = files_of(whole)
    for name in NAMES:
        with pytest.raises(IncompleteBundle, match=name):
            checked(tmp_path, zipped({n: d for n, d in files.items() if n != name}))
    rows = files[RECEIPTS].splitlines(keepends=True)
    with pytest.raises(IncompleteBundle, match="3 receipts of 4"):
        checked(tmp_path, zipped(files | {RECEIPTS: b"".join(rows[:3])}))
    with pytest.raises(IncompleteBundle, match="middle of a line"):
        checked(tmp_path, zipped(files | {RECEIPTS: files[RECEIPTS][:-1]}))
    assert (BadBundle.exit_code, IncompleteBundle.exit_code) == (2, 3)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_changed_byte_of_receipts_checkpoint_and_policy_is_found(
    whole, tmp_path_factory, data
):
    files = files_of(whole)
    name = data.draw(st.sampled_from((RECEIPTS, CHECKPOINT, POLICY)))
    content = bytearray(files[name])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    before = json.loads(files[RECEIPTS].splitlines()[0])
    try:
        found = checked(tmp_path_factory.mktemp("x"), zipped(files | {name: bytes(content)}))
    except ManyhandsError:
        return
    # What is left: hexadecimal in capitals, or a space that JSON does not mind.
    assert found == check_bundle_of(whole, tmp_path_factory), (name, at, before)


def check_bundle_of(data, tmp_path_factory):
    return checked(tmp_path_factory.mktemp("y"), data)


# --- a zip that means harm -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "..\\evil", "policy/../x", "BUNDLE.json", "x", "policy\0"],
)
def test_other_names_are_refused_and_nothing_is_written(whole, tmp_path, name):
    files = files_of(whole)
    del files[POLICY]

    with pytest.raises(BadBundle):
        checked(tmp_path, zipped(files | {name: b"x"}))

    assert [each.name for each in tmp_path.iterdir()] == ["given.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(whole, tmp_path):
    files = [item for item in files_of(whole).items() if item[0] != STATEMENT]

    with pytest.raises(BadBundle, match="other files"):
        checked(tmp_path, zipped([*files, (POLICY, b"x")]))


def test_a_bomb_is_refused_for_what_it_inflates_to_whatever_it_says(whole, tmp_path):
    files = files_of(whole)
    bomb = zipped(files | {POLICY: bytes(64 * 2**20)})
    assert len(bomb) < 2**20

    with pytest.raises(BadBundle, match="larger"):
        checked(tmp_path, bomb)
    for place in range(len(bomb) - 4):  # it says that the file is small, in both places
        if bomb[place : place + 4] == struct.pack("<I", 64 * 2**20):
            bomb = bomb[:place] + struct.pack("<I", 100) + bomb[place + 4 :]
    with pytest.raises(BadBundle):
        checked(tmp_path, bomb)


def test_a_bomb_in_the_statement_is_refused_by_what_the_receipts_give(whole, tmp_path):
    files = files_of(whole)
    bomb = zipped(files | {STATEMENT: b'{"tabs":[' + b"{}," * 2_000_000 + b"{}]}"})

    with pytest.raises(BadBundle, match=f"{STATEMENT} is larger"):
        checked(tmp_path, bomb)


def test_a_receipt_again_and_again_is_refused_at_the_second_time(whole, tmp_path):
    """Before the third line is looked at, which is none."""
    files = files_of(whole)
    first = files[RECEIPTS].splitlines(keepends=True)[0]

    with pytest.raises(BadBundle, match="each there once"):
        checked(tmp_path, zipped(files | {RECEIPTS: first * 2 + b"no line\n" * 10}))


def test_a_directory_of_very_many_names_is_refused_before_it_is_read(tmp_path):
    many = zipped({f"f{i}": b"" for i in range(2000)}, compression=zipfile.ZIP_STORED)
    few = many[:-12] + struct.pack("<H", 3) + many[-10:]

    for data in (many, few):
        with pytest.raises(BadBundle, match="other files"):
            checked(tmp_path, data)


def test_other_compression_and_encryption_are_refused(whole, tmp_path):
    files = files_of(whole)
    with pytest.raises(BadBundle):
        checked(tmp_path, zipped(files, compression=zipfile.ZIP_LZMA))
    encrypted = bytearray(zipped(files))
    place = encrypted.index(b"PK\x01\x02") + 8
    encrypted[place] |= 1
    with pytest.raises(BadBundle):
        checked(tmp_path, bytes(encrypted))


def test_a_truncated_or_flipped_file_is_a_bad_bundle_at_every_place(whole, tmp_path):
    for kept in range(0, len(whole), max(1, len(whole) // 40)):
        with pytest.raises(BadBundle):
            checked(tmp_path, whole[:kept])
    for at in range(0, len(whole), max(1, len(whole) // 120)):
        data = whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
        try:
            found = checked(tmp_path, data)
        except (BadBundle, IncompleteBundle):
            continue
        assert found == checked(tmp_path, whole)  # a date, say, or who may read it
    with pytest.raises(BadBundle):
        checked(tmp_path, whole + b"more")
    with pytest.raises(BadBundle):
        checked(tmp_path, b"")


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError) as none:
        check_bundle(tmp_path / "none.zip")
    assert none.value.exit_code not in (0, BadBundle.exit_code, IncompleteBundle.exit_code)
    with pytest.raises(ConfigError):
        check_bundle(tmp_path)


# --- as a command --------------------------------------------------------------------------------


def run(*args):
    return CliRunner().invoke(ledger_commands, [str(arg) for arg in args])


def test_export_and_verify_are_two_commands_on_two_machines(tmp_path):
    node = load_or_create_identity(tmp_path / "node" / "identity.key")
    with Ledger.open(tmp_path / "node", node.key, SWARM) as ledger:
        ledger.append(closed_receipt(provider=node.key))
    out = tmp_path / "ledger.zip"

    made = run("export", "bundle", "--home", tmp_path, "--out", out, "--json")
    told = run("verify", out, "--owner", node.peer_id, "--json")

    assert json.loads(made.stdout)["lines"] == 1
    view = json.loads(told.stdout)
    assert (told.exit_code, view["ok"], view["whole"], view["peer"]) == (
        0,
        True,
        True,
        node.peer_id,
    )
    assert view["earned_ncr"] > 0
    assert "nothing was left out" in run("verify", out).stdout
    other = run("verify", out, "--owner", peer_name(CLIENT.public_key), "--json")
    assert isinstance(other.exception, BadBundle)
    assert json.loads(other.stdout)["code"] == "bad_bundle"
    assert isinstance(run("export", "bundle", "--home", tmp_path).exception, UsageError)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "focus"])
def test_21_export_and_balance_are_two_commands_and_agree(tmp_path, kind):
    client = load_or_create_identity(tmp_path / "client" / "identity.key")
    with Ledger.open(tmp_path / "client", client.key, SWARM) as ledger:
        receipts = [closed_receipt(client=client.key, nonce=bytes([i]) * 16) for i in range(3)]
        ledger.append_all(receipts)
    out = tmp_path / "statement"

    ended = run("export", kind, "--home", tmp_path, "--out", out)

    assert ended.exit_code == 0
    (from_file,) = json.loads(run("balance", "--file", out, "--json").stdout)["ledgers"]
    (from_home,) = json.loads(run("balance", "--home", tmp_path, "--json").stdout)["ledgers"]
    assert from_file | {"role": "client"} == from_home
    assert run("export", kind, "--home", tmp_path).stdout.replace("\r\n", "\n") == out.read_text()


def test_a_home_with_two_ledgers_is_asked_which(tmp_path):
    for role in ("node", "client"):
        one = load_or_create_identity(tmp_path / role / "identity.key")
        Ledger.open(tmp_path / role, one.key, SWARM).close()

    ended = run("export", "csv", "--home", tmp_path)

    assert isinstance(ended.exception, UsageError)
    assert "--role" in ended.exception.hint

"""An account's keys in a home: made, rotated, delegated, revoked; and bundles that speak for it."""

import errno
import json
import multiprocessing
import os
import stat

import pytest
from click.testing import CliRunner

from ledger import Ledger
from ledger.bundle_check import check_bundle
from ledger.bundles import ABOUT, KEY_EVENTS, write_bundle
from ledger.cli import ledger as ledger_commands
from ledger.errors import BadBundle, BadKeyEvent, IncompleteBundle
from ledger.homes import Book
from ledger.key_events import Delegation
from ledger.key_ring import EVENTS, KeyRing
from ledger.key_state import fold
from ledger.lines import moment
from ledger.reader import LedgerReader
from manyhands.dashboard.earnings import Earnings
from protocol.clock import wall_ms
from protocol.errors import ConfigError, InsecureHome, UsageError
from protocol.identity import load_or_create_identity
from protocol.key_files import is_encrypted
from tests.ledger.parties import PROVIDER, STRANGER, SWARM, closed_receipt
from tests.ledger.test_bundles import OPEN, changed, files_of, zipped


@pytest.fixture
def ring(tmp_path):
    return KeyRing(directory=tmp_path / "account", keys=tmp_path / "account", swarm_id=SWARM)


def may(key=PROVIDER, scopes=("log",), until=10**6):
    return Delegation(key.public_key, scopes, until, 0)


def test_an_account_lives_through_its_events_on_disk(ring):
    begun = ring.begin()
    ring.delegate(may())
    rotated = ring.rotate()
    ring.delegate(may(STRANGER))
    ended = ring.revoke(PROVIDER.public_key)

    assert ring.state() == ended == fold(ring.events(), SWARM)
    assert ended.account == begun.account
    assert rotated.root_key != begun.root_key
    assert ended.n_events == 5
    assert ended.delegation(STRANGER.public_key)
    assert ended.delegation(PROVIDER.public_key) is None
    for path in ring.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_there_is_one_account_per_home_and_none_to_change_before_it(ring):
    for change in (ring.rotate, lambda: ring.delegate(may()), ring.state):
        with pytest.raises(ConfigError) as none:
            change()
        assert "keys begin" in none.value.hint
    ring.begin()

    with pytest.raises(UsageError):
        ring.begin()
    with pytest.raises(BadKeyEvent):
        ring.revoke(PROVIDER.public_key)


def test_root_keys_may_lie_elsewhere_and_without_them_nothing_is_signed(ring, tmp_path):
    drawer = KeyRing(directory=ring.directory, keys=tmp_path / "drawer", swarm_id=SWARM)
    drawer.begin()
    before = drawer.state()

    for change in (ring.rotate, lambda: ring.delegate(may())):
        with pytest.raises(ConfigError, match="key of the account is not in"):
            change()

    assert ring.state() == before
    assert drawer.delegate(may()).n_events == 2
    assert not list(ring.directory.glob("*.key"))


def test_a_rotated_key_is_kept_as_the_one_before_it_was_whoever_gave_the_passphrase(ring):
    def kept(**how):
        return KeyRing(directory=ring.directory, keys=ring.keys, swarm_id=SWARM, **how)

    kept(passphrase=b"of mine").begin()
    asked = []
    kept(unlock=lambda path: asked.append(path) or b"of mine").rotate()  # typed, as at a prompt

    assert [is_encrypted(path) for path in ring.keys.glob("*.key")] == [True] * 3
    assert set(asked) <= set(ring.keys.glob("*.key"))
    assert kept(unlock=lambda _: b"of mine").rotate().n_events == 3


def test_other_keys_in_the_drawer_are_passed_over(ring):
    ring.begin()
    (ring.keys / "00server.key").write_text("of a web server")
    [first, _] = sorted(ring.keys.glob("[0-9a-f]*.key"))[1:]
    copy = ring.keys / "00copy.key"
    copy.write_bytes(first.read_bytes())
    copy.chmod(0o644)

    assert ring.delegate(may()).n_events == 2
    assert ring.rotate().n_events == 3
    for path in ring.keys.glob("*.key"):
        path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read") as unread:
        ring.revoke(PROVIDER.public_key)
    assert unread.value.hint.startswith("chmod 600")


def test_a_drawer_without_links_and_modes_keeps_encrypted_keys_alone(ring, monkeypatch):
    """As FAT, on sticks, is: every file has one mode, and none has two names."""

    def no_links(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def open_to_all(*args, **more):
        descriptor = os_open(*args, **more)
        if str(args[0]).endswith(".key") or ".key." in str(args[0]):
            os.fchmod(descriptor, 0o644)
        return descriptor

    os_open = os.open
    monkeypatch.setattr("os.link", no_links)
    monkeypatch.setattr("os.open", open_to_all)

    with pytest.raises(InsecureHome, match="others' eyes"):
        ring.begin()
    assert not list(ring.keys.glob("*.key"))
    sealed = KeyRing(
        directory=ring.directory,
        keys=ring.keys,
        swarm_id=SWARM,
        unlock=lambda _: b"of mine",
        passphrase=b"of mine",
    )
    sealed.begin()
    assert sealed.rotate().n_events == 2
    assert sealed.delegate(may()).n_events == 3
    assert [path.suffix for path in ring.keys.iterdir() if path.name.startswith(".")] == []


def test_a_thief_of_the_root_key_alone_cannot_rotate(ring):
    state = ring.begin()
    for path in ring.directory.glob("*.key"):
        if not path.name.startswith(state.root_key.hex()[:16]):
            path.unlink()

    with pytest.raises(ConfigError, match="the next root key"):
        ring.rotate()


def test_a_crash_before_an_event_is_written_leaves_the_account_as_it_was(ring, tmp_path):
    ring.begin()
    events = ring.directory / EVENTS
    kept = events.read_bytes()
    ring.rotate()
    events.write_bytes(kept)  # the new next key was made, the event was not written

    assert ring.rotate().n_events == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:-9],
        lambda data: b"",
        lambda data: b"zz\n" + data,
        lambda data: data + data.splitlines(keepends=True)[-1],
        lambda data: data.replace(b"a", b"b", 1),
    ],
)
def test_damaged_events_are_said_to_be_and_not_written_over(ring, damage):
    ring.begin()
    ring.delegate(may())
    path = ring.directory / EVENTS
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()

    for change in (ring.state, ring.rotate, lambda: ring.delegate(may(STRANGER))):
        with pytest.raises(BadKeyEvent):
            change()

    assert path.read_bytes() == before


def _delegate(directory, n):
    from protocol.signing import SigningKey

    ring = KeyRing(directory=directory, keys=directory, swarm_id=SWARM)
    ring.delegate(may(SigningKey.from_seed(bytes([n]) * 32)))


def test_two_processes_lose_no_event_of_each_other(ring):
    ring.begin()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    all_of_them = [
        context.Process(target=_delegate, args=(ring.directory, n)) for n in range(60, 66)
    ]
    for process in all_of_them:
        process.start()
    for process in all_of_them:
        process.join()

    assert ring.state().n_events == 7
    assert len(ring.state().changes) == 6


# --- as commands ---------------------------------------------------------------------------------


def run(*args):
    ended = CliRunner().invoke(ledger_commands, [str(arg) for arg in args])
    if ended.exception:
        raise ended.exception
    return ended.stdout


@pytest.fixture
def home(tmp_path):
    """A home whose node earned twice."""
    node = load_or_create_identity(tmp_path / "node" / "identity.key")
    with Ledger.open(tmp_path / "node", node.key, SWARM) as ledger:
        receipts = [closed_receipt(provider=node.key, nonce=bytes([i]) * 16) for i in range(2)]
        ledger.append_all(receipts)
    return tmp_path


def keys(home, *args):
    return json.loads(run("keys", *args, "--home", home, "--json"))


def bundle(home, name="out.zip"):
    run("export", "bundle", "--home", home, "--out", home / name)
    return home / name


def test_a_bundle_is_an_accounts_while_the_logs_key_may_log_for_it(home):
    alone = check_bundle(bundle(home))
    account = keys(home, "begin")["account"]
    keys(home, "delegate", "node", "--scope", "serve")
    not_for_logs = check_bundle(bundle(home))
    shown = keys(home, "delegate", "node", "--scope", "log", "--scope", "serve", "--days", 30_000)

    proven = check_bundle(bundle(home))

    assert alone.keys is None
    assert not_for_logs.keys is None
    assert proven.keys.account.hex() == account
    assert shown["keys"][0]["scopes"] == ["log", "serve"]
    told = json.loads(run("verify", home / "out.zip", "--owner", account, "--json"))
    assert told["account"] == account
    assert account in run("verify", home / "out.zip")
    assert keys(home, "show") == shown
    assert keys(home, "show", home / "account" / EVENTS)["account"] == account
    assert account in run("keys", "show", "--home", home)

    keys(home, "revoke", "node")
    assert check_bundle(bundle(home)).keys is None
    with pytest.raises(BadBundle):
        run("verify", home / "out.zip", "--owner", account)


def test_an_account_that_a_bundle_does_not_prove_is_no_account(home, tmp_path):
    keys(home, "begin")
    keys(home, "delegate", "node", "--scope", "log", "--days", 30_000)
    files = files_of(bundle(home).read_bytes())
    rows = files[KEY_EVENTS].splitlines(keepends=True)
    ring = KeyRing(directory=home / "account", keys=home / "account", swarm_id=SWARM)
    ring.revoke(load_or_create_identity(home / "node" / "identity.key").public_key)
    revoked = (home / "account" / EVENTS).read_bytes()
    other = KeyRing(directory=home / "other", keys=home / "other", swarm_id=SWARM)
    other.begin()

    def checked(given):
        path = home / "given.zip"
        path.write_bytes(zipped(given))
        return check_bundle(path)

    for wrong in (
        files | {KEY_EVENTS: rows[0]},  # without the delegation
        files | {KEY_EVENTS: revoked},
        files | {KEY_EVENTS: (home / "other" / EVENTS).read_bytes()},
        files | {KEY_EVENTS: b"junk"},
        files | {KEY_EVENTS: b""},
        changed(files, ABOUT, account="00" * 32),
        changed(files, ABOUT, account=None),
    ):
        with pytest.raises(BadBundle):
            checked(wrong)
    del files[KEY_EVENTS]
    with pytest.raises(IncompleteBundle):
        checked(files)


def test_a_delegation_that_ended_before_the_lines_does_not_cover_them(home):
    keys(home, "begin")
    ring = KeyRing(directory=home / "account", keys=home / "account", swarm_id=SWARM)
    node = load_or_create_identity(home / "node" / "identity.key")
    ring.delegate(Delegation(node.public_key, ("log",), 5, 0))

    assert check_bundle(bundle(home)).keys is None
    with LedgerReader.read(home / "node") as reader:
        write_bundle(home / "forced.zip", reader, OPEN, key_events=ring.events())
    with pytest.raises(BadBundle, match="expired with 1970-01-06"):
        check_bundle(home / "forced.zip")


def test_a_revocation_reaches_whoever_has_newer_events_than_the_bundle(home, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    account = keys(home, "begin")["account"]
    keys(home, "delegate", "node", "--scope", "log", "--days", 30_000)
    given = bundle(home)
    older = (home / "account" / EVENTS).read_bytes()
    (elsewhere / "older").write_bytes(older)
    keys(home, "revoke", "node")
    (elsewhere / "newer").write_bytes((home / "account" / EVENTS).read_bytes())
    stranger = KeyRing(directory=elsewhere / "s", keys=elsewhere / "s", swarm_id=SWARM)
    stranger.begin()

    def verified(at, *more):
        return json.loads(run("verify", given, "--owner", account, "--home", at, "--json", *more))

    assert verified(elsewhere)["account_events"] == "its own"
    assert "what was revoked since" in run("verify", given, "--home", elsewhere)
    assert verified(elsewhere, "--events", elsewhere / "older")["account_events"] == "known"
    with pytest.raises(BadBundle, match="was revoked"):
        verified(elsewhere, "--events", elsewhere / "newer")
    with pytest.raises(BadBundle, match="was revoked"):
        verified(home)
    with pytest.raises(UsageError, match="another account"):
        verified(elsewhere, "--events", elsewhere / "s" / EVENTS)
    with pytest.raises(ConfigError):
        verified(elsewhere, "--events", elsewhere / "none")
    (home / "account" / EVENTS).write_bytes(older)
    keys(home, "delegate", "node", "--scope", "serve")
    with pytest.raises(BadBundle):  # what it may do now is something else
        verified(home)
    write_bundle_of = bundle(home, "branch.zip")
    assert check_bundle(write_bundle_of).keys is None
    (home / "account" / EVENTS).write_bytes(older)
    keys(home, "delegate", "node", "--scope", "log", "--days", 20_000)
    branch = bundle(home, "branch.zip")
    with pytest.raises(BadBundle, match="another branch"):
        run("verify", branch, "--home", elsewhere, "--events", elsewhere / "newer")


def test_one_line_dated_far_ahead_takes_the_account_from_no_other_line(home):
    """As databases may hold from before such dates were refused."""
    node = load_or_create_identity(home / "node" / "identity.key")
    with Ledger.open(home / "node", node.key, SWARM) as ledger:
        ledger.append(closed_receipt(provider=node.key, nonce=b"z" * 16, now_ms=2**62))
    account = keys(home, "begin")["account"]
    keys(home, "delegate", "node", "--scope", "log", "--days", 30_000)

    proven = check_bundle(bundle(home))

    assert (proven.keys.account.hex(), proven.n_unspoken) == (account, 1)
    told = json.loads(run("verify", home / "out.zip", "--owner", account, "--json"))
    assert told["beyond_account"] == 1
    assert "1 receipt is dated later" in run("verify", home / "out.zip")
    assert "9999-01-01" in run("statement", "--home", home)
    assert run("export", "focus", "--home", home)
    assert Earnings(Book("node", home / "node")).look()["answers"] == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("delegate", "client", "--scope", "pay"), UsageError),  # no such key here yet
        (("delegate", "12D3KooWnobody", "--scope", "pay"), UsageError),
        (("revoke", "node"), BadKeyEvent),
        (("show", "/nonexistent"), ConfigError),
        (("begin",), UsageError),
    ],
)
def test_what_cannot_be_is_said(home, arguments, error):
    keys(home, "begin")

    with pytest.raises(error):
        keys(home, *arguments)


def test_a_delegation_from_an_account_of_the_clients_key_is_told_nothing(home):
    load_or_create_identity(home / "client" / "identity.key")
    keys(home, "begin", "--client")
    line = ["keys", "delegate", "node", "--scope", "pay", "--max-exposure", "9"]

    told = CliRunner().invoke(ledger_commands, [*line, "--home", str(home)])

    assert (told.exit_code, told.stderr) == (0, "")


def test_a_delegation_that_does_not_do_what_it_seems_to_is_told(home):
    keys(home, "begin")
    line = ["keys", "delegate", "node", "--scope", "pay", "--scope", "serve", "--days", "9"]
    began_ms = wall_ms()

    told = CliRunner().invoke(ledger_commands, [*line, "--home", str(home)])

    assert "--max-exposure, which is 0" in told.stderr
    assert "manyhands ledger keys begin --client" in told.stderr
    assert "manyhands ledger hand-over" in told.stderr
    ends = {f"{moment(at_ms + 9 * 86_400_000):%Y-%m-%d}" for at_ms in (began_ms, wall_ms())}
    assert any(day in told.stdout for day in ends)

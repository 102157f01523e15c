"""`manyhands identity encrypt | decrypt`: what a person with a passphrase does to a home."""

import json

import pytest
from click.testing import CliRunner

from ledger.key_ring import KeyRing
from manyhands.home import KEY_NAME, Home, open_identity
from manyhands.whoami import identity
from protocol.errors import ConfigError, WrongPassphrase
from protocol.identity import load_identity
from protocol.key_files import is_encrypted
from protocol.passphrases import FILE_VARIABLE, VARIABLE
from protocol.signing import OPEN_SWARM_ID


@pytest.fixture
def home(tmp_path):
    home = Home.at(tmp_path / "home")
    open_identity(home.node)
    return home


def run(home, *args):
    result = CliRunner().invoke(identity, [*args, "--home", str(home.root), "--json"])
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def test_a_home_is_encrypted_used_and_made_plain_again(home, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("of mine\n")
    secret.chmod(0o600)
    before = (home.node / KEY_NAME).read_bytes()
    monkeypatch.setenv(FILE_VARIABLE, str(secret))

    view = run(home, "encrypt")

    assert view["node"]["encrypted"]
    assert run(home, "show")["node"] == view["node"]
    assert run(home, "encrypt") == view  # already so
    secret.write_text("of somebody else\n")
    with pytest.raises(WrongPassphrase):
        open_identity(home.node)
    assert run(home, "show")["node"] == view["node"]  # who it is needs no passphrase
    secret.write_text("of mine\n")

    assert not run(home, "decrypt")["node"]["encrypted"]

    monkeypatch.delenv(FILE_VARIABLE)
    assert (home.node / KEY_NAME).read_bytes() == before
    assert load_identity(home.node / KEY_NAME).peer_id == view["node"]["peer"]


def test_every_key_of_a_home_is_encrypted_an_accounts_and_a_witnesss_too(home, monkeypatch):
    open_identity(home.root / "witness")
    account = home.root / "account"
    KeyRing(directory=account, keys=account, swarm_id=OPEN_SWARM_ID).begin()
    (account / "server.key").write_text("of a web server")
    plain = run(home, "show")
    monkeypatch.setenv(VARIABLE, "of mine")

    view = run(home, "encrypt")

    roots = sorted(account.glob(f"{'[0-9a-f]' * 16}.key"))
    assert len(roots) == 2
    assert all(map(is_encrypted, (*roots, home.root / "witness" / KEY_NAME)))
    assert {who for who in view if who.startswith("account/")} == {
        f"account/{p.stem}" for p in roots
    }
    assert run(home, "show").keys() == plain.keys()
    run(home, "decrypt", "--role", "account")
    assert [is_encrypted(path) for path in roots] == [False, False]
    assert is_encrypted(home.node / KEY_NAME)


def test_a_home_without_a_peers_key_has_none_to_show(tmp_path):
    open_identity(tmp_path / "witness")

    with pytest.raises(ConfigError, match="no key"):
        run(Home.at(tmp_path), "show")

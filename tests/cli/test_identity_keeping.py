"""`manyhands identity encrypt | decrypt`: what a person with a passphrase does to a home."""

import json

import pytest
from click.testing import CliRunner

from manyhands.home import KEY_NAME, Home, open_identity
from manyhands.whoami import identity
from protocol.errors import WrongPassphrase
from protocol.identity import load_identity
from protocol.passphrases import FILE_VARIABLE


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

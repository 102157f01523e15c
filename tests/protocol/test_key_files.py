"""A key at rest: encrypted when a passphrase is given, plain when not, and back."""

import os
import stat

import pytest

from protocol.canonical import decode, encode
from protocol.errors import ConfigError, InsecureHome, WrongPassphrase
from protocol.identity import Identity, load_identity, load_or_create_identity, load_peer_id
from protocol.key_files import is_encrypted, read_key, read_public_key, rewrite_key, write_new_key
from protocol.passphrases import FILE_VARIABLE, VARIABLE, ask, given
from protocol.signing import SigningKey

KEY = SigningKey.from_seed(bytes(range(32)))
PASSPHRASE = "correct horse, Straße".encode()


def knows(passphrase):
    return lambda path: passphrase


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """The text of a key encrypted at little cost."""
    path = tmp_path_factory.mktemp("keys") / "identity.key"
    write_new_key(path, KEY, PASSPHRASE, log2_n=4)
    return path.read_text()


@pytest.fixture
def path(sealed, tmp_path):
    return written(tmp_path, sealed)


def written(directory, text):
    path = directory / "identity.key"
    path.write_text(text)
    path.chmod(0o600)
    return path


def body_of(text):
    from base64 import b64decode

    return b64decode(text.splitlines()[1])


def with_body(text, body):
    from base64 import b64encode

    begin, _, end = text.splitlines()
    return f"{begin}\n{b64encode(body).decode()}\n{end}\n"


def test_an_encrypted_key_opens_with_its_passphrase_alone(path):
    assert is_encrypted(path)
    assert read_key(path, knows(PASSPHRASE)) == KEY
    with pytest.raises(WrongPassphrase, match="does not open") as wrong:
        read_key(path, knows(PASSPHRASE + b" "))
    assert wrong.value.exit_code == 3
    with pytest.raises(ConfigError, match="is encrypted"):
        read_key(path)


def test_the_file_does_not_hold_the_seed_and_is_its_owners_alone(tmp_path, sealed):
    path = tmp_path / "made" / "identity.key"

    load_or_create_identity(path, knows(PASSPHRASE), PASSPHRASE)

    assert is_encrypted(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KEY.seed not in body_of(sealed)
    path.chmod(0o640)
    with pytest.raises(InsecureHome):
        read_public_key(path)


def test_who_a_key_is_needs_no_passphrase(path):
    assert read_public_key(path) == KEY.public_key
    assert load_peer_id(path) == Identity(KEY).peer_id


def test_a_key_goes_from_plain_to_encrypted_and_back_unchanged(tmp_path):
    path = tmp_path / "identity.key"
    write_new_key(path, KEY)
    plain = path.read_bytes()

    rewrite_key(path, load_identity(path).key, PASSPHRASE)
    assert is_encrypted(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rewrite_key(path, read_key(path, knows(PASSPHRASE)), None)

    assert path.read_bytes() == plain
    assert [each.name for each in tmp_path.iterdir()] == ["identity.key"]


def test_what_is_not_secret_in_the_file_cannot_be_changed_either(sealed, tmp_path):
    fields = decode(body_of(sealed))
    other = SigningKey.from_seed(bytes(32)).public_key
    for at, value in ((1, other), (2, fields[2] - 1), (5, bytes(16)), (6, bytes(12))):
        body = encode([*fields[:at], value, *fields[at + 1 :]])

        with pytest.raises(WrongPassphrase):
            read_key(written(tmp_path, with_body(sealed, body)), knows(PASSPHRASE))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, 2),
        (1, b"short"),
        (2, 0),
        (2, 18),
        (2, 1 << 40),
        (3, 1 << 30),
        (4, 0),
        (4, 1 << 14),
        (5, b""),
        (7, bytes(47)),
    ],
)
def test_a_file_that_would_cost_too_much_or_is_none_is_refused_before_any_work(
    sealed, tmp_path, at, value
):
    fields = decode(body_of(sealed))
    fields[at] = value
    path = written(tmp_path, with_body(sealed, encode(fields)))

    with pytest.raises(ConfigError, match="not an Ed25519 private key"):
        read_key(path, knows(PASSPHRASE))


@pytest.mark.parametrize("cut", [2, 20, 60, 120, 220])
def test_a_truncated_encrypted_key_is_a_config_error(sealed, tmp_path, cut):
    path = written(tmp_path, sealed[:-cut])

    with pytest.raises(ConfigError):
        read_public_key(path)


def test_a_passphrase_comes_from_the_environment_or_the_file_it_names(tmp_path, monkeypatch):
    file = tmp_path / "secret"
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    with pytest.raises(ConfigError, match="cannot read"):
        given()
    file.touch(mode=0o600)
    for content, passphrase in ((b"two words\n", b"two words"), (b" x \r\n", b" x "), (b"y", b"y")):
        file.write_bytes(content)
        assert given() == passphrase
    file.write_bytes(b"\n")
    with pytest.raises(ConfigError, match="is no passphrase"):
        given()
    file.write_bytes(b"z" * 5000)
    with pytest.raises(ConfigError, match="is no passphrase"):
        given()
    monkeypatch.setenv(VARIABLE, "from here")
    assert given() == os.fsencode("from here")


@pytest.mark.parametrize(("mode", "is_taken"), [(0o644, 0), (0o604, 0), (0o620, 0), (0o440, 1)])
def test_a_passphrase_that_others_can_read_is_not_taken(tmp_path, monkeypatch, mode, is_taken):
    """A group may read: an access list, as service managers give one, shows as a group's."""
    monkeypatch.delenv(VARIABLE, raising=False)
    file = tmp_path / "secret"
    file.write_text("of mine\n")
    file.chmod(mode)
    monkeypatch.setenv(FILE_VARIABLE, str(file))

    if is_taken:
        assert given() == b"of mine"
        return
    with pytest.raises(InsecureHome) as caught:
        given()
    assert caught.value.hint == f"chmod 600 {file}"


def test_without_a_person_to_ask_the_error_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)

        with pytest.raises(ConfigError) as none:
            ask(tmp_path / "identity.key")

    assert FILE_VARIABLE in none.value.hint

"""Keys, the names they spell, and the files that keep them."""

import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from shutil import which

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError, InsecureHome, UsageError
from protocol.identity import (
    Identity,
    load_identity,
    load_or_create_identity,
    peer_id_from_public_key,
    public_key_from_peer_id,
)
from protocol.signing import SigningKey, verify


@given(seed=st.binary(min_size=32, max_size=32))
def test_a_peer_id_spells_its_public_key(seed):
    identity = Identity(SigningKey.from_seed(seed))

    assert public_key_from_peer_id(identity.peer_id) == identity.public_key
    assert peer_id_from_public_key(identity.public_key) == identity.peer_id
    assert identity.peer_id.startswith("12D3Koo")
    assert len(identity.peer_id) == 52


def test_a_seed_gives_the_key_of_the_libp2p_test_vector():
    """The Ed25519 private key of the libp2p peer-ids specification: seed, then public key."""
    protobuf = bytes.fromhex(
        "08011240"
        "7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )

    identity = Identity(SigningKey.from_seed(protobuf[4:36]))

    assert identity.public_key == protobuf[36:]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12D3Koo",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # an RSA key's hash
        "1" * 52,
        "0" * 52,  # not base58
        "é" * 52,
        peer_id_from_public_key(bytes(32)),  # a key of small order: anybody could sign with it
    ],
)
def test_what_is_no_peer_id_is_refused(text):
    with pytest.raises(UsageError):
        public_key_from_peer_id(text)


def test_the_key_never_shows():
    identity = Identity(SigningKey.from_seed(b"\x07" * 32))

    assert "\\x07" not in repr(identity)
    assert identity.peer_id in repr(identity)


def test_a_new_key_is_kept_privately_and_found_again(tmp_path):
    path = tmp_path / "home" / "node" / "key.pem"

    identity = load_or_create_identity(path)

    assert load_or_create_identity(path) == load_identity(path) == identity
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["key.pem"]
    verify(identity.public_key, b"hello", identity.key.sign(b"hello"))


def test_of_two_who_make_a_key_at_once_one_wins(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: load_or_create_identity(tmp_path / "key.pem"), range(8)))

    assert len({identity.peer_id for identity in made}) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_key_that_others_can_read_or_change_is_refused_with_the_remedy(tmp_path, mode):
    path = tmp_path / "key.pem"
    load_or_create_identity(path)
    path.chmod(mode)

    with pytest.raises(InsecureHome) as caught:
        load_or_create_identity(path)

    assert caught.value.hint == f"chmod 600 {path}"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"],
)
def test_a_corrupt_key_is_a_config_error_and_is_not_replaced(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(ConfigError, match="not an Ed25519 private key"):
        load_or_create_identity(path)

    assert path.read_bytes() == content


@pytest.mark.parametrize("cut", [2, 20, 60, 118])
def test_a_truncated_key_is_a_config_error(tmp_path, cut):
    path = tmp_path / "key.pem"
    load_or_create_identity(path)
    path.write_bytes(path.read_bytes()[:-cut])

    with pytest.raises(ConfigError):
        load_identity(path)


def test_a_missing_key_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="no key"):
        load_identity(tmp_path / "key.pem")


def test_a_home_that_cannot_be_written_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(ConfigError, match="cannot write"):
        load_or_create_identity(tmp_path / "file" / "key.pem")


@pytest.mark.skipif(which("openssl") is None, reason="needs openssl")
def test_openssl_reads_our_key_and_we_read_its(tmp_path):
    ours, theirs = tmp_path / "ours.pem", tmp_path / "theirs.pem"
    identity = load_or_create_identity(ours)
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", theirs], check=True)
    os.chmod(theirs, 0o600)

    der = subprocess.run(
        ["openssl", "pkey", "-in", ours, "-pubout", "-outform", "DER"],
        check=True,
        capture_output=True,
    ).stdout

    assert der.endswith(identity.public_key)
    assert load_identity(theirs).peer_id.startswith("12D3Koo")

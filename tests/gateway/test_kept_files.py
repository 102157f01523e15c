"""Files that commands write and a gateway reads: by several, at the same time, when unreadable."""

import logging
import os
import threading
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from manyhands.gateway.aliases import AliasFile
from manyhands.gateway.aliases import write as write_aliases
from manyhands.gateway.door import admission
from manyhands.gateway.faults import ApiError
from manyhands.gateway.keys import KeyFile, Keys
from manyhands.gateway.tls import Certificate
from manyhands.private_files import changing, write_whole
from protocol.errors import ConfigError, UsageError
from tests.gateway.test_access import certificate_in

SERVICE = 54321  # a user that is not root
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)


@needs_root
def test_what_root_writes_into_the_home_of_a_service_stays_the_services(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, SERVICE, SERVICE)
    path = home / "gateway" / "keys.json"

    for n in range(2):  # a file that is new, and one that replaces another
        with changing(path):
            Keys.read(path).made(f"key {n}")[0].write(path)

        for each in (path.parent, *path.parent.iterdir()):
            assert (each.stat().st_uid, each.stat().st_gid) == (SERVICE, SERVICE), each
            assert each.stat().st_mode & 0o077 == 0
    assert len(list(path.parent.iterdir())) == 2  # the keys, and their lock


@needs_root
def test_a_link_in_place_of_the_lock_gives_nothing_of_roots_away(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root's")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, SERVICE, SERVICE)
    (home / "keys.json.lock").symlink_to(secret)

    with pytest.raises(ConfigError), changing(home / "keys.json"):
        pass

    assert secret.stat().st_uid == 0


def test_keys_that_cannot_be_read_let_nobody_in_until_they_can(tmp_path, caplog):
    path = tmp_path / "keys.json"
    keys, text = Keys().made("one")
    keys.write(path)
    admit = admission(KeyFile(path))
    header = Headers({"authorization": f"Bearer {text}", "host": "localhost"})
    assert admit(header).name == "one"

    path.write_text("{")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(ApiError) as refused:
                admit(header)

    assert (refused.value.code, refused.value.status) == ("keys_unreadable", 503)
    assert len(caplog.records) == 1
    keys.write(path)
    assert admit(header).name == "one"


def test_a_gateway_without_keys_is_shut_when_it_cannot_tell_whether_there_are_some(tmp_path):
    path = tmp_path / "keys.json"
    admit = admission(KeyFile(path))
    admit(Headers({"host": "localhost"}))

    path.symlink_to(path)  # as unreadable for root as for others

    with pytest.raises(ApiError, match="cannot read its keys"):
        admit(Headers({"host": "localhost"}))


def test_two_who_change_the_keys_at_once_lose_nothing(tmp_path):
    path = tmp_path / "keys.json"

    def make(n: int) -> None:
        with changing(path):
            Keys.read(path).made(f"key {n}")[0].write(path)

    threads = [threading.Thread(target=make, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(Keys.read(path).all) == 24


def test_a_word_that_is_one_keys_name_and_anothers_id_revokes_neither():
    first, _ = Keys().made("first")
    keys, _ = first.made(first.all[0].id)

    with pytest.raises(UsageError, match="2 keys") as refused:
        keys.revoked(keys.all[0].id)

    assert keys.all[1].id in refused.value.hint
    assert [key.name for key in keys.revoked("first").live.values()] == [keys.all[1].name]


def test_aliases_that_cannot_be_read_stay_and_new_ones_are_taken_later(tmp_path, caplog):
    path = tmp_path / "aliases.json"
    write_aliases(path, {"mine": "tiny"})
    file = AliasFile(path)

    path.write_text("{")
    with caplog.at_level(logging.ERROR):
        assert [file.refresh() for _ in range(3)] == [False] * 3

    assert (file.names, len(caplog.records)) == ({"mine": "tiny"}, 1)
    write_aliases(path, {"yours": "tiny"})
    assert file.refresh()
    assert not file.refresh()
    assert file.names == {"yours": "tiny"}


def test_a_file_that_cannot_be_written_leaves_what_there_was_and_nothing_beside(tmp_path):
    (tmp_path / "keys.json").mkdir()

    with pytest.raises(ConfigError, match=r"cannot write .*keys\.json"):
        write_whole(tmp_path / "keys.json", b"{}")

    assert [each.name for each in tmp_path.iterdir()] == ["keys.json"]


class Renewed(type(Path())):  # type: ignore[misc]  # the platform's own
    """A file that whoever renews it takes away as soon as it was read."""

    def read_bytes(self) -> bytes:
        content = bytes(super().read_bytes())
        self.unlink()
        return content


def test_a_certificate_that_goes_while_it_is_read_is_refused_in_words(tmp_path):
    cert, key = certificate_in(tmp_path)

    with pytest.raises(ConfigError, match="No such file"):
        Certificate(cert, Renewed(key))

"""`manyhands adapters`, `serve --adapter` and `MODEL:ADAPTER`, as far as they need no node."""

import json
from pathlib import Path

import pytest

from manyhands.models import BUILT_IN, split_adapter
from tests.adapters import write_adapter
from tests.cli.command import assert_explained


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter") / "pirate", BUILT_IN)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tiny", ("tiny", "")),
        ("tiny:pirate", ("tiny", "pirate")),
        ("tiny:pirate@0123456789ab", ("tiny", "pirate@0123456789ab")),
        ("org/name:pirate", ("org/name", "pirate")),
        ("/models/a:b/c", ("/models/a:b/c", "")),
        ("tiny:../pirate", ("tiny:../pirate", "")),
        ("tiny:", ("tiny:", "")),
    ],
)
def test_what_stands_behind_the_last_colon_is_an_adapter(text, parts):
    assert split_adapter(text) == parts


def test_a_directory_with_a_colon_in_its_name_is_a_model(tmp_path):
    directory = tmp_path / "model:v2"
    directory.mkdir()

    assert split_adapter(str(directory)) == (str(directory), "")
    assert split_adapter(f"{directory}:pirate") == (str(directory), "pirate")


def test_adapters_are_put_into_a_home_listed_and_taken_out(here, adapter, tmp_path):
    loaded = here("adapters", "load", f"pirate={adapter}", "--home", tmp_path)
    again = here("adapters", "load", f"pirate={adapter}", "--home", tmp_path)
    listed = here("adapters", "list", "--json", "--home", tmp_path)
    shelf = sorted(path.name for path in (tmp_path / "node" / "adapters").iterdir())
    gone = here("adapters", "unload", "pirate", "--home", tmp_path)
    empty = here("adapters", "list", "--home", tmp_path)

    assert loaded.code == again.code == gone.code == 0, loaded.err
    assert loaded.out == again.out
    view = json.loads(listed.out)
    assert view["schema"] == "manyhands/adapters/v1"
    assert [row["adapter"] for row in view["adapters"]] == [loaded.out.strip()]
    assert not view["running"]
    assert shelf == ["pirate"]
    assert "no node runs" in loaded.err
    assert empty.out == ""
    assert list((tmp_path / "node" / "adapters").iterdir()) == []


def test_what_cannot_be_an_adapter_is_refused_before_anything_is_kept(here, adapter, tmp_path):
    home = tmp_path / "home"

    for given, words in (
        (f"../pirate={adapter}", "no NAME=DIR"),
        ("pirate", "no NAME=DIR"),
    ):
        assert here("adapters", "load", given, "--home", home).code == 2, words
        assert here("serve", "tiny", "--adapter", given, "--home", home).code == 2, words
    assert_explained(
        here("adapters", "load", f"pirate={tmp_path}", "--home", home), 8, "adapter_config.json"
    )
    assert_explained(here("adapters", "unload", "..", "--home", home), 2, "adapters list")
    assert not (home / "node" / "adapters").exists()

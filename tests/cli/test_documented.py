"""docs/cli.md has every command, and the pages together every flag."""

import re
from collections.abc import Iterator

import click
import pytest

from manyhands.cli import root
from tests.cli.command import ROOT

PAGE = (ROOT / "docs" / "cli.md").read_text()
PAGES = "\n".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
EVERYWHERE = {"--verbose", "--quiet"}


def commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if path:
        yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*path, name))


ALL = dict(commands(root))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_a_command_and_its_flags_are_documented(path: tuple[str, ...]):
    flags = [
        flag
        for option in ALL[path].params
        if not getattr(option, "hidden", False)
        for flag in option.opts
        if flag.startswith("--") and flag not in EVERYWHERE
    ]

    assert re.search(rf"^## .*\b{path[0]}\b", PAGE, re.MULTILINE)
    assert re.search(rf"\b{path[-1]}\b", PAGE)
    assert not [flag for flag in flags if not re.search(rf"{flag}(?![\w-])", PAGES)]

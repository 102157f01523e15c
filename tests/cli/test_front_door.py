"""What every command shares: help, versions, unknown words, tracebacks for those who ask."""

import subprocess
import sys
import tomllib
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

import manyhands as package
from manyhands.boundary import guarded, innermost
from manyhands.cli import COMMANDS, root
from protocol.errors import ConfigError, ManyhandsError, SwarmIncomplete
from tests.cli.command import ROOT, assert_explained, manyhands


def test_help_names_every_command_and_loads_nothing_heavy():
    ended = manyhands("--help")
    loaded = manyhands("--help", PYTHONPROFILEIMPORTTIME="1").err

    assert ended.code == 0
    assert all(f"  {name} " in ended.out for name in COMMANDS)
    assert not [
        name for name in ("torch", "grpc", "numpy", "transformers") if f" {name}\n" in loaded
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_says_what_it_does(name):
    module, attribute, summary = COMMANDS[name]
    command = getattr(import_module(module), attribute)

    assert isinstance(command, click.Command)
    assert command.help
    assert summary


@pytest.mark.parametrize("name", ["serve", "generate"])
def test_every_option_of_a_long_command_stands_once_under_a_heading_of_its_own(name):
    module, attribute, _ = COMMANDS[name]
    command, headings = getattr(import_module(module), attribute), import_module(module).HEADINGS
    listed = [parameter for names in headings.values() for parameter in names]
    options = {
        each.name
        for each in command.params
        if isinstance(each, click.Option) and not each.hidden and each.expose_value
    }

    shown = CliRunner().invoke(root, [name, "--help"]).output

    assert sorted(listed) == sorted(options)
    assert [shown.count(f"\n{heading}:\n") for heading in headings] == [1] * len(headings)
    assert shown.rindex("Options:\n") < shown.index("--help")


def test_the_version_is_the_distributions():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    ended = manyhands("--version")

    assert package.__version__ == stated
    assert ended.code == 0
    assert stated in ended.out


def test_the_package_window_is_lazy():
    probe = "import sys, manyhands; manyhands.__version__; print('scheduler.client' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, cwd=ROOT, text=True)

    assert done.stdout.strip() == "False"
    assert package.Client.__module__ == "manyhands.client.blocking"
    with pytest.raises(AttributeError):
        package.Nothing  # noqa: B018


@pytest.mark.parametrize(
    "line",
    [
        "fly",
        "generate",
        "generate tiny --no-such-flag",
        "generate tiny --join /ip4/1.2.3.4/tcp/5",
        "serve tiny --span 4:2",
        "serve tiny --kv-cache much",
        "serve tiny --listen nowhere",
        "up --nodes 0",
    ],
)
def test_words_it_does_not_know_end_with_code_2(here, line):
    assert_explained(here(*line.split()), 2)


def test_no_command_at_all_shows_the_help():
    ended = manyhands()

    assert ended.code == 2
    assert "Commands:" in ended.err


def test_a_traceback_is_for_those_who_ask(tmp_path):
    home = tmp_path / "file"
    home.write_text("not a directory")

    plain = manyhands("generate", "tiny", "--prompt", "x", "--home", home)
    verbose = manyhands("generate", "tiny", "--prompt", "x", "--home", home, "-vv")

    assert_explained(plain, 3, str(home), "--home DIR")
    assert verbose.code == 3
    assert "Traceback" in verbose.err


def test_a_mistake_of_ours_is_one_line_and_code_1(capfd):
    code = guarded(lambda: 1 / 0)

    assert code == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_of_a_group_of_failures_the_one_we_can_explain_speaks():
    group = BaseExceptionGroup("tasks", [ValueError("x"), ExceptionGroup("t", [ConfigError("y")])])

    assert isinstance(innermost(group), ConfigError)


def all_errors(kind=ManyhandsError):
    yield kind
    for child in kind.__subclasses__():
        yield from all_errors(child)


def test_every_error_ends_with_a_documented_code():
    documented = {1, 2, 3, 4, 5, 6, 7, 8, 11, 66, 75}

    assert {kind.exit_code for kind in all_errors()} <= documented
    assert SwarmIncomplete.exit_code == 5


def test_an_error_without_a_better_fix_names_the_help_of_the_command_that_was_called(
    tmp_path, capsys
):
    given = ["price", "set", "--home", str(tmp_path)]

    code = guarded(lambda: root.main(given, prog_name="manyhands", standalone_mode=False))

    assert code == 2
    assert "fix: manyhands price set --help" in capsys.readouterr().err

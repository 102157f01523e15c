"""The command `manyhands`: which subcommands there are, and what every one of them shares.

In: a command line. Out: an exit code. Each command lives in a module of its own that is imported
when the command is called, so that `manyhands --help` loads no torch and no gRPC. What a failure
prints, and with which code it ends, is decided in `boundary.py`, for all commands at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from manyhands import __version__
from manyhands.boundary import guarded, remember_command, remember_verbosity
from manyhands.stderr import outlive_its_reader

COMMANDS = {  # name: (module, attribute, what it does)
    "demo": ("manyhands.demo", "demo", "A tour that ends by itself: answer, kill, proof."),
    "up": ("manyhands.up", "up", "Run a local swarm until Ctrl-C."),
    "serve": ("manyhands.serve", "serve", "Lend this machine: serve a span of a model."),
    "plan": ("manyhands.plan", "plan", "What a span would take of this machine."),
    "generate": ("manyhands.generate", "generate", "Ask a swarm for one completion."),
    "gateway": (
        "manyhands.gateway.command",
        "gateway",
        "An OpenAI-compatible API for a swarm.",
    ),
    "chat": ("manyhands.chat", "chat", "Talk with a model."),
    "status": ("manyhands.status", "status", "Whether a swarm is complete, and who serves."),
    "peers": ("manyhands.status", "peers", "The peers of a swarm, one per line."),
    "route": ("manyhands.route", "route", "Which peers would carry an answer, and why."),
    "swarm": (
        "manyhands.governing.rules_command",
        "swarm",
        "Private swarms: create, invite, join, revoke, rules.",
    ),
    "models": ("manyhands.governing.showing", "models", "What a swarm lets in, and on what terms."),
    "compare": ("manyhands.comparing.command", "compare", "Two models over the same prompts."),
    "cost": ("manyhands.costing.command", "cost", "What a thousand requests cost, here and not."),
    "price": (
        "manyhands.costing.price_command",
        "price",
        "What this machine's work costs, and what it asks.",
    ),
    "budget": (
        "manyhands.costing.budget_command",
        "budget",
        "What this home's answers may cost.",
    ),
    "identity": ("manyhands.whoami", "identity", "The keys of a home."),
    "doctor": ("manyhands.doctor.command", "doctor", "What is wrong here, and what mends it."),
    "adapters": ("manyhands.adapters", "adapters", "The adapters that this home's node serves."),
    "ledger": (
        "manyhands.calibrating.command",
        "ledger",
        "Who did what for whom: balance, verify, grant.",
    ),
}


class LazyGroup(click.Group):
    """Knows its commands by name, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        _telling(command)
        if not any(parameter.name == "verbosity" for parameter in command.params):
            command.params += verbosity_options()  # `manyhands serve -vv` as `manyhands -vv serve`
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, summary) for name, (_, _, summary) in COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _telling(command: click.Command) -> None:
    """Have it, and all below it, tell which command is called, as it is entered."""
    command.context_class = Told
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _telling(below)


class Told(click.Context):
    """Of a command that is entered: an error without a better fix names its help."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        remember_command(self.command_path)


def verbosity_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["-v", "--verbose", "verbosity"],
            count=True,
            expose_value=False,
            callback=lambda ctx, _, n: remember_verbosity(n),
            help="Say more on stderr; -vv for everything, tracebacks included.",
        ),
        click.Option(
            ["-q", "--quiet", "quiet"],
            is_flag=True,
            expose_value=False,
            callback=lambda ctx, _, quiet: remember_verbosity(-1 if quiet else 0),
            help="Say nothing on stderr but errors.",
        ),
    ]


@click.group(
    cls=LazyGroup,
    params=verbosity_options(),
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "MANYHANDS",
        "max_content_width": 100,
    },
    epilog="Begin with: manyhands demo",
)
@click.version_option(__version__, "-V", "--version", prog_name="manyhands")
def root() -> None:
    """Many people's computers, one commodity inference cloud.

    MODEL is `tiny` (built in), a directory, a GGUF file, or a name on the Hugging Face hub.
    Data goes to stdout, progress and logs to stderr.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, and exit with its code."""
    outlive_its_reader()
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(guarded(lambda: root.main(given, prog_name="manyhands", standalone_mode=False)))

"""Where errors end: each becomes two lines on stderr and an exit code (docs/cli.md).

In: the work of a command. Out: its exit code. An expected failure says what, why and the command
that fixes it; a mistake of ours says so in one line. A traceback is for those who ask with -vv.
"""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

import click

from protocol.errors import ManyhandsError

UNEXPECTED, USAGE, NO_ROOM = 1, 2, 7
SIGPIPE = int(getattr(signal, "SIGPIPE", 13))  # the code is the same where there is no such signal

_command = "manyhands"
_verbosity = 0


def remember_command(path: str) -> None:
    """What was called, as one types it: an error without a better hint names its help."""
    global _command
    _command = path


def remember_verbosity(level: int) -> None:
    """-1 quiet, 0 plain, 1 informed, 2 everything. What is asked for twice counts once."""
    global _verbosity
    _verbosity = level or _verbosity
    if level > 0:
        from manyhands.logs import show_logs  # the default, warnings alone, needs no set-up

        show_logs(level)


def verbosity() -> int:
    return _verbosity


class Interrupted(BaseException):
    """A signal asked us to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


def guarded(work: Callable[[], object]) -> int:
    """Do `work`; answer the exit code, once any failure has been reported."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no error
    try:
        answer = work()
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except Interrupted as interrupted:
        return interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left
        return 128 + SIGPIPE
    except BaseException as error:
        return report(error)
    return answer if isinstance(answer, int) else 0


def report(error: BaseException) -> int:
    """Say what failed on stderr; answer the exit code."""
    cause = innermost(error)
    if isinstance(cause, SystemExit):
        return cause.code if isinstance(cause.code, int) else UNEXPECTED
    if _verbosity >= 2:
        traceback.print_exception(error)
    if isinstance(cause, ManyhandsError):
        say_error(str(cause), cause.hint or f"{_command} --help says what is possible")
        return cause.exit_code
    if isinstance(cause, click.exceptions.NoArgsIsHelpError):
        cause.show()
        return USAGE
    if isinstance(cause, click.ClickException):
        say_error(cause.format_message(), _click_hint(cause))
        return USAGE
    if isinstance(cause, MemoryError):
        say_error("not enough memory", "close other programs, or serve a smaller --span")
        return NO_ROOM
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        say_error(f"no disk space left: {cause}", "free some, or choose another --home")
        return NO_ROOM
    what = f"{type(cause).__name__}: {cause}".rstrip(": ")
    say_error(f"unexpected: {what}", "this is a mistake of ours; run with -vv for the traceback")
    return UNEXPECTED


def innermost(error: BaseException) -> BaseException:
    """The failure that a group of tasks died of: one that we know how to explain, if any."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [innermost(part) for part in error.exceptions]
    known = [leaf for leaf in leaves if isinstance(leaf, ManyhandsError)]
    return (known or leaves)[0]


def say_error(what: str, hint: str) -> None:
    click.secho("error: ", err=True, nl=False, fg="red", bold=True)
    click.echo(" ".join(what.split()), err=True)
    if hint:
        click.secho("fix: ", err=True, nl=False, bold=True)
        click.echo(hint, err=True)


def _click_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else "manyhands --help"


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)

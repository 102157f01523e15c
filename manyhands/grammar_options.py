"""The flags that say what an answer has to be: JSON, JSON of a schema, text of a pattern.

In: flags. Out: a `Grammar`, or None. Whether a schema makes sense the last hop finds out.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import UsageError

if TYPE_CHECKING:
    from protocol.grammar import Grammar

NAMES = ("json_object", "json_schema", "regex")
_OPTIONS = (
    click.option("--json-object", is_flag=True, help="The answer is a JSON object."),
    click.option(
        "--json-schema",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The answer is JSON of this schema.",
    ),
    click.option("--regex", metavar="R", help="The whole answer matches this pattern."),
)


def grammar_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_grammar(
    json_object: bool, json_schema: Path | None, regex: str | None
) -> "Grammar | None":
    """What the flags ask for.

    Raises:
        UsageError: two at once, or a file that cannot be read.
    """
    from protocol.grammar import Grammar

    if json_object + (json_schema is not None) + (regex is not None) > 1:
        raise UsageError(
            "--json-object, --json-schema and --regex exclude each other", hint="give one of them"
        )
    if json_object:
        return Grammar.json_object()
    if regex is not None:
        return Grammar.regex(regex)
    if json_schema is None:
        return None
    try:
        return Grammar.json_schema(json_schema.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{json_schema} cannot be read: {error}", hint="--json-schema names a file of JSON"
        ) from error

"""Rendering a model's chat template: messages in, the prompt's text out.

A template is a stranger's program, so it runs in a sandbox (`template_sandbox.py`) and sees plain
JSON values alone. What it may call beside that is what the transformers library offers:
`raise_exception`, `strftime_now`, a `tojson` without HTML escapes, loop controls and `generation`
blocks.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from protocol.errors import BadModel, UsageError
from protocol.template_budget import MAX_CHARS, Refused, made, rendering, weight
from protocol.template_sandbox import Sandbox

MAX_JSON_CHARS, MAX_INDENT = 700_000, 16
MAX_STYLE = 256  # a letter of a format of times makes so many at most, in the C library


class GenerationBlocks(Extension):
    """`{% generation %}` marks what an assistant wrote; to a prompt the mark means nothing."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's way)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, str],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The prompt of a conversation, ready for the assistant's turn.

    variables: further ones; they take no name that the template is told anyway.

    Raises:
        UsageError: the template refuses these messages, or cannot make sense of them.
        BadModel: the template is no template.
    """
    try:
        compiled = _compile(template)
    except (jinja2.TemplateError, SyntaxError, ValueError, RecursionError) as error:
        raise BadModel(f"the model's chat template does not parse: {error}") from error
    try:
        plain = json.loads(json.dumps(list(messages)))  # no methods for the template to find
        told = {
            **json.loads(json.dumps(dict(variables or {}))),
            **special_tokens,
            "messages": plain,
            "tools": None if tools is None else json.loads(json.dumps(list(tools))),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        with rendering():
            return _joined(compiled.generate(told))
    except Refused as error:
        raise UsageError(f"the model's chat template refuses these messages: {error}") from error
    except Exception as error:  # a stranger's program: it may raise anything
        raise UsageError(
            f"the model's chat template cannot render these messages: {error}",
            hint='each message is {"role": …, "content": …}',
        ) from error


def _joined(parts: Iterable[str]) -> str:
    """A template may loop over loops: what it says is bounded while it says it."""
    told: list[str] = []
    n_chars = 0
    for part in parts:
        n_chars += len(part)
        if n_chars > MAX_CHARS:
            raise Refused(f"a prompt of more than {MAX_CHARS} characters")
        told.append(part)
    return "".join(told)


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > MAX_INDENT:
        raise Refused("tojson would make too much")
    made(weight(value))
    told = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if len(told) > MAX_JSON_CHARS:  # JSON of JSON of JSON is twice as long each time
        raise Refused("tojson would make too much")
    return told


def _strftime_now(style: str) -> str:
    made(weight(style) * MAX_STYLE)
    return datetime.now().strftime(style)


def _raise_exception(message: str) -> NoReturn:
    raise Refused(message)

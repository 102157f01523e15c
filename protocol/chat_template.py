"""Rendering a model's chat template: messages in, the prompt's text out.

A template is a stranger's program, so it runs in jinja2's immutable sandbox and sees plain JSON
values alone. What a template may call is what the transformers library offers: `raise_exception`,
`strftime_now`, a `tojson` without HTML escapes, loop controls and `generation` blocks.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from protocol.errors import BadModel, UsageError

MAX_CHARS = 8_000_000  # of a prompt; the longest contexts hold less
MAX_JSON_CHARS, MAX_INDENT = 700_000, 16
MAX_REPEATED, MAX_BASE, MAX_POWER = 10_000, 1_000_000, 64  # of what `*` and `**` make
_WIDE = re.compile(r"%[^a-zA-Z%]*(?:\d{5}|\*)")  # a format that pads by much


class Refused(jinja2.TemplateError):
    """The template itself says that these messages make no prompt."""


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
) -> str:
    """The prompt of a conversation, ready for the assistant's turn.

    Raises:
        UsageError: the template refuses these messages, or cannot make sense of them.
        BadModel: the template is no template.
    """
    try:
        compiled = _compile(template)
    except (jinja2.TemplateError, SyntaxError, ValueError, RecursionError) as error:
        raise BadModel(f"the model's chat template does not parse: {error}") from error
    plain = json.loads(json.dumps(list(messages)))  # no methods for the template to find
    try:
        parts = compiled.generate(
            **special_tokens,
            messages=plain,
            tools=None if tools is None else json.loads(json.dumps(list(tools))),
            documents=None,
            add_generation_prompt=add_generation_prompt,
        )
        return _joined(parts)
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


class Sandbox(ImmutableSandboxedEnvironment):
    """One in which a few letters cannot ask for all memory. What loops make is not bounded."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**":
            fits = all(isinstance(each, int | float) for each in (left, right))
            fits = fits and abs(left) <= MAX_BASE and abs(right) <= MAX_POWER
        elif operator == "+":
            sized = [each for each in (left, right) if isinstance(each, str | list | tuple)]
            fits = sum(map(len, sized)) <= MAX_CHARS
        elif operator == "%":
            fits = not isinstance(left, str) or not _WIDE.search(left)
        else:
            # Lists of lists, repeated, are small until somebody writes them down.
            fits = not any(isinstance(each, list | tuple) for each in (left, right))
            texts = [each for each in (left, right) if isinstance(each, str)]
            times = [each for each in (left, right) if isinstance(each, int)]
            fits = fits and (not texts or not times or len(texts[0]) * times[0] <= MAX_REPEATED)
        if not fits:
            raise Refused(f"{operator} would make too much")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda style: datetime.now().strftime(style)
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
    told = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if len(told) > MAX_JSON_CHARS:  # JSON of JSON of JSON is twice as long each time
        raise Refused("tojson would make too much")
    return told


def _raise_exception(message: str) -> NoReturn:
    raise Refused(message)

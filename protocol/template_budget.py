"""What a chat template has made so far, and whether it may make more.

In: sizes, before anything of such a size is made. Out: nothing, or a refusal. What a rendering has
spent is kept beside it, since templates are shared by those who render.
"""

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.utils import Namespace

MAX_CHARS = 8_000_000  # of one text; the longest contexts hold less
MAX_MADE = 32 * MAX_CHARS  # by one rendering, in all its steps
MAX_STEPS = 100_000  # rounds of loops, macros, what filters walk through
ITEM_CHARS = 8  # what an item of a list weighs beside its text
_SIZED = (str, list, tuple, dict, range, ItemsView, KeysView, ValuesView)


class Refused(jinja2.TemplateError):
    """The template itself says that these messages make no prompt, or asks for too much."""


@dataclass(slots=True)
class Spent:
    """By one rendering."""

    chars: int = 0
    steps: int = 0


_SPENT: ContextVar[Spent | None] = ContextVar("spent", default=None)


@contextmanager
def rendering() -> Iterator[None]:
    """What templates make in here is counted together; outside, as they compile, each by itself."""
    token = _SPENT.set(Spent())
    try:
        yield
    finally:
        _SPENT.reset(token)


def made(n_chars: int) -> None:
    """Raise Refused if that is too much."""
    spent = _SPENT.get() or Spent()
    spent.chars += n_chars
    if n_chars > MAX_CHARS or spent.chars > MAX_MADE:
        raise Refused("it would make too much text")


def walked(n_steps: int) -> None:
    spent = _SPENT.get() or Spent()
    spent.steps += n_steps
    if spent.steps > MAX_STEPS:
        raise Refused("it goes round too often")


def weight(*values: Any) -> int:
    """Characters that these take, written down; what several lists share is written for each."""
    n_chars, waiting = 0, list(values)
    while waiting:
        match waiting.pop():
            case str() as text:
                n_chars += len(text)
            case dict() as fields:
                n_chars += ITEM_CHARS * (2 * len(fields) + 1)
                waiting += [*fields, *fields.values()]
            case list() | tuple() | ItemsView() | KeysView() | ValuesView() as items:
                n_chars += ITEM_CHARS * (len(items) + 1)
                waiting += items
            case int() as number:
                n_chars += number.bit_length() // 3 + 1
            case Namespace():
                raise Refused("a namespace is no text")
            case _:
                n_chars += ITEM_CHARS
        if n_chars > MAX_CHARS:
            raise Refused("it would make too much text")
    return n_chars


def length(value: Any) -> int:
    return len(value) if isinstance(value, _SIZED) else 0

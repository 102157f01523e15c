"""Where a chat template runs: a sandbox in which a few letters cannot take all of a machine.

In: a template's text. Out: a jinja2 template. jinja2's own sandbox keeps a template from what it
should not touch; here, what makes text is weighed before it is run (`template_budget.py`): what one
operation may make is bounded, what all of a rendering make together, and how often its loops and
macros go round. Filters (`template_filters.py`) and methods of text that are not named do not
exist. Only comparing and searching are free.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from protocol.template_budget import ITEM_CHARS, Refused, length, made, walked, weight
from protocol.template_filters import bounded, check_percent, joined, replaced

MAX_REPEATED, MAX_BASE, MAX_POWER, MAX_BITS = 10_000, 1_000_000, 64, 4_096
MAX_SCOPES = 16  # within each other; Python itself allows 20 loops

METHODS = frozenset(
    {"capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha",
     "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isprintable", "isspace", "istitle",
     "isupper", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rindex",
     "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
     "title", "upper"}
)  # fmt: skip
_WIDE_FIELD = re.compile(r"\d{5}|\{[^{}]*\{")  # pads by much, or by an argument


class Sandbox(ImmutableSandboxedEnvironment):
    """See the module."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, **options: Any) -> None:
        # Folding constants costs the cube of how deeply an expression nests: seconds for 1 KB.
        super().__init__(**options, optimized=False, finalize=_finalized)
        self.filters = bounded(self.filters)
        del self.globals["lipsum"]

    @staticmethod
    def concat(parts: Iterable[str]) -> str:  # what blocks end in
        told = list(parts)
        made(sum(map(len, told)))
        return "".join(told)

    def step(self) -> str:
        walked(1)
        return ""

    def rounds(self, items: Any) -> Any:
        """What a loop goes through."""
        walked(length(items))
        return items

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        part = value[start:stop:step]
        made(len(part) * (1 if isinstance(part, str) else ITEM_CHARS))
        return part

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            fits = all(isinstance(each, int | float) for each in (left, right))
            fits = fits and abs(left) <= MAX_BASE and abs(right) <= MAX_POWER
        elif operator == "+":
            fits = True
            for each in (left, right):
                made(len(each) if isinstance(each, str) else ITEM_CHARS * length(each))
        elif operator == "%":
            fits = True
            if isinstance(left, str):
                check_percent(left, right)
        else:
            # Lists of lists, repeated, are small until somebody writes them down.
            fits = not any(isinstance(each, list | tuple) for each in (left, right))
            texts = [each for each in (left, right) if isinstance(each, str)]
            times = [each for each in (left, right) if isinstance(each, int)]
            fits = fits and (not texts or not times or len(texts[0]) * times[0] <= MAX_REPEATED)
            fits = fits and sum(each.bit_length() for each in times) <= MAX_BITS
        if not fits:
            raise Refused(f"{operator} would make too much")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if not isinstance(owner, str):
            return super().call(context, obj, *args, **kwargs)
        made(weight(owner, *args, *kwargs.values()))
        if name == "replace":
            return replaced(owner, *args, **kwargs)
        if name == "join":
            (items,) = args
            return joined(self, items, owner)
        if name not in METHODS:
            raise Refused(f"no text has a method {name}")
        answer = super().call(context, obj, *args, **kwargs)
        if isinstance(answer, list):
            made(ITEM_CHARS * len(answer))
        return answer

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = str(value.__self__)

        def checked(*args: Any, **kwargs: Any) -> str:
            plain = text.replace("{{", "").replace("}}", "")
            if value.__name__ != "format" or _WIDE_FIELD.search(plain):
                raise Refused("a format would make too much")
            most = max(map(weight, (*args, *kwargs.values())), default=0)
            made(len(text) + plain.count("{") * most)
            return wrapped(*args, **kwargs)

        return checked

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Weighed().visit(super()._parse(source, name, filename))
        return tree


class _Weighed(NodeTransformer):
    """Has loops, macros, slices and `~` go through the sandbox, which jinja2 compiles in line."""

    def __init__(self) -> None:
        self._n_around = 0  # loops, macros and calls, each a scope of its own

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self._visit_scope(node)
        node.iter = _asked("rounds", node.iter)
        return _counted(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self._visit_scope(node)
        return _counted(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        self._visit_scope(node)
        return _counted(node)

    def _visit_scope(self, node: nodes.Node) -> None:
        if self._n_around == MAX_SCOPES:
            raise jinja2.TemplateSyntaxError(f"over {MAX_SCOPES} loops in loops", node.lineno)
        self._n_around += 1
        self.generic_visit(node)
        self._n_around -= 1

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = (node.arg.start, node.arg.stop, node.arg.step)
        return _asked("sliced", node.node, *(end or nodes.Const(None) for end in ends))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        texts = [nodes.Filter(each, "string", [], [], None, None) for each in node.nodes]
        added: nodes.Expr = texts[0]
        for text in texts[1:]:
            added = nodes.Add(added, text)
        return added.set_lineno(node.lineno)


def _counted(node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
    node.body.insert(0, nodes.ExprStmt(_asked("step")).set_lineno(node.lineno))
    return node


def _asked(name: str, *arguments: nodes.Node) -> nodes.Call:
    """The sandbox's method of that name, called."""
    call = nodes.Call(nodes.EnvironmentAttribute(name), [*arguments], [], None, None)
    call.set_lineno(arguments[0].lineno if arguments else 1)
    return call


def _finalized(value: Any) -> Any:
    """What an expression puts into the prompt."""
    if not isinstance(value, str):
        made(weight(value))
    return value

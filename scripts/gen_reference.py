"""docs/reference.md, the Python API, from its docstrings, and docs/http.md, the HTTP API.

    python scripts/gen_reference.py            writes them
    python scripts/gen_reference.py --check    says whether they are current, and changes nothing

In: the packages' own windows, and what `/openapi.json` says. Out: two pages. What is not written
there is said nowhere else: a class, a public method or a path without a docstring is an error.
"""

import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

import manyhands.client
from manyhands import (
    AsyncClient,
    AutoDistributedModelForCausalLM,
    Client,
    Group,
    Limits,
    errors,
)
from manyhands.client import choices, streams
from manyhands.client.asynchronous import AsyncCompletions, AsyncSwarm
from manyhands.client.blocking import Completions, Swarm
from manyhands.gateway import http_reference

DOCS = Path(__file__).parents[1] / "docs"
PAGE, HTTP_PAGE = DOCS / "reference.md", DOCS / "http.md"
HEAD = """# Python reference

Made by `scripts/gen_reference.py` from the docstrings; edited by nobody. How it is used:
`docs/python.md`.
"""
SECTIONS: dict[str, tuple[type, ...]] = {
    "Clients": (Client, Completions, Swarm, AsyncClient, AsyncCompletions, AsyncSwarm),
    "Streams": (streams.Stream, streams.AnswerStream, streams.AsyncStream),
    "What may be chosen": (choices.Drawing, choices.ChatChoices, choices.Extension),
    "What they give": tuple(
        getattr(manyhands.client, name)
        for name in manyhands.client.__all__
        if name not in ("Client", "AsyncClient")
    ),
    "Models whose blocks are a swarm": (AutoDistributedModelForCausalLM, Limits, Group),
    "Errors": tuple(
        getattr(errors, name)
        for name in errors.__all__
        if getattr(errors, name).__module__ == errors.__name__
    ),
}
LOCAL = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])")  # module names before a class


def page() -> str:
    parts = [HEAD]
    for title, kinds in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [part for kind in kinds for part in _class(kind)]
    return "\n".join(parts)


def _class(kind: type) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    yield _text(kind) + "\n"
    if fields := list(_fields(kind)):
        yield "| field | is |\n|---|---|\n" + "\n".join(fields) + "\n"
    elif "__init__" in vars(kind) and len(inspect.signature(kind).parameters):
        yield _code(kind.__name__, inspect.signature(kind)) + "\n"
    for name, member in vars(kind).items():
        called = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or not inspect.isfunction(called):
            continue
        is_async = inspect.iscoroutinefunction(called)
        yield f"#### {kind.__name__}.{name}\n"
        yield _code(name, inspect.signature(called), prefix="await " if is_async else "") + "\n"
        yield _text(called) + "\n"


def _fields(kind: type) -> Iterator[str]:
    """Of a dataclass, a typed dict or a pydantic model, as rows."""
    if not (
        typing.is_typeddict(kind)
        or hasattr(kind, "__dataclass_fields__")
        or issubclass(kind, BaseModel)
    ):
        return
    for name, hint in inspect.get_annotations(kind).items():
        if not name.startswith("_"):
            told = _hint(hint).replace("|", "\\|")  # else it would end the cell
            yield f"| `{name}` | `{told}` |"


def _code(name: str, signature: inspect.Signature, prefix: str = "") -> str:
    given = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    shown, starred = [], False
    for each in given:
        if each.kind is each.KEYWORD_ONLY and not starred:
            shown.append("*")
            starred = True
        text = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "") + each.name
        if each.annotation is not each.empty:
            text += f": {_hint(each.annotation)}"
        if each.default is not each.empty:
            text += f" = {each.default!r}"
        shown.append(text)
    back = signature.return_annotation
    arrow = "" if back in (signature.empty, None) else f" -> {_hint(back)}"
    line = f"{prefix}{name}({', '.join(shown)}){arrow}"
    if len(line) > 96:
        line = f"{prefix}{name}(\n" + "".join(f"    {each},\n" for each in shown) + f"){arrow}"
    return f"```python\n{line}\n```"


def _hint(hint: object) -> str:
    unpacked = typing.get_args(hint) if typing.get_origin(hint) is typing.Unpack else ()
    hint = unpacked[0] if unpacked else hint
    text = hint if isinstance(hint, str) else inspect.formatannotation(hint)
    return LOCAL.sub("", text.replace("typing.", "").replace('"', "")).strip("'")


def _text(of: object) -> str:
    """A docstring, with its sections as lists."""
    text = inspect.cleandoc(getattr(of, "__doc__", None) or "")
    if not text:
        raise SystemExit(f"{getattr(of, '__qualname__', of)} has no docstring")
    lines = []
    for line in text.splitlines():
        if line in ("Args:", "Raises:", "Returns:"):
            lines += [f"*{line[:-1]}*", ""]
        elif re.match(r"    \S", line):
            lines.append(f"* {line.strip()}")
        elif line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
    return "\n".join(lines).rstrip()


def main() -> None:
    for path, made in ((PAGE, page()), (HTTP_PAGE, http_reference.page())):
        if "--check" not in sys.argv[1:]:
            path.write_text(made)
        elif not path.exists() or path.read_text() != made:
            raise SystemExit(f"{path.name} is not current: run python scripts/gen_reference.py")


if __name__ == "__main__":
    main()

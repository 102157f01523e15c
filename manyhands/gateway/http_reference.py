"""docs/http.md: every path of the HTTP API and what it takes, from what `/openapi.json` says.

In: the routes, without anybody behind them. Out: one page. A path whose function has no docstring
is an error: nobody else says what it is for.
"""

import html
from collections.abc import Iterator, Mapping
from typing import Any

from manyhands.dashboard.routes import Panel
from manyhands.gateway.app import routed

Json = Mapping[str, Any]

HEAD = """# HTTP reference

Made by `scripts/gen_reference.py` from what a gateway says at `GET /openapi.json`; edited by
nobody. How it is used, and what goes wrong with which status: `docs/gateway.md`. Fields that are
not here are ignored, and named in `x-manyhands-ignored-params`; those that would change what an
answer means are refused.
"""
SCHEMAS = "#/components/schemas/"


def document() -> Json:
    """As a gateway serves it."""
    found: Json = routed(Panel()).openapi()
    return found


def page() -> str:
    told = document()
    parts = [HEAD, "## Paths\n", "| path | what | takes |\n|---|---|---|"]
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            parts.append(_path(path, method.upper(), operation))
    parts.append("\n## Bodies\n")
    for name, schema in sorted(told["components"]["schemas"].items()):
        parts += _schema(name, schema)
    return "\n".join(parts)


def _path(path: str, method: str, operation: Json) -> str:
    about = operation.get("description", "")
    if not about:
        raise SystemExit(f"{method} {path} has no docstring")
    takes = [
        f"`{each['name']}`: {_type(each['schema'])}" for each in operation.get("parameters", ())
    ]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        takes.append(_type(content["schema"]))
    cells = (f"`{method} {path}`", " ".join(about.split()), "; ".join(takes))
    return _row(*cells)


def _schema(name: str, schema: Json) -> Iterator[str]:
    yield f"### {name}\n"
    if about := schema.get("description", ""):
        yield " ".join(about.split()) + "\n"
    yield "| field | is |\n|---|---|"
    needed = schema.get("required", ())
    for field, of in schema.get("properties", {}).items():
        about = f"{_type(of)}{_default(of)}{', needed' if field in needed else ''}"
        yield _row(f"`{field}`", about)
    yield ""


def _type(schema: Json) -> str:
    """In words, with its limits."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(SCHEMAS)
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if kinds := schema.get("anyOf"):
        return " or ".join(_type(each) for each in kinds if each.get("type") != "null")
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        kind = " or ".join(each for each in kind if each != "null")
    if kind == "array":
        return f"several: {_type(schema.get('items', {}))}{_limits(schema)}"
    return f"{kind}{_limits(schema)}"


def _limits(schema: Json) -> str:
    told = []
    for words, names in (
        ("from {}", ("minimum", "minLength", "minItems")),
        ("more than {}", ("exclusiveMinimum",)),
        ("to {}", ("maximum", "maxLength", "maxItems")),
        ("below {}", ("exclusiveMaximum",)),
    ):
        told += [words.format(_number(schema[name])) for name in names if name in schema]
    of = {"string": " characters", "array": " of them"}.get(str(schema.get("type")), "")
    return f" ({' '.join(told)}{of})" if told else ""


def _number(value: float) -> str:
    return {2**31: "2^31", 2**63: "2^63", -(2**63): "-2^63"}.get(int(value), f"{value:g}")


def _default(schema: Json) -> str:
    value = schema.get("default")
    return f", else `{value}`" if value not in (None, [], "", {}) else ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(html.escape(c, quote=False).replace("|", "\\|") for c in cells) + " |"

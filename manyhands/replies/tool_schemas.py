"""The tools of a request: each function's schema, and how a grammar spells what fits it.

In: `tools` as HTTP clients send them. Out: parameters by name, checked as far as they are read
here, and rules of llguidance's Lark for JSON that fits one of them. Several schemas can share a
root: their definitions then get names that no other has.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from protocol.errors import UsageError

ANY_ARGUMENTS = {"type": "object"}
BLANK = r"[ \t\r\n]{0,20}"  # no answer goes on for ever without saying anything


def json_rule(schema: Any, *, is_free: bool = False) -> str:
    """JSON of this schema, spaced as templates space it and in no other way, or freely."""
    spacing = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    plain = dict(schema) if isinstance(schema, Mapping) else {}
    told = {"whitespace_flexible": True, "whitespace_pattern": BLANK} if is_free else spacing
    return "%json " + json.dumps(plain | {"x-guidance": told})


def defs_of(schema: Mapping[str, Any], at: int) -> dict[str, Any]:
    """A tool's own definitions, by names that no other tool has."""
    found = {**(schema.get("definitions") or {}), **(schema.get("$defs") or {})}
    return {f"t{at}_{name}": _referred(each, at) for name, each in found.items()}


def without_defs(schema: Mapping[str, Any], at: int) -> dict[str, Any]:
    """The schema with its references led to `defs_of`."""
    told = {name: each for name, each in schema.items() if name not in ("$defs", "definitions")}
    return {name: _referred(each, at, name) for name, each in told.items()}


def _referred(value: Any, at: int, name: str = "") -> Any:
    if name == "$ref" and isinstance(value, str):
        for root in ("#/$defs/", "#/definitions/"):
            if value.startswith(root):
                return f"#/$defs/t{at}_{value.removeprefix(root)}"
    if isinstance(value, Mapping):
        return {key: _referred(each, at, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_referred(each, at) for each in value]
    return value


def parameters_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The tools of a request by name, each with its parameters' schema.

    Raises:
        UsageError: one is no function with a name; the message says which.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for at, tool in enumerate(tools):
        function = tool.get("function") if tool.get("type") == "function" else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not _is_name(name):
            raise UsageError(
                f"tools[{at}] is no function with a name",
                hint='{"type": "function", "function": {"name": …, "parameters": {…}}}',
            )
        if name in found:
            raise UsageError(f"tools[{at}].function.name: {name} is offered twice")
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        if not _is_of_objects(parameters):
            raise UsageError(f"tools[{at}].function.parameters is not a JSON schema of an object")
        found[name] = parameters
    return found


def _is_of_objects(schema: Any) -> bool:
    """Whether its properties and what it requires can be read at all."""
    if not isinstance(schema, Mapping):
        return False
    properties, required = schema.get("properties") or {}, schema.get("required") or []
    definitions = (schema.get(name) or {} for name in ("$defs", "definitions"))
    return (
        all(isinstance(each, Mapping) for each in (properties, *definitions))
        and isinstance(required, list)
        and all(isinstance(name, str) for name in required)
    )


def _is_name(name: str) -> bool:
    """OpenAI's rule, and a dot."""
    return 0 < len(name) <= 64 and all(c.isascii() and (c.isalnum() or c in "_-.") for c in name)

"""A JSON schema without room for what it does not name.

In: the schema of a tool's parameters, or of an answer. Out: the same, where an object that names
its properties has no others. JSON Schema allows others unless it is told; a function would choke on
them, and a small model that may write them seldom stops. What fits the result fits the original.
"""

from collections.abc import Mapping
from typing import Any

JOINS = {  # where parts add up, or where less of a part is more of the whole
    *("allOf", "if", "dependentSchemas", "unevaluatedProperties"),
    *("not", "oneOf", "maxContains"),
}
OPEN = {"additionalProperties", "patternProperties", "propertyNames", "minProperties"} | JOINS
INNER = ("items", "additionalProperties")
LISTS = ("anyOf", "prefixItems")
MAPS = ("properties", "$defs", "definitions")
MAX_DEPTH = 64


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Itself, where parts of it add up: there a closed part would shut out the others, or let in
    what they shut out."""
    return dict(schema) if _joins(schema, 0) else _closed(schema, 0)


def _closed(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    told = dict(schema)
    if depth >= MAX_DEPTH:
        return told

    def inner(value: Any) -> Any:
        return _closed(value, depth + 1) if isinstance(value, Mapping) else value

    for name in INNER:
        if name in told:
            told[name] = inner(told[name])
    for name in LISTS:
        if isinstance(told.get(name), list):
            told[name] = [inner(each) for each in told[name]]
    for name in MAPS:
        if isinstance(told.get(name), Mapping):
            told[name] = {key: inner(each) for key, each in told[name].items()}
    named = told.get("properties")
    if isinstance(named, Mapping) and named and not OPEN & set(told) and not _mixes(told):
        told["additionalProperties"] = False
    return told


def _mixes(schema: Mapping[str, Any]) -> bool:
    """Whether its own properties stand beside those of alternatives, or of another schema."""
    return "anyOf" in schema or "$ref" in schema


def _joins(value: Any, depth: int) -> bool:
    if depth >= MAX_DEPTH:
        return True
    if isinstance(value, Mapping):
        return not JOINS.isdisjoint(value) or any(_joins(v, depth + 1) for v in value.values())
    return isinstance(value, list) and any(_joins(each, depth + 1) for each in value)

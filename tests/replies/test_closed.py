"""Schemas without room for what they do not name."""

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from manyhands.replies.closed import closed

NAMES = st.sampled_from(["a", "b", "c"])
LEAVES = st.sampled_from(
    [{"type": "integer"}, {"enum": ["x"]}, {}, {"type": "object"}, {"$ref": "#/$defs/a"}]
)


def objects(inner: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    named = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(NAMES, inner, max_size=3)},
        optional={
            "additionalProperties": st.booleans() | inner,
            "minProperties": st.just(1),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
        },
    )
    joined = st.builds(
        lambda how, parts: {how: parts},
        st.sampled_from(["allOf", "anyOf", "oneOf"]),
        st.lists(inner, min_size=1, max_size=2),
    )
    negated = st.builds(lambda each: {"not": each}, inner)
    listed = st.builds(lambda each: {"type": "array", "items": each}, inner)
    return named | joined | negated | listed


SCHEMAS = st.recursive(LEAVES, objects, max_leaves=6).map(lambda s: {**s, "$defs": {"a": {}}})
VALUES = st.recursive(
    st.integers(0, 1) | st.just("x"),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)


@given(SCHEMAS, VALUES)
def test_what_fits_the_closed_schema_fits_the_original(schema, value):
    if jsonschema.Draft202012Validator(closed(schema)).is_valid(value):
        assert jsonschema.Draft202012Validator(schema).is_valid(value)


def test_an_object_that_names_its_properties_has_no_others():
    inner = {"type": "object", "properties": {"b": {"type": "integer"}}}

    told = closed({"type": "object", "properties": {"a": inner, "list": {"items": inner}}})

    assert told["additionalProperties"] is False
    assert told["properties"]["a"]["additionalProperties"] is False
    assert told["properties"]["list"]["items"]["additionalProperties"] is False


def test_what_says_otherwise_or_adds_up_stays_as_it_is():
    for schema in (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {}}, "patternProperties": {"^b": {}}},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "anyOf": [{"required": ["b"]}]},
        {"type": "object"},
    ):
        assert closed(schema) == schema

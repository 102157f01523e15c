"""A grammar allows what it says and nothing else, and what strangers send as one harms nobody."""

import asyncio
import contextlib
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.grammars import Grammars
from protocol.asking import MAX_GRAMMAR_BYTES, Extensions
from protocol.drawing import Drawing
from protocol.errors import BadGrammar, BadSchema, UsageError
from protocol.grammar import Grammar, Kind
from protocol.guidance import Guidance, Guide
from protocol.text import Tokenizer
from tests.protocol.test_drawing import RESERVE, TINY, asking

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "n": {"type": "integer", "minimum": -5, "maximum": 300},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(TINY)


@pytest.fixture(scope="module")
def guidance(tokenizer) -> Guidance:
    return Guidance(tokenizer)


def allowed(guide: Guide, ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    return np.flatnonzero(guide.bars(ids, tokenizer.vocab_size) == 0).tolist()


def walk(guide: Guide, tokenizer: Tokenizer, seed: int, most: int = 200) -> list[int]:
    """Any of the allowed ids at each place, until one ends the answer."""
    chance, ids = np.random.default_rng(seed), []
    while len(ids) < most:
        ids.append(int(chance.choice(allowed(guide, ids, tokenizer))))
        if ids[-1] in tokenizer.eos_ids:
            break
    return ids


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_any_way_through_a_schema_that_ends_is_valid(seed, tokenizer, guidance):
    ids = walk(guidance.compile(Grammar.json_schema(SCHEMA)), tokenizer, seed)

    assert ids[-1] in tokenizer.eos_ids
    told = json.loads(tokenizer.decode(ids))
    assert set(told) - {"tags"} == {"name", "n"}
    assert len(told["name"]) <= 6
    assert -5 <= told["n"] <= 300
    assert set(told.get("tags", [])) <= {"a", "b"}


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_any_way_through_a_pattern_that_ends_matches_it(seed, tokenizer, guidance):
    pattern = "(red|green) [0-9]{1,3}( balls)?"

    ids = walk(guidance.compile(Grammar.regex(pattern)), tokenizer, seed)

    assert ids[-1] in tokenizer.eos_ids
    assert re.fullmatch(pattern, tokenizer.decode(ids))


@given(seed=st.integers(0, 2**32), cut=st.integers(0, 12))
@settings(max_examples=15, deadline=None)
def test_what_is_allowed_is_a_function_of_the_answer_alone(seed, cut, tokenizer, guidance):
    grammar = Grammar.json_schema(SCHEMA)
    walked, fresh = guidance.compile(grammar), guidance.compile(grammar)
    ids = walk(walked, tokenizer, seed)
    beginning = ids[: min(cut, len(ids) - 1)]

    one, other = (g.bars(beginning, tokenizer.vocab_size) for g in (walked, fresh))

    assert np.array_equal(one, other)
    assert np.array_equal(one, fresh.bars(beginning, tokenizer.vocab_size)), "asked again"


@given(seed=st.integers(0, 2**32), cut=st.integers(0, 12), other=st.booleans())
@settings(max_examples=15, deadline=None)
def test_what_was_looked_for_ahead_changes_nothing(seed, cut, other, tokenizer, guidance):
    grammar = Grammar.json_schema(SCHEMA)
    ahead, plain = guidance.compile(grammar), guidance.compile(grammar)
    ids = walk(plain, tokenizer, seed)
    beginning = ids[: min(cut, len(ids) - 1)]

    ahead.begin(
        [*beginning, 3] if other else beginning, tokenizer.vocab_size
    )  # 3: as a rule none of the grammar's

    if not other:
        told = ahead.bars(beginning, tokenizer.vocab_size)
        assert np.array_equal(told, plain.bars(beginning, tokenizer.vocab_size))
    elif 3 not in allowed(plain, beginning, tokenizer):
        with pytest.raises(BadGrammar):
            ahead.bars([*beginning, 3], tokenizer.vocab_size)


def test_an_answer_that_has_ended_may_be_looked_at_ahead(tokenizer, guidance):
    guide = guidance.compile(Grammar.regex("a"))
    [a], [eos] = tokenizer.encode("a", add_special_tokens=False), tokenizer.eos_ids

    guide.begin([a, eos], tokenizer.vocab_size)

    assert allowed(guide, [a], tokenizer) == [eos], "and what was drawn may be cut"


def test_the_answer_may_end_exactly_where_the_grammar_is_satisfied(tokenizer, guidance):
    guide = guidance.compile(Grammar.regex("ab?"))
    [eos] = tokenizer.eos_ids
    [a], [b] = (tokenizer.encode(letter, add_special_tokens=False) for letter in "ab")

    def may_end(*ids: int) -> bool:
        return eos in allowed(guide, ids, tokenizer)

    assert [may_end(), may_end(a), may_end(a, b)] == [False, True, True]
    assert allowed(guide, (a, b), tokenizer) == [eos]


def test_json_has_no_white_space_where_the_schema_leaves_it_open(tokenizer, guidance):
    guide = guidance.compile(Grammar.json_object())
    brace = tokenizer.encode("{", add_special_tokens=False)

    found = allowed(guide, brace, tokenizer)

    assert found
    assert not [id for id in found if tokenizer.decode([id])[:1].isspace()]


def test_a_vocabulary_wider_than_the_tokenizers_has_nothing_more_to_say(tokenizer, guidance):
    guide, size = guidance.compile(Grammar.regex("a+")), tokenizer.vocab_size

    wide = guide.bars((), size + 100)

    assert len(wide) == size + 100
    assert np.array_equal(wide[:size], guide.bars((), size))
    assert (wide[size:] == -np.inf).all()


def test_an_answer_that_is_none_of_the_grammars_is_refused(tokenizer, guidance):
    guide = guidance.compile(Grammar.regex("a+"))

    with pytest.raises(BadGrammar):
        guide.bars(tokenizer.encode("zebra", add_special_tokens=False), tokenizer.vocab_size)


GROWING = Grammar.regex(".*(a|b).{0,300}c.{0,300}d.{5,400}e{300}")  # in a few letters, 10^4 states


def follow(
    guide: Guide, tokenizer: Tokenizer, ids: list[int], most: int, *, looks_ahead: bool
) -> None:
    """Any of the allowed ids at each place, but none that ends the answer, onto `ids`."""
    chance, size = np.random.default_rng(1), tokenizer.vocab_size
    while len(ids) < most:
        found = set(allowed(guide, ids, tokenizer)) - tokenizer.eos_ids
        ids.append(int(chance.choice(sorted(found))))
        if looks_ahead:
            guide.begin(ids, size)


@pytest.mark.parametrize("looks_ahead", [True, False])
def test_an_answer_whose_grammar_outgrew_its_bounds_never_ends_as_if_it_were_whole(
    looks_ahead, tokenizer, guidance
):
    guide, ids = guidance.compile(GROWING), list[int]()

    with pytest.raises(BadGrammar, match="too many states"):
        follow(guide, tokenizer, ids, 200, looks_ahead=looks_ahead)

    for asked in (ids, ids, [*ids, *tokenizer.eos_ids], ids[:3], []):
        with pytest.raises(BadGrammar):
            guide.bars(asked, tokenizer.vocab_size)


AMBIGUOUS = {
    "of one letter": 'start: s\ns: s s s | s s | "a" | \n',
    "of any": "start: s\ns: s s | ANY\nANY: /./\n",
    "through another": "start: s\ns: t s t | ANY | \nt: s t s | s\nANY: /./\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguity_that_grows_with_the_answer_ends_it_before_a_token_costs_much(
    name, tokenizer, guidance
):
    guide, ids = guidance.compile(Grammar.lark(AMBIGUOUS[name])), list[int]()

    with pytest.raises(BadGrammar, match=r"row has 5\d\d items"):
        follow(guide, tokenizer, ids, 300, looks_ahead=True)
    with pytest.raises(BadGrammar):
        guidance.compile(Grammar.lark(AMBIGUOUS[name])).bars(ids, tokenizer.vocab_size)


def test_a_schema_of_hundreds_of_properties_can_be_followed(tokenizer, guidance):
    properties = {f"p{i}": {"type": "integer"} for i in range(400)}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    guide = guidance.compile(Grammar.json_schema(schema))
    ids = tokenizer.encode('{"p3":1', add_special_tokens=False)

    assert len(allowed(guide, ids, tokenizer)) > 1


def chain(n: int) -> str:
    """Definitions that refer to one another, the last to nothing."""
    links = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(n)}
    return json.dumps({"$ref": "#/$defs/d0", "$defs": {**links, f"d{n}": {}}})


def lark_chain(n: int) -> str:
    return "start: R0\n" + "".join(f"R{i}: R{i + 1}\n" for i in range(n)) + f'R{n}: "a"\n'


NONSENSE = {
    "no JSON": Grammar.json_schema("{"),
    "no schema": Grammar.json_schema("false"),
    "an unknown type": Grammar.json_schema('{"type":"frob"}'),
    "a keyword it has not": Grammar.json_schema('{"type":"object","unevaluatedProperties":false}'),
    "nothing satisfies it": Grammar.json_schema('{"type":"string","minLength":5,"maxLength":2}'),
    "itself": Grammar.json_schema('{"$ref":"#"}'),
    "a file": Grammar.json_schema('{"$ref":"file:///etc/passwd"}'),
    "an address": Grammar.json_schema('{"$ref":"http://127.0.0.1:9/x"}'),
    "1,000 deep": Grammar.json_schema('{"items":' * 1000 + "{}" + "}" * 1000),
    "5,000 deep": Grammar.regex("(" * 5000 + "a" + ")" * 5000),
    "a back reference": Grammar.regex(r"(a)\1"),
    "an open class": Grammar.regex("[a-"),
    "a rule that is not there": Grammar.lark("start: other"),
    "rules in a circle": Grammar.lark("start: a\na: b\nb: a"),
    "too many states": Grammar.lark(
        "start: A\nA: ~/(.|\\n)*a(.|\\n){50}b(.|\\n)*/ & /(.|\\n)*c(.|\\n){60}d(.|\\n)*/"
    ),
}
HEAVY = {
    "a chain of references": Grammar.json_schema(chain(1300)),
    "a chain of terminals": Grammar.lark(lark_chain(3000)),
    "catastrophic": Grammar.regex("(a+)+b"),
    "10^9 repetitions": Grammar.regex("((a{1,1000}){1,1000}){1,1000}"),
    "2^400 states": Grammar.regex("(a|b)*a(a|b){400}c"),
    "a long enum": Grammar.json_schema(json.dumps({"enum": [f"x{i}" for i in range(5000)]})),
    "a huge array": Grammar.json_schema('{"type":"array","minItems":1000000,"items":{}}'),
    "ambiguous": Grammar.lark('start: start start | "a" | '),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_makes_no_sense_is_said_to_be_so(name, guidance):
    grammar = NONSENSE[name]

    with pytest.raises(BadGrammar) as caught:
        guidance.compile(grammar)

    assert isinstance(caught.value, BadSchema) == grammar.is_json
    assert len(str(caught.value)) < 500
    assert caught.value.hint


@pytest.mark.parametrize("name", HEAVY)
def test_what_is_made_to_explode_is_refused_or_can_be_followed(name, guidance, tokenizer):
    with contextlib.suppress(BadGrammar):
        walk(guidance.compile(HEAVY[name]), tokenizer, seed=1, most=12)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 999_983},
        {"type": "number", "multipleOf": 0.0123457},
        {"type": "number", "multipleOf": 1e300},
        {"allOf": [{"type": "integer", "multipleOf": n} for n in (2, 3, 5, 7, 11, 13)]},
        {"properties": {"a": {"multipleOf": 127}, "b": {"items": {"multipleOf": 131}}}},
    ],
)
def test_divisors_with_too_many_remainders_are_refused_before_they_cost_anything(schema, guidance):
    with pytest.raises(BadSchema, match="multipleOf"):
        guidance.compile(Grammar(Kind.JSON_SCHEMA, json.dumps(schema)))


LEAST = -(2**63)  # around it the library's own reading of schemas ends the process


@pytest.mark.parametrize(
    "low", [str(LEAST), str(LEAST + 10), "-9.223372036854775e18", "-1" + "0" * 5000, "-1e300"]
)
@pytest.mark.parametrize(
    "schema",
    [
        '{"const": %d}',
        '{"const": %d, "const": 1}',
        '{"properties": {"a": {"enum": ["b", %d]}}}',
        '{"type": "integer", "minimum": %d, "maximum": 5}',
    ],
)
def test_numbers_that_would_end_the_process_are_refused_also_within_a_grammar(
    low, schema, guidance
):
    text = schema.replace("%d", low)

    with pytest.raises(BadSchema, match="at least"):
        guidance.compile(Grammar(Kind.JSON_SCHEMA, text))
    for space in ("", " ", "\n\t "):
        with pytest.raises(BadGrammar, match="at least"):
            guidance.compile(Grammar(Kind.LARK, f"start: %json{space}{text}"))


def test_a_schema_within_a_grammar_has_the_bounds_of_one_alone(guidance):
    own = json.dumps({"grammars": [{"json_schema": {"const": LEAST}}]})
    with pytest.raises(BadGrammar, match="no Lark"):
        guidance.compile(Grammar(Kind.LARK, own))
    for text in ('%json {"type": "integer", "multipleOf": 999983}', "%json {x"):
        with pytest.raises(BadGrammar, match=r"multipleOf|no JSON"):
            guidance.compile(Grammar(Kind.LARK, f"start: {text}"))


@pytest.mark.parametrize("value", [2**63 - 1, 2**64, -(10**18), 1234567890123456789])
def test_integers_as_ids_have_them_are_followed(value, tokenizer, guidance):
    guide = guidance.compile(Grammar(Kind.JSON_SCHEMA, json.dumps({"const": value})))

    assert allowed(guide, (), tokenizer)


@pytest.mark.parametrize("divisor", [5, 100, 1000, 0.01, 0.25, 1.5])
def test_divisors_as_people_use_them_are_followed(divisor, tokenizer, guidance):
    schema = {"type": "number", "multipleOf": divisor, "minimum": 0, "maximum": 5000}

    guide = guidance.compile(Grammar(Kind.JSON_SCHEMA, json.dumps(schema)))

    assert allowed(guide, (), tokenizer)


async def test_the_loop_goes_on_while_a_heavy_grammar_is_compiled(tokenizer):
    grammars, turns = Grammars(tokenizer), 0
    drawing = Drawing(
        asking(extensions=Extensions(grammar=str(HEAVY["a chain of references"]))), tokenizer
    )
    preparing = asyncio.create_task(grammars.prepare(drawing))

    while not preparing.done():
        await asyncio.sleep(0)
        turns += 1
    await preparing

    assert drawing.guide is not None
    assert turns > 10, "it was not waited for"


async def test_a_session_without_a_grammar_needs_no_guide(tokenizer):
    drawing = Drawing(RESERVE, tokenizer)

    await Grammars(tokenizer).prepare(drawing)

    assert drawing.guide is None


def test_what_is_too_large_never_travels():
    with pytest.raises(BadSchema, match="64 KiB"):
        Grammar.json_schema('{"enum":["' + "x" * (1 << 20) + '"]}')
    with pytest.raises(BadGrammar):
        Grammar.regex("")
    assert len(str(Grammar.regex("x" * (MAX_GRAMMAR_BYTES - 6)))) == MAX_GRAMMAR_BYTES


def test_a_schema_that_is_no_json_never_travels():
    with pytest.raises(BadSchema):
        Grammar.json_schema({"enum": [object()]})


@pytest.mark.parametrize("text", ["", "json", "json_object:{}", "regex:", "lark", "x:y"])
def test_a_kind_that_is_not_known_is_refused_by_name(text):
    with pytest.raises(BadGrammar):
        Grammar.parse(text)


@given(st.sampled_from([Kind.REGEX, Kind.LARK, Kind.JSON_SCHEMA]), st.text(min_size=1))
def test_a_grammar_survives_its_journey(kind, text):
    grammar = Grammar(kind, text)

    assert Grammar.parse(str(grammar)) == grammar


def test_a_model_without_an_end_of_text_follows_no_grammar():
    files = {"tokenizer.json": (TINY / "tokenizer.json").read_bytes()}

    with pytest.raises(UsageError, match="ends an answer"):
        Guidance(Tokenizer(files))
